"""Which schedules a planner may choose: the user's bounds, the layout's and what a law has seen."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Literal

from megascale.errors import ScheduleError
from megascale.propose.schedule_plan import SchedulePlan
from megascale.propose.seen_ranges import SLACK, SeenRanges, is_inside, range_words, unseen_by_runs
from megascale.schedule.batch import Coupling
from megascale.schedule.lr import LRSchedule, Shape
from megascale.units import format_count, short_count

Direction = Literal["up", "any"]
Kind = Literal["wsd", "cosine", "constant"]


@dataclass(frozen=True, slots=True)
class PlanBounds:
    """Bounds of a planned run; the fixed batch that it is compared with has the same.

    Attributes:
        total_tokens: the budget.
        unit_tokens: what every batch is a whole multiple of: micro-batch x sequence length x
            data-parallel degree.
        batch: smallest and largest batch, multiples of the unit.
        max_changes: most changes of the batch.
        min_gap: least tokens between two changes, and from a change to either end.
        direction: `up`: the batch never shrinks.
        lr_kind: of the learning rate; only wsd has a decay of its own length.
        warmup_tokens: of the learning rate.
        peak, decay_tokens, final_ratio: lowest and highest; equal where they are not planned.
        shapes: of the decay.
        coupling: how the learning rate follows the batch.
        weight_decay: of every step.
        n_params: parameters of the model, for laws over several sizes.
        past: (start_tokens, batch_tokens) of a running run up to now; every plan begins with it,
            and no bound is held against it.
        start_tokens: where the run stands; what is planned lies beyond.
    """

    total_tokens: int
    unit_tokens: int
    batch: tuple[int, int]
    peak: tuple[float, float]
    max_changes: int = 3
    min_gap: int = 1
    direction: Direction = "up"
    lr_kind: Kind = "wsd"
    warmup_tokens: int = 0
    decay_tokens: tuple[int, int] = (0, 0)
    final_ratio: tuple[float, float] = (0.1, 0.1)
    shapes: tuple[Shape, ...] = ("linear",)
    coupling: Coupling = "constant"
    weight_decay: float = 0.0
    n_params: float | None = None
    past: tuple[tuple[int, int], ...] = ()
    start_tokens: int = 0

    @property
    def decays(self) -> bool:
        """Whether a plan may have a decay."""
        return self.lr_kind == "cosine" or self.decay_tokens[1] > 0

    @property
    def plans_lr(self) -> bool:
        """Whether anything of the learning rate is left to the planner."""
        ranges = (self.peak, self.decay_tokens, self.final_ratio)
        return len(self.shapes) > 1 or any(low < high for low, high in ranges)

    def lr(self, peak: float, decay_tokens: int, final_ratio: float, shape: Shape) -> LRSchedule:
        """The learning rate of a plan."""
        decay = decay_tokens
        if self.lr_kind != "wsd":
            decay = self.total_tokens - self.warmup_tokens if self.lr_kind == "cosine" else 0
        return LRSchedule(
            kind=self.lr_kind,
            peak=peak,
            total_tokens=self.total_tokens,
            warmup_tokens=self.warmup_tokens,
            decay_tokens=decay,
            decay_shape="cosine" if self.lr_kind == "cosine" else shape,
            final=peak * final_ratio,
        )

    def plan(self, batches: tuple[tuple[int, int], ...], lr: LRSchedule) -> SchedulePlan:
        """A planned run of these bounds' coupling and weight decay."""
        return SchedulePlan(batches, lr, self.coupling, self.weight_decay, self.n_params)

    def ladder(self, ratio: float) -> tuple[int, ...]:
        """Batches from the smallest to the largest, about `ratio` apart, each a multiple of the
        unit; both ends are in it."""
        low, high = self.batch
        many = max(1, round(math.log(high / low, ratio))) if high > low else 0
        rungs = [low * (high / low) ** (i / many) for i in range(many + 1)] if many else [low]
        found = {round(rung / self.unit_tokens) * self.unit_tokens for rung in rungs}
        return tuple(sorted({low, high} | {size for size in found if low <= size <= high}))

    def allows(self, plan: SchedulePlan) -> bool:
        """Whether a plan keeps the bounds on batches and on the tokens between changes."""
        known = len(self.past)
        if plan.batches[:known] != self.past or plan.batches[0][0] != 0:
            return False
        sizes = [size for _, size in plan.batches[known:]]
        if len(sizes) - (not known) > self.max_changes:
            return False
        if any(not self.batch[0] <= size <= self.batch[1] for size in sizes):
            return False
        pairs = list(itertools.pairwise([*(size for _, size in self.past[-1:]), *sizes]))
        if any(after == before for before, after in pairs):
            return False
        if self.direction == "up" and any(after < before for before, after in pairs):
            return False
        starts = [start for start, _ in plan.batches[known:]]
        if known and starts and starts[0] < self.start_tokens:
            return False
        edges = [*starts, self.total_tokens]
        if len(edges) == 1 or (not known and len(edges) == 2):
            return True
        return min(b - a for a, b in itertools.pairwise(edges)) >= self.min_gap

    @property
    def places(self) -> tuple[int, int]:
        """Tokens between which a switch may lie."""
        first = self.start_tokens if self.past else self.min_gap
        return first, self.total_tokens - self.min_gap


