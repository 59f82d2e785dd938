"""Megatron-LM's command line as a schedule: batch and learning rate by tokens.

The rules are those of `megatron/core/optimizer_param_scheduler.py` and
`num_microbatches_calculator.py`: everything is counted in samples. Arguments that have nothing to
do with batch or learning rate are passed over; those that would change them and are not known
here are refused by name.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megascale.errors import ConfigError
from megascale.fitting.history import History
from megascale.formats.schedule_law_file import SettingsOfRuns
from megascale.schedule.megatron import parse_rampup, parse_step_schedule
from megascale.schedule.points import BatchPoint
from megascale.units import CountError, read_count

MOST_BYTES = 2**20
STYLES = ("constant", "linear", "cosine", "inverse-square-root", "WSD")
ANNEALS = ("exponential", "linear", "cosine", "minus_sqrt")
WEIGHT_DECAY = 0.01
"""Megatron's own default."""
SAMPLES = 256
"""Even cuts of a run whose learning rate curves."""

_READ = {
    "--seq-length", "--global-batch-size", "--rampup-batch-size", "--step-batch-size-schedule",
    "--train-iters", "--train-samples", "--lr", "--min-lr", "--lr-decay-style",
    "--lr-decay-iters", "--lr-decay-samples", "--lr-wsd-decay-style", "--lr-wsd-decay-iters",
    "--lr-wsd-decay-samples", "--lr-warmup-iters", "--lr-warmup-samples", "--lr-warmup-fraction",
    "--lr-warmup-init", "--weight-decay", "--optimizer", "--adam-beta1", "--adam-beta2",
}  # fmt: skip
_HARMLESS = {
    "--micro-batch-size", "--eval-micro-batch-size", "--eval-global-batch-size",
    "--dataloader-type", "--log-learning-rate-to-tensorboard", "--log-batch-size-to-tensorboard",
    "--no-log-learning-rate-to-tensorboard", "--no-log-learnig-rate-to-tensorboard",
    "--no-weight-decay-cond-type",
}  # fmt: skip
_MEANING = ("lr", "batch", "rampup", "warmup", "decay", "anneal", "learning", "scheduler", "phase")
"""Words in the name of an argument that says something of batch or learning rate."""


@dataclass(frozen=True, slots=True)
class MegatronRun:
    """What a command line says of a run.

    Attributes:
        history: batch and learning rate by tokens.
        settings: what else it says.
    """

    history: History
    settings: SettingsOfRuns


def read_megatron_arguments(text: str, name: str = "") -> MegatronRun:
    """The schedule of a Megatron-LM command line.

    Args:
        text: arguments as in a shell script: comments, line continuations and quotes; words before
            the first argument are passed over.
        name: of the run.

    Raises:
        ConfigError: an argument is missing, is no number, or would change batch or learning rate
            in a way that is not known here; lengths in iterations beside a batch that changes.
    """
    given = _arguments(text)
    length = _count(given, "--seq-length", needed=True)
    assert length is not None
    points = _batches(given, length)
    fixed = points[0].batch_tokens // length if len(points) == 1 else None
    samples = _samples(given, "train", fixed, needed=True)
    assert samples is not None
    rate = _rate(given, samples, fixed)
    total = samples * length
    late = [point.start_tokens for point in points if point.start_tokens >= total]
    batches = [
        (point.start_tokens, point.batch_tokens) for point in points if point.start_tokens < total
    ]
    if not batches or (late and "--rampup-batch-size" not in given):
        rule = f"lies at or after the end of the run, {total:,} tokens"
        raise ConfigError.of("--step-batch-size-schedule", f"{late[0]:,}", rule, total - 1)
    stated = _number(given, "--weight-decay")
    weight_decay = WEIGHT_DECAY if stated is None else stated
    history = History.of_schedule(
        batches,
        lambda tokens: rate(tokens / length),
        total,
        marks=_marks(given, samples, fixed, length),
        weight_decay=weight_decay,
        samples=SAMPLES,
        name=name,
    )
    return MegatronRun(history, _settings(given, length, weight_decay))


