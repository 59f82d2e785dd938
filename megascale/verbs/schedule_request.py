"""What is asked of a planned schedule: the law, the bounds, the layout, from the options' texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from megascale.errors import ConfigError
from megascale.units import parse_count

if TYPE_CHECKING:
    from megascale.propose.plan_bounds import PlanBounds
    from megascale.propose.replan import Standing
    from megascale.propose.seen_ranges import SeenRanges
    from megascale.propose.step_times import StepTimes
    from megascale.schedule.lr import Shape

GAPS = 20
"""The least distance of changes is this part of the budget where none is given."""


@dataclass(frozen=True, slots=True)
class LawSources:
    """Where the law of whole schedules comes from.

    Attributes:
        file: of `megascale fit --law schedule`; None where it is fitted to logs.
        runs: logs.
    """

    file: Path | None
    runs: Sequence[Path] = ()

    @property
    def words(self) -> str:
        """Where, for the schedule's source."""
        return ", ".join(map(str, [self.file] if self.file else self.runs))


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """The options of a plan, as the user wrote them.

    Attributes:
        objective: tokens, steps, time or cost.
        total: the budget, tokens.
        sequence, micro, ranks, multiple: the layout.
        min_batch, max_batch, lr, warmup, decay, final_ratio: texts; None takes what was seen.
        lr_kind, decay_shape, coupling: of the learning rate.
        weight_decay: of the runs and the plan.
        max_changes, min_gap, shrink: of the batch.
        step_seconds, price, no_worse, beyond_data: of the objective.
        confidence: of the intervals; None is 0.9.
        at: where a running run stands, of which only the rest is planned.
    """

    total: int
    sequence: int
    objective: str = "tokens"
    micro: int = 1
    ranks: int = 1
    multiple: int = 1
    min_batch: str | None = None
    max_batch: str | None = None
    lr: str | None = None
    lr_kind: str = "wsd"
    warmup: str | None = None
    decay: str | None = None
    decay_shape: str | None = None
    final_ratio: str | None = None
    coupling: str = "constant"
    weight_decay: float | None = None
    max_changes: int = 3
    min_gap: str | None = None
    shrink: bool = False
    step_seconds: str | None = None
    price: float | None = None
    no_worse: float = 0.0
    beyond_data: bool = False
    confidence: float | None = None
    at: Standing | None = None

    @property
    def unit(self) -> int:
        """Tokens that every batch is a multiple of."""
        from math import lcm

        return lcm(self.micro * self.ranks, self.multiple) * self.sequence