def checked_bounds(bounds: PlanBounds) -> PlanBounds:
    """The bounds with batches rounded inwards to whole multiples of the unit.

    Raises:
        ScheduleError: no batch, no decay or no rate is left, or the tokens between changes leave
            no room for one.
    """
    unit, (low, high) = bounds.unit_tokens, bounds.batch
    least, most = -(-low // unit) * unit, high // unit * unit
    if least > most:
        around = [format_count(size) for size in sorted({max(most, unit), least})]
        rule = f"no batch in it is a multiple of {format_count(unit)} tokens, which the layout runs"
        raise ScheduleError.of("--min-batch, --max-batch", f"{low} to {high}", rule, around)
    if most > bounds.total_tokens:
        raise ScheduleError.of(
            "--max-batch", high, "is larger than the run", format_count(bounds.total_tokens)
        )
    room = bounds.total_tokens - bounds.warmup_tokens
    for key, (lower, upper), top in (
        ("--lr", bounds.peak, math.inf),
        ("--decay", bounds.decay_tokens, room),
        ("--final-ratio", bounds.final_ratio, 1.0),
    ):
        if lower > upper or lower < 0 or upper > top:
            rule = f"the lower end must not be above the upper one, nor the upper above {top:g}"
            raise ScheduleError.of(key, f"{lower:g}:{upper:g}", rule)
    left = bounds.total_tokens - bounds.start_tokens
    if bounds.max_changes and not 1 <= bounds.min_gap <= left // 2:
        rule = "must leave room for a change within the run"
        nearest = format_count(max(left // 20, 1))
        raise ScheduleError.of("--min-gap", bounds.min_gap, rule, nearest)
    return replace(bounds, batch=(least, most))


def clip_to_seen(bounds: PlanBounds, seen: SeenRanges) -> tuple[PlanBounds, tuple[str, ...]]:
    """The bounds within what a law's runs have shown, and what was cut off, in words.

    Raises:
        ScheduleError: nothing is left of a range, or the budget is beyond the longest run.
    """
    said: list[str] = []
    if bounds.total_tokens > seen.tokens * (1 + SLACK):
        raise _unseen(
            "--tokens",
            format_count(bounds.total_tokens),
            f"the law's longest run has {short_count(round(seen.tokens))} tokens",
            format_count(int(seen.tokens)),
        )
    batch_range = seen.batch
    if bounds.decays:
        if seen.batch_decayed is None or seen.decay_share is None or seen.final_ratio is None:
            raise _unseen(
                "--decay",
                format_count(bounds.decay_tokens[1]),
                "no run behind the law has a decay: add one, or plan without",
                0,
            )
        batch_range = seen.batch_decayed
    batch = _cut("batch", bounds.batch, batch_range, said, "--min-batch, --max-batch", whole=True)
    peak = _cut("peak learning rate", bounds.peak, seen.peak, said, "--lr")
    decay, final = bounds.decay_tokens, bounds.final_ratio
    if bounds.lr_kind == "cosine":
        assert seen.decay_share is not None
        whole = 1 - bounds.warmup_tokens / bounds.total_tokens
        if not is_inside(whole, seen.decay_share):
            rule = f"decays over {whole:.2g} of the run, the law's runs over"
            raise _unseen("--lr-kind", "cosine", f"{rule} {range_words(seen.decay_share)}", "wsd")
    if bounds.decays and bounds.lr_kind == "wsd":
        assert seen.decay_share is not None
        share = (seen.decay_share[0] * bounds.total_tokens, seen.decay_share[1])
        tokens = (share[0], share[1] * bounds.total_tokens)
        low, high = _cut("decay", decay, tokens, said, "--decay", whole=True)
        decay = (int(low), int(high))
    if bounds.decays:
        assert seen.final_ratio is not None
        final = _cut(
            "last learning rate over the peak", final, seen.final_ratio, said, "--final-ratio"
        )
    inside = replace(
        bounds,
        batch=(int(batch[0]), int(batch[1])),
        peak=peak,
        decay_tokens=decay,
        final_ratio=final,
    )
    return checked_bounds(inside), tuple(said)


def outside_seen(plan: SchedulePlan, seen: SeenRanges) -> tuple[str, ...]:
    """What of a plan no run behind the law has shown, in words; empty where all of it is seen."""
    return unseen_by_runs(plan.history(), seen)


def _unseen(key: str, value: object, why: str, nearest: object) -> ScheduleError:
    rule = f"{why}; --beyond-data plans there all the same, and recommends nothing"
    return ScheduleError.of(key, value, rule, nearest)


def _cut(
    name: str,
    asked: tuple[float, float],
    seen: tuple[float, float],
    said: list[str],
    key: str,
    *,
    whole: bool = False,
) -> tuple[float, float]:
    """`asked` within `seen`; a little beyond a range counts as seen."""
    low, high = asked
    if low > seen[1] * (1 + SLACK) or high < seen[0] * (1 - SLACK):
        nearest = seen[0] if high < seen[0] else seen[1]
        shown: object = format_count(round(nearest)) if whole else float(f"{nearest:.4g}")
        value = f"{low:g}" if low == high else f"{low:g}:{high:g}"
        raise _unseen(key, value, f"the law's runs have {range_words(seen)}", shown)
    inner = [
        value if is_inside(value, seen) else min(max(value, seen[0]), seen[1]) for value in asked
    ]
    if tuple(inner) != tuple(asked):
        said.append(f"{name}: {range_words(asked)} asked for, {range_words(seen)} seen")
    if whole:
        inner = [round(value) for value in inner]
    return inner[0], inner[1]