def _arguments(text: str) -> dict[str, str]:
    """Values by argument; an argument without one has an empty value."""
    if len(text) > MOST_BYTES:
        raise ConfigError.of("--megatron-args", f"{len(text):,} characters", "is no argument list")
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ConfigError.of("--megatron-args", "text", f"cannot be split: {error}") from None
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            found[name] = value if equals else ""
        elif name:
            found[name] = f"{found[name]} {word}".strip()
    for name, value in found.items():
        unread = name not in _READ and name not in _HARMLESS
        parts = name.strip("-").replace("_", "-").split("-")
        if unread and any(part in _MEANING for part in parts):
            rule = "may change batch or learning rate, and is not known here"
            raise ConfigError.of(name, value or "(given)", rule, "leave it out")
        if name in _READ and "$" in value:
            raise ConfigError.of(name, value, "is a shell variable; write its value", "a number")
    return found


def _batches(given: dict[str, str], length: int) -> tuple[BatchPoint, ...]:
    size = _count(given, "--global-batch-size")
    steps, ramp = given.get("--step-batch-size-schedule"), given.get("--rampup-batch-size")
    if steps is not None:
        for other, value in (("--global-batch-size", size), ("--rampup-batch-size", ramp)):
            if value is not None:
                rule = "Megatron takes it or --step-batch-size-schedule, not both"
                raise ConfigError.of(other, value, rule, "leave it out")
        return parse_step_schedule(steps, sequence_length=length, key="--step-batch-size-schedule")
    if size is None:
        raise ConfigError.of("--global-batch-size", None, "says how large the batch is", 512)
    if ramp is not None:
        return parse_rampup(ramp, size, sequence_length=length)
    return (BatchPoint(0, size * length),)


def _samples(
    given: dict[str, str], what: str, fixed: int | None, *, needed: bool = False
) -> int | None:
    """A length in samples, from --WHAT-samples or, at a fixed batch, --WHAT-iters."""
    samples, iters = _count(given, f"--{what}-samples"), _count(given, f"--{what}-iters")
    if samples is not None and iters is not None:
        rule = f"Megatron takes it or --{what}-samples, not both"
        raise ConfigError.of(f"--{what}-iters", iters, rule, "leave it out")
    if samples is not None:
        return samples
    if iters is None:
        if needed:
            raise ConfigError.of(f"--{what}-samples", None, "says how long the run is", 1_000_000)
        return None
    if fixed is None:
        rule = "iterations are converted to samples by another batch than the schedule's"
        raise ConfigError.of(f"--{what}-iters", iters, rule, f"--{what}-samples")
    return iters * fixed


def _lengths(given: dict[str, str], samples: int, fixed: int | None) -> tuple[int, float, float]:
    """(samples of the whole decay, of the warmup, of the WSD anneal)."""
    decay = _samples(given, "lr-decay", fixed)
    decay = samples if decay is None else decay
    warmup = float(_samples(given, "lr-warmup", fixed) or 0)
    fraction = _number(given, "--lr-warmup-fraction")
    if fraction is not None:
        if warmup:
            rule = "Megatron takes it or a warmup of its own length, not both"
            raise ConfigError.of("--lr-warmup-fraction", fraction, rule, "leave it out")
        if not 0 <= fraction < 1:
            raise ConfigError.of("--lr-warmup-fraction", fraction, "must be below 1", 0.01)
        warmup = fraction * decay
    if warmup >= decay:
        rule = f"must be below the decay's length, {decay:,} samples"
        raise ConfigError.of("--lr-warmup-samples", f"{warmup:g}", rule, decay - 1)
    anneal = float(_samples(given, "lr-wsd-decay", fixed) or 0)
    return decay, warmup, anneal


