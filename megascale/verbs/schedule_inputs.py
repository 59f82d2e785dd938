"""From the options of `megascale schedule` to points, a law request and a learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from megascale.errors import ConfigError
from megascale.units import parse_count

if TYPE_CHECKING:
    from megascale.formats.law_file import LawFile
    from megascale.propose.proposal import LawRequest
    from megascale.propose.replan import Standing
    from megascale.propose.schedule_law import ScheduleLaw
    from megascale.schedule.lr import LRSchedule
    from megascale.schedule.points import BatchPoint

LOOKS = 10
"""A law is looked at so often where no interval is given."""


def total_tokens(tokens: str | None, at: Standing | None) -> int:
    """The run's budget, from its option or the running run's config.

    Raises:
        ConfigError: neither says.
    """
    if tokens is not None:
        return parse_count(tokens, "--tokens")
    if at is not None and at.total_tokens is not None:
        return at.total_tokens
    raise ConfigError.of("--tokens", None, "the run's budget must be given", "500B")


def points_of_text(
    table: str | None,
    steps: str | None,
    rampup: str | None,
    global_batch: int | None,
    sequence_length: int,
) -> tuple[tuple[BatchPoint, ...], dict[str, Any]]:
    """Requested batches of a table or of one of Megatron's grammars, and where they come from.

    Raises:
        ScheduleError: the text does not follow its grammar.
        ConfigError: a ramp without its end.
    """
    from megascale.schedule.megatron import parse_rampup, parse_step_schedule
    from megascale.schedule.points import parse_table

    if steps is not None:
        key = "--megatron-steps"
        points = parse_step_schedule(steps, sequence_length=sequence_length, key=key)
        return points, {"kind": "megatron_steps", "text": steps}
    if rampup is not None:
        if global_batch is None:
            raise ConfigError.of("--global-batch-size", None, "says where the ramp ends")
        points = parse_rampup(
            rampup, global_batch, sequence_length=sequence_length, key="--megatron-rampup"
        )
        source = {"kind": "megatron_rampup", "text": rampup, "global_batch_samples": global_batch}
        return points, source
    return parse_table(table, "--table"), {"kind": "schedule", "text": table}


def points_of_rule(
    rule: str,
    *,
    initial: str | None,
    max_batch: str | None,
    switch_at: str | None,
    total: int,
    decay_tokens: int,
    unit_tokens: int,
) -> tuple[tuple[BatchPoint, ...], dict[str, Any]]:
    """Requested batches of a rule that needs no law, and where they come from.

    Raises:
        ConfigError: the rule's first or late batch is not given, or a switch that it has not.
        ScheduleError: as the rules.
    """
    from megascale.schedule.rules import late_points, remaining_points

    if initial is None:
        raise ConfigError.of("--initial", None, f"--rule {rule} begins with this batch", "2M")
    first = parse_count(initial, "--initial")
    most = None if max_batch is None else parse_count(max_batch, "--max-batch")
    source = {"kind": rule, "initial_tokens": first, "max_tokens": most}
    if rule == "remaining":
        if switch_at is not None:
            raise ConfigError.of("--switch-at", switch_at, "is of --rule late")
        points = remaining_points(
            first,
            total_tokens=total,
            decay_tokens=decay_tokens,
            max_tokens=most,
            unit_tokens=unit_tokens,
            key="--rule remaining",
        )
        return points, source
    if most is None:
        raise ConfigError.of("--max-batch", None, "--rule late ends with this batch", 2 * first)
    at = None if switch_at is None else parse_count(switch_at, "--switch-at")
    return late_points(first, most, total_tokens=total, start_tokens=at), source


def law_request(
    path: Path,
    params: str | None,
    model: Path | None,
    interval: str | None,
    momentum: float,
    initial: str | None,
    min_batch: str | None,
    max_batch: str | None,
    *,
    total: int,
) -> LawRequest:
    """The request to follow a law of fixed batches; an interval that is not given is a tenth of
    the budget.

    Raises:
        ConfigError: N is not given, or given twice.
        DataError: the law file cannot be used.
    """
    from megascale.formats.law_file import read_law_file
    from megascale.propose.proposal import LawRequest

    law = read_law_file(path)

    def count(value: str | None, key: str) -> int | None:
        return None if value is None else parse_count(value, key)

    return LawRequest(
        law=law,
        file=str(path),
        n_params=_n(law, params, model),
        interval_tokens=count(interval, "--interval") or max(1, total // LOOKS),
        momentum=momentum,
        initial_tokens=count(initial, "--initial"),
        min_tokens=count(min_batch, "--min-batch"),
        max_tokens=count(max_batch, "--max-batch"),
    )


def _n(law: LawFile, params: str | None, model: Path | None) -> float:
    from megascale.model.config import read_model_config
    from megascale.model.count import count_parameters

    if params is not None and model is not None:
        raise ConfigError.of("--params, --model", "both", "either of them gives N")
    if params is not None:
        return parse_count(params, "--params")
    if model is not None:
        return float(getattr(count_parameters(read_model_config(model)), law.n_kind))
    if law.looks_at_n:
        kind = law.n_kind.replace("_", " ")
        raise ConfigError.of("--params", None, f"law {law.name} needs N ({kind} parameters)", "4B")
    return 1.0


def predicted_size(law: ScheduleLaw, params: str | None) -> float | None:
    """N of the run that is asked about, for a law of whole schedules.

    Raises:
        ConfigError: the law goes over several sizes and none is given, or knows no size.
    """
    seen = law.seen.n_params
    if params is None:
        if not law.sized:
            return None
        rule = "the law goes over several sizes: says which"
        raise ConfigError.of("--params", None, rule, None if seen is None else round(seen[0]))
    if seen is None:
        rule = "means nothing: the runs behind the law do not say their size"
        raise ConfigError.of("--params", params, rule, "leave it out")
    return float(parse_count(params, "--params"))


def one_number(text: str | None, key: str) -> float | None:
    """A number; a range is refused, since nothing is planned.

    Raises:
        ConfigError: it is none.
    """
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        rule = "must be a number; LOW:HIGH is for --optimize" if ":" in text else "must be a number"
        raise ConfigError.of(key, text, rule, text.partition(":")[0] or None) from None


def learning_rate(
    peak: float | None,
    kind: str,
    warmup: str | None,
    decay: str | None,
    shape: str,
    final_ratio: float | None,
    total: int,
) -> LRSchedule | None:
    """The learning rate of the options; None where no peak is given.

    Raises:
        ConfigError: a value breaks a rule of a config's `lr` section.
        ScheduleError: warmup and decay are longer than the run.
    """
    from pydantic import ValidationError

    from megascale.config.messages import error_line
    from megascale.config.rates import build_lr_schedule
    from megascale.config.schedule_sections import LRConfig

    if peak is None:
        if warmup not in (None, "0") or decay not in (None, "0"):
            raise ConfigError.of("--lr", None, "warmup and decay need a peak learning rate", 3e-4)
        return None
    content = {
        "kind": kind,
        "peak": peak,
        "warmup_tokens": warmup or "0",
        "decay_tokens": decay or "0",
        "decay_shape": shape,
        "final_ratio": 0.1 if final_ratio is None else final_ratio,
    }
    try:
        section = LRConfig.model_validate(content)
    except ValidationError as error:
        lines = [error_line(item, LRConfig) for item in error.errors(include_url=False)]
        raise ConfigError("learning rate: " + "; ".join(lines)) from None
    return build_lr_schedule(section, total)
