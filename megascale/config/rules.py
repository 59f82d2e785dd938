"""Rules between keys that need no layout: each broken one becomes a line for the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from megascale.config.init_section import init_problems
from megascale.config.parameter_groups import group_problems, method_problems
from megascale.config.rates import build_lr_schedule, build_remaining_points
from megascale.config.sections import RunConfig
from megascale.errors import ConfigError, ScheduleError, UserError
from megascale.model.count import parameter_shapes
from megascale.plan.layout import check_balance_window
from megascale.schedule.megatron import parse_step_schedule, rampup_points
from megascale.schedule.points import point_problems
from megascale.units import format_count

WEIGHT_TOLERANCE = 1e-9


def broken_rules(config: RunConfig) -> list[str]:
    """One message for each rule between keys that `config` breaks; empty when it is sound."""
    checks = (
        _budget,
        _batch,
        _learning_rate,
        _weight_decay,
        _mixtures,
        _intervals,
        _model,
        _optimizer,
        init_problems,
    )
    return [str(error) for check in checks for error in check(config)]


def _budget(config: RunConfig) -> Iterator[UserError]:
    train = config.train
    smallest = train.micro_batch_size * train.sequence_length
    if train.total_tokens < smallest:
        yield ConfigError.of(
            "train.total_tokens",
            train.total_tokens,
            f"shorter than one micro-batch of one rank: micro_batch_size {train.micro_batch_size} "
            f"x sequence_length {train.sequence_length}",
            smallest,
        )


def _batch(config: RunConfig) -> Iterator[UserError]:
    batch = config.batch
    sources = ("schedule", "law", "remaining", "megatron_rampup", "megatron_steps")
    given = [name for name in sources if getattr(batch, name) is not None]
    if len(given) != 1:
        yield ConfigError.of(
            "batch",
            " and ".join(given) or "(no schedule)",
            f"exactly one of {', '.join(sources)} says how large the batch is",
            given or [f"batch.schedule: '0: {format_count(_usual_batch(config))}'"],
        )
    if batch.law is None and len(given) == 1:
        yield from _batch_points(config, f"batch.{given[0]}")
    if batch.law is not None:
        low, high = batch.law.min_tokens, batch.law.max_tokens
        if low is not None and high is not None and low > high:
            yield ConfigError.of(
                "batch.law.min_tokens", low, f"must not exceed batch.law.max_tokens = {high}", high
            )
    if batch.reference_tokens is not None and batch.lr_coupling == "constant":
        yield ConfigError.of(
            "batch.reference_tokens",
            batch.reference_tokens,
            "has no meaning while batch.lr_coupling is constant",
            "null",
        )


def _usual_batch(config: RunConfig) -> int:
    """A batch of whole micro-batches, in tokens, that takes a thousand steps for the run."""
    unit = config.train.micro_batch_size * config.train.sequence_length
    return unit * max(1, round(config.train.total_tokens / 1000 / unit))


def _batch_points(config: RunConfig, key: str) -> Iterator[UserError]:
    batch, length = config.batch, config.train.sequence_length
    try:
        if batch.remaining is not None:
            points = build_remaining_points(batch.remaining, config.lr, config.train.total_tokens)
        elif batch.megatron_rampup is not None:
            points = rampup_points(**batch.megatron_rampup.model_dump(), sequence_length=length)
        elif batch.megatron_steps is not None:
            points = parse_step_schedule(batch.megatron_steps, sequence_length=length)
        else:
            points = batch.schedule or ()
    except ScheduleError as error:
        yield error
        return
    yield from point_problems(points, config.train.total_tokens, key)


def _learning_rate(config: RunConfig) -> Iterator[UserError]:
    problems = list(_learning_rate_keys(config))
    yield from problems
    if not problems:
        try:
            build_lr_schedule(config.lr, config.train.total_tokens)
        except ScheduleError as error:
            yield error


def _learning_rate_keys(config: RunConfig) -> Iterator[UserError]:
    lr, total = config.lr, config.train.total_tokens
    tail = lr.kind in ("wsd", "inverse_sqrt", "power")
    if lr.warmup_tokens > total:
        yield ConfigError.of(
            "lr.warmup_tokens",
            format_count(lr.warmup_tokens),
            f"longer than the run of {format_count(total)} tokens",
            format_count(total),
        )
    elif tail and lr.warmup_tokens + lr.decay_tokens > total:
        yield ConfigError.of(
            "lr.decay_tokens",
            format_count(lr.decay_tokens),
            f"warmup {format_count(lr.warmup_tokens)} + decay {format_count(lr.decay_tokens)} is "
            f"longer than the run of {format_count(total)} tokens",
            format_count(total - lr.warmup_tokens),
        )
    if not tail and lr.decay_tokens:
        yield ConfigError.of(
            "lr.decay_tokens",
            format_count(lr.decay_tokens),
            f"kind {lr.kind} has no decay phase of its own length",
            0,
        )
    ends = lr.kind == "cosine" or (tail and lr.decay_tokens > 0)
    if lr.final_lr is not None:
        if lr.final_lr > lr.peak:
            yield ConfigError.of(
                "lr.final_lr", lr.final_lr, f"must not exceed lr.peak = {lr.peak}", lr.peak
            )
        if not ends:
            yield ConfigError.of(
                "lr.final_lr", lr.final_lr, "has no meaning without a decay", "null"
            )
        if lr.final_ratio != type(lr).model_fields["final_ratio"].default:
            yield ConfigError.of(
                "lr.final_ratio", lr.final_ratio, "give final_ratio or final_lr, not both"
            )
    final = lr.peak * lr.final_ratio if lr.final_lr is None else lr.final_lr
    if ends and tail and lr.decay_shape == "exponential" and final == 0:
        yield ConfigError.of(
            "lr.decay_shape",
            lr.decay_shape,
            "an exponential decay never reaches 0: the final learning rate must be positive",
            "linear",
        )
    if lr.kind == "inverse_sqrt" and lr.warmup_tokens == 0:
        yield ConfigError.of(
            "lr.warmup_tokens", 0, "kind inverse_sqrt takes its time scale from the warmup", 1
        )
    for key in ("power_coefficient", "power_exponent"):
        value = getattr(lr, key)
        if (lr.kind == "power") != (value is not None):
            rule = "is required for" if lr.kind == "power" else "has meaning only for"
            yield ConfigError.of(f"lr.{key}", value, f"{rule} kind power")


def _weight_decay(config: RunConfig) -> Iterator[UserError]:
    decay = config.weight_decay
    moves = decay.schedule != "constant"
    if moves and decay.end_value is None:
        yield ConfigError.of(
            "weight_decay.end_value", None, f"schedule {decay.schedule} needs it", decay.value
        )
    if not moves and decay.end_value is not None:
        yield ConfigError.of(
            "weight_decay.end_value",
            decay.end_value,
            "has no meaning while weight_decay.schedule is constant",
            "null",
        )


def _mixtures(config: RunConfig) -> Iterator[UserError]:
    data, total = config.data, config.train.total_tokens
    previous = -1
    used: set[str] = set()
    for index, phase in enumerate(data.phases):
        key = f"data.phases.{index}"
        start = phase.start_tokens
        if index == 0 and start != 0:
            yield ConfigError.of(f"{key}.start_tokens", start, "the first phase starts at 0", 0)
        elif start <= previous:
            yield ConfigError.of(
                f"{key}.start_tokens",
                format_count(start),
                f"must be after the phase before, which starts at {format_count(previous)}",
                format_count(previous + 1),
            )
        if start >= total:
            yield ConfigError.of(
                f"{key}.start_tokens",
                format_count(start),
                f"must lie inside the run of {format_count(total)} tokens",
                format_count(total - 1),
            )
        previous = start
        used |= phase.mixture.keys()
        yield from _mixture(f"{key}.mixture", phase.mixture, list(data.sources))
    for name in data.sources:
        if name not in used:
            yield ConfigError.of(
                f"data.sources.{name}",
                data.sources[name].path,
                "no phase uses this source; give it a weight in a mixture, or null to drop it",
            )


def _mixture(key: str, mixture: dict[str, float], sources: list[str]) -> Iterator[UserError]:
    for name in mixture:
        if name not in sources:
            close = difflib.get_close_matches(name, sources, n=1, cutoff=0.0)
            yield ConfigError.of(
                f"{key}.{name}", mixture[name], "no such source in data.sources", close
            )
    total = sum(mixture.values())
    if abs(total - 1) > WEIGHT_TOLERANCE:
        nearest = None
        if total > 0:
            nearest = ", ".join(f"{name}: {w / total:.12g}" for name, w in mixture.items())
        yield ConfigError.of(key, mixture, f"weights must sum to 1, not {total:.12g}", nearest)


def _intervals(config: RunConfig) -> Iterator[UserError]:
    for name in ("log", "checkpoint"):
        section = getattr(config, name)
        if section.interval_tokens is not None and section.interval_steps is not None:
            yield ConfigError.of(
                f"{name}.interval_steps",
                section.interval_steps,
                f"give {name}.interval_tokens or {name}.interval_steps, not both",
                "null",
            )
    if config.log.interval_tokens is None and config.log.interval_steps is None:
        yield ConfigError.of("log.interval_steps", None, "a run is logged at some interval", 1)
    if config.train.eval_interval_tokens is not None and not config.data.validation:
        yield ConfigError.of(
            "train.eval_interval_tokens",
            format_count(config.train.eval_interval_tokens),
            "there is nothing to evaluate: data.validation names no source",
            "null",
        )
    for name in ("eval_at_start", "eval_tokens", "eval_sequence_length"):
        value = getattr(config.train, name)
        if value and not config.data.validation:
            rule = "there is nothing to evaluate: data.validation names no source"
            nearest = "false" if name == "eval_at_start" else "null"
            yield ConfigError.of(f"train.{name}", value, rule, nearest)
    if config.data.eos_id is not None and not config.data.mask_documents:
        yield ConfigError.of(
            "data.eos_id", config.data.eos_id, "is used by data.mask_documents: true only", "null"
        )


def _optimizer(config: RunConfig) -> Iterator[UserError]:
    names = [name for name, _ in parameter_shapes(config.model)]
    yield from group_problems(names, config.optimizer.groups)
    yield from method_problems(names, config.optimizer)
    optimizer = config.optimizer
    default = type(optimizer).model_fields["beta2"].default
    if optimizer.beta2_half_life_tokens is not None and optimizer.beta2 != default:
        rule = "give optimizer.beta2 or optimizer.beta2_half_life_tokens, not both"
        yield ConfigError.of("optimizer.beta2", optimizer.beta2, rule, default)


def _model(config: RunConfig) -> Iterator[UserError]:
    model, train = config.model, config.train
    longest = model.max_position_embeddings
    lengths = [("train.sequence_length", train.sequence_length)]
    if train.eval_sequence_length is not None:
        lengths.append(("train.eval_sequence_length", train.eval_sequence_length))
    for point in config.batch.schedule or ():
        if point.sequence_length is not None:
            at = f"batch.schedule (sequence length at {format_count(point.start_tokens)})"
            lengths.append((at, point.sequence_length))
    for key, length in lengths:
        if length > longest:
            yield ConfigError.of(
                key, length, f"longer than model.max_position_embeddings = {longest}", longest
            )
    balance = config.moe_balance
    if balance.window_tokens is not None and balance.window_loads == "own":
        cut = {train.sequence_length} | {
            point.sequence_length
            for point in config.batch.schedule or ()
            if point.sequence_length is not None
        }
        try:
            check_balance_window(
                balance.window_tokens,
                {train.micro_batch_size * length for length in cut},
                train.micro_batch_size * max(cut),
                trails=False,
            )
        except UserError as error:
            yield error
    if model.expert_bias != (balance.bias_update_per_million_tokens > 0):
        yield ConfigError.of(
            "moe_balance.bias_update_per_million_tokens",
            balance.bias_update_per_million_tokens,
            "is positive exactly when model.expert_bias is true; model.expert_bias = "
            f"{str(model.expert_bias).lower()}",
        )
    if train.largest_micro_batch != (train.max_micro_batch_size or train.micro_batch_size):
        yield ConfigError.of(
            "train.max_micro_batch_size",
            train.max_micro_batch_size,
            f"smaller than train.micro_batch_size = {train.micro_batch_size}",
            train.micro_batch_size,
        )
    for key in ("expert_kernel", "moe_router_dtype"):
        value, default = getattr(train, key), type(train).model_fields[key].default
        if value != default and not model.is_moe:
            rule = "is for models with routed experts only"
            yield ConfigError.of(f"train.{key}", value, rule, default)
    if train.matmul_library == "onednn" and train.precision == "bf16":
        rule = "is about fp32 products, and train.precision is bf16"
        yield ConfigError.of("train.matmul_library", train.matmul_library, rule, "auto")
    parallel = config.parallel
    if parallel.data_mode != "hsdp" and parallel.hsdp_replicate != 1:
        yield ConfigError.of(
            "parallel.hsdp_replicate", parallel.hsdp_replicate, "is for data_mode hsdp only", 1
        )
    if parallel.data == 0:
        yield ConfigError.of("parallel.data", 0, "a degree is at least 1; -1 fills", [-1, 1])