def _rate(given: dict[str, str], samples: int, fixed: int | None) -> Callable[[float], float]:
    """Learning rate at consumed samples (`OptimizerParamScheduler.get_lr`)."""
    decay, warmup, anneal = _lengths(given, samples, fixed)
    peak, low = _number(given, "--lr", needed=True), _number(given, "--min-lr") or 0.0
    begin = _number(given, "--lr-warmup-init") or 0.0
    assert peak is not None
    for key, value in (("--min-lr", low), ("--lr-warmup-init", begin)):
        if not 0 <= value <= peak:
            raise ConfigError.of(key, value, f"must be between 0 and --lr {peak:g}", peak)
    style = _choice(given, "--lr-decay-style", STYLES, "linear")
    shape = _choice(given, "--lr-wsd-decay-style", ANNEALS, "exponential")
    if style == "WSD" and not 0 < anneal <= decay - warmup:
        rule = f"WSD needs it, and at most {decay - warmup:g} samples after the warmup"
        shown = anneal if anneal else None
        raise ConfigError.of("--lr-wsd-decay-samples", shown, rule, max(round(decay - warmup), 1))

    def at(consumed: float) -> float:
        if warmup > 0 and consumed <= warmup:
            return begin + (peak - begin) * consumed / warmup
        if style == "constant":
            return peak
        if consumed > decay:
            return low
        if style == "inverse-square-root":
            return max(low, peak * math.sqrt(max(warmup, 1.0)) / math.sqrt(max(consumed, 1.0)))
        progress = (consumed - warmup) / (decay - warmup)
        if style == "linear":
            share = 1 - progress
        elif style == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            share = annealed(max(0.0, (consumed - decay + anneal) / anneal), shape)
        return low + share * (peak - low)

    return at


def annealed(progress: float, shape: str) -> float:
    """What is left of the peak above the lowest rate in Megatron's WSD anneal."""
    if shape == "linear":
        return 1 - progress
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if shape == "minus_sqrt":
        return 1 - math.sqrt(progress)
    return 2 * 0.5**progress - 1


def _marks(given: dict[str, str], samples: int, fixed: int | None, length: int) -> list[float]:
    """Token counts where the learning rate has a corner."""
    decay, warmup, anneal = _lengths(given, samples, fixed)
    corners = [warmup, decay, decay - anneal if anneal else warmup]
    return [corner * length for corner in corners if 0 < corner < samples]


def _settings(given: dict[str, str], length: int, weight_decay: float) -> SettingsOfRuns:
    name = given.get("--optimizer", "adam")
    betas = [_number(given, f"--adam-beta{i}") or default for i, default in ((1, 0.9), (2, 0.999))]
    adam = f"adamw with beta1 {betas[0]:g}, beta2 {betas[1]:g}"
    return SettingsOfRuns(
        weight_decay=weight_decay,
        optimizer=adam if name == "adam" else name,
        sequence_length=length,
    )


def _choice(given: dict[str, str], key: str, allowed: Sequence[str], default: str) -> str:
    value = given.get(key, default)
    if value not in allowed:
        raise ConfigError.of(key, value, f"must be one of {', '.join(allowed)}", default)
    return value


def _count(given: dict[str, str], key: str, *, needed: bool = False) -> int | None:
    if key not in given:
        if needed:
            raise ConfigError.of(key, None, "is not among the arguments", 4096)
        return None
    try:
        value = read_count(given[key])
    except CountError as error:
        raise ConfigError.of(key, given[key], error.rule, error.nearest) from None
    if value < 1 and not key.startswith("--lr-warmup"):
        raise ConfigError.of(key, value, "must be at least 1", 1)
    return value


def _number(given: dict[str, str], key: str, *, needed: bool = False) -> float | None:
    if key not in given:
        if needed:
            raise ConfigError.of(key, None, "is not among the arguments", 3e-4)
        return None
    try:
        value = float(given[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ConfigError.of(key, given[key], "must be a number that is not negative", 0.1)
    return value