def bounds_of(request: PlanRequest, seen: SeenRanges) -> PlanBounds:
    """The bounds of the options; what is not given is what the law has seen.

    Raises:
        ConfigError: a range is none, or a learning rate's option does not go with its kind.
    """
    from megascale.propose.plan_bounds import PlanBounds

    total, kind = request.total, request.lr_kind
    if kind != "wsd" and request.decay is not None:
        rule = f"a learning rate of kind {kind} has no decay of its own length"
        raise ConfigError.of("--decay", request.decay, rule, "--lr-kind wsd")
    decay = (0, 0)
    if kind == "wsd" and request.decay is not None:
        low, high = _range(request.decay, "--decay", count=True)
        decay = (int(low), int(high))
    elif kind == "wsd" and seen.decay_share is not None:
        decay = (round(seen.decay_share[0] * total), round(seen.decay_share[1] * total))
    final = seen.final_ratio or (0.1, 0.1)
    if request.final_ratio is not None:
        final = _range(request.final_ratio, "--final-ratio")
    batch = seen.batch
    if (decay[1] > 0 or kind == "cosine") and seen.batch_decayed is not None:
        batch = seen.batch_decayed
    unit = request.unit
    least = -(-round(batch[0]) // unit) * unit
    most = max(round(batch[1]) // unit * unit, least)
    if request.min_batch is not None:
        least = parse_count(request.min_batch, "--min-batch")
    if request.max_batch is not None:
        most = parse_count(request.max_batch, "--max-batch")
    warmup = min(round(seen.warmup_tokens), total // 2)
    if request.warmup is not None:
        warmup = parse_count(request.warmup, "--warmup")
    gap = max((total - (0 if request.at is None else request.at.tokens)) // GAPS, 1)
    made = PlanBounds(
        total_tokens=total,
        unit_tokens=unit,
        batch=(least, most),
        peak=seen.peak if request.lr is None else _range(request.lr, "--lr"),
        max_changes=request.max_changes,
        min_gap=gap if request.min_gap is None else parse_count(request.min_gap, "--min-gap"),
        direction="any" if request.shrink else "up",
        lr_kind=kind,  # type: ignore[arg-type]
        warmup_tokens=warmup,
        decay_tokens=decay,
        final_ratio=final,
        shapes=_shapes(request, seen),
        coupling=request.coupling,  # type: ignore[arg-type]
        weight_decay=request.weight_decay or 0.0,
    )
    return made if request.at is None else _bounds_of_rest(made, request, request.at)


def _shapes(request: PlanRequest, seen: SeenRanges) -> tuple[Shape, ...]:
    """Shapes of the decay: the one that is asked for, else those that the law has seen."""
    if request.decay_shape is not None:
        return (request.decay_shape,)  # type: ignore[return-value]
    return seen.shapes or ("linear",)


def _bounds_of_rest(bounds: PlanBounds, request: PlanRequest, at: Standing) -> PlanBounds:
    """The bounds of a running run's rest: its batches so far, its learning rate's warmup and peak,
    and its decay unless another is asked for.

    Raises:
        ConfigError: the run's config does not say its learning rate, or the option changes what
            has been run.
    """
    for key, given in (("--lr", request.lr), ("--warmup", request.warmup)):
        if given is not None:
            raise ConfigError.of(key, given, "has been run already; the run's own holds")
    peak, kind = at.lr.get("peak"), at.lr.get("kind")
    if not isinstance(peak, float) or kind not in ("wsd", "constant"):
        rule = "must have a config beside its log that says a learning rate of kind wsd or constant"
        raise ConfigError.of("--replan", at.path, rule)
    decay, final = bounds.decay_tokens, bounds.final_ratio
    if request.decay is None:
        decay = (int(at.lr.get("decay_tokens") or 0),) * 2
    if request.final_ratio is None:
        own = at.lr.get("final_lr")
        ratio = at.lr.get("final_ratio", 0.1) if own is None else own / peak
        final = (float(ratio),) * 2
    left = bounds.total_tokens - at.tokens
    if request.decay is not None and decay[1] > left:
        raise ConfigError.of("--decay", request.decay, "longer than what is left of the run", left)
    past = tuple(
        (point.start_tokens, point.batch_tokens)
        for point in at.history
        if point.start_tokens < max(at.tokens, 1)
    )
    return replace(
        bounds,
        lr_kind=kind,
        peak=(peak, peak),
        warmup_tokens=int(at.lr.get("warmup_tokens") or 0),
        decay_tokens=decay,
        final_ratio=final,
        past=past,
        start_tokens=at.tokens,
    )


def step_times_of(text: str | None) -> StepTimes | None:
    """Step times of a table or of logs; None where nothing is given.

    Raises:
        ScheduleError: neither, or logs without the seconds of a step.
    """
    from megascale.propose.step_times import logged_step_times, parse_step_seconds
    from megascale.runs.table import load_runs

    if text is None:
        return None
    if Path(text).exists():
        return logged_step_times(load_runs([text]))
    return parse_step_seconds(text)


def _range(text: str, key: str, *, count: bool = False) -> tuple[float, float]:
    """`LOW:HIGH`, or one value twice."""
    low, colon, high = text.partition(":")
    values = []
    for part in (low, high if colon else low):
        try:
            values.append(float(parse_count(part, key)) if count else float(part))
        except ValueError:
            raise ConfigError.of(key, text, "must be a number, or LOW:HIGH") from None
    if not 0 <= values[0] <= values[1] < float("inf"):
        nearest = f"{high}:{low}" if colon else None
        raise ConfigError.of(key, text, "must be positive, the lower end first", nearest)
    return values[0], values[1]
