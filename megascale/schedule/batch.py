"""The batch schedule: segments of constant batch, with exact maps between steps and tokens.

Inside a segment, step `first_step + k` starts at `start_tokens + k * batch_tokens`. The last
step of a run is clipped at its token budget. `docs/token-clock.md` has the derivations.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from megascale.errors import ScheduleError
from megascale.schedule.points import BatchPoint, format_table, point_problems
from megascale.schedule.rounding import BatchRule, Growth, RealisedBatch, Rounding
from megascale.units import format_count

Coupling = Literal["constant", "sqrt", "linear"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive steps of one global batch.

    Attributes:
        start_tokens: consumed tokens at the segment's first step.
        end_tokens: consumed tokens after its last step.
        requested_start_tokens: threshold that asked for it; it starts at the first step boundary
            at or after this.
        requested_batch_tokens: global batch that was asked for.
        batch_tokens: global batch that is run.
        sequence_length: tokens per sequence.
        micro_batch_size: sequences per rank in one forward and backward pass, joined ones counted.
        micro_batches: forward and backward passes per rank and step.
        first_step: number of its first step.
        steps: how many steps it has, at least 1.
        lr_scale: factor on the learning rate, by batch.lr_coupling.
    """

    start_tokens: int
    end_tokens: int
    requested_start_tokens: int
    requested_batch_tokens: int
    batch_tokens: int
    sequence_length: int
    micro_batch_size: int
    micro_batches: int
    first_step: int
    steps: int
    lr_scale: float


@dataclass(frozen=True, slots=True)
class BatchSchedule:
    """Segments that cover `[start_tokens, total_tokens)` without gap or overlap.

    Attributes:
        segments: in order; empty only when nothing is left to train.
        total_tokens: the run's budget, where the last step is clipped.
        total_steps: number of the step after the last.
        start_tokens: where the schedule begins: 0, or a resumed run's consumed tokens.
        source: where the sizes came from (kind, text or law file hash), for logs.
    """

    segments: tuple[Segment, ...]
    total_tokens: int
    total_steps: int
    start_tokens: int = 0
    source: Mapping[str, Any] = field(default_factory=dict, compare=False)
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _first_steps: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", tuple(s.start_tokens for s in self.segments))
        object.__setattr__(self, "_first_steps", tuple(s.first_step for s in self.segments))

    @property
    def start_step(self) -> int:
        """Number of the first step covered."""
        return self._first_steps[0] if self.segments else self.total_steps

    def segment_at_tokens(self, tokens: int) -> Segment:
        """The segment whose windows contain position `tokens`.

        Raises:
            ScheduleError: outside `[start_tokens, total_tokens)`.
        """
        if not self.start_tokens <= tokens < self.total_tokens:
            raise self._outside("tokens", tokens, self.start_tokens, self.total_tokens - 1)
        return self.segments[bisect_right(self._starts, tokens) - 1]

    def segment_at_step(self, step: int) -> Segment:
        """The segment that step `step` belongs to.

        Raises:
            ScheduleError: outside `[start_step, total_steps)`.
        """
        if not self.start_step <= step < self.total_steps:
            raise self._outside("step", step, self.start_step, self.total_steps - 1)
        return self.segments[bisect_right(self._first_steps, step) - 1]

    def tokens_at_step(self, step: int) -> int:
        """Consumed tokens before step `step`; `total_tokens` for `total_steps`.

        Raises:
            ScheduleError: outside `[start_step, total_steps]`.
        """
        if step == self.total_steps:
            return self.total_tokens
        segment = self.segment_at_step(step)
        return segment.start_tokens + (step - segment.first_step) * segment.batch_tokens

    def step_at_tokens(self, tokens: int) -> int:
        """The step that starts at `tokens`: the inverse of `tokens_at_step`.

        Raises:
            ScheduleError: `tokens` is no step boundary; the boundaries around it are named.
        """
        if tokens == self.total_tokens:
            return self.total_steps
        step = self.step_containing(tokens)
        start, stop = self.window(step)
        if start != tokens:
            raise ScheduleError.of("tokens", tokens, "is not a step boundary", [start, stop])
        return step

    def step_containing(self, tokens: int) -> int:
        """The step whose window contains position `tokens`.

        Raises:
            ScheduleError: outside `[start_tokens, total_tokens)`.
        """
        segment = self.segment_at_tokens(tokens)
        return segment.first_step + (tokens - segment.start_tokens) // segment.batch_tokens

    def window(self, step: int) -> tuple[int, int]:
        """Stream positions `[start, stop)` that step `step` consumes.

        Raises:
            ScheduleError: outside `[start_step, total_steps)`.
        """
        segment = self.segment_at_step(step)
        start = segment.start_tokens + (step - segment.first_step) * segment.batch_tokens
        return start, min(start + segment.batch_tokens, self.total_tokens)

    def _outside(self, what: str, value: int, low: int, high: int) -> ScheduleError:
        if high < low:
            return ScheduleError.of(what, value, "nothing is left to train in this schedule")
        nearest = min(max(value, low), high)
        return ScheduleError.of(what, value, f"the schedule covers {low} to {high}", nearest)


def build_batch_schedule(
    spec: Sequence[BatchPoint],
    *,
    total_tokens: int,
    sequence_length: int,
    micro_batch_size: int,
    data_parallel: int,
    rounding: Rounding = "nearest",
    max_rounding: float = 0.1,
    lr_coupling: Coupling = "constant",
    reference_tokens: int | None = None,
    growth: Growth = "micro_batches",
    sequence_multiple: int = 1,
    max_sequence_length: int | None = None,
    batch_multiple: int = 1,
    max_micro_batch_size: int | None = None,
    skip_passed: bool = False,
    start: tuple[int, int] = (0, 0),
    source: Mapping[str, Any] | None = None,
    key: str = "batch.schedule",
) -> BatchSchedule:
    """Check every remaining segment against the layout and lay the steps out.

    Args:
        spec: requested batches, the first from token 0, starts increasing.
        total_tokens: the run's budget.
        sequence_length: tokens, where a point does not set its own.
        micro_batch_size: sequences per rank in one forward and backward pass.
        data_parallel: data-parallel degree.
        rounding: `nearest` legal batch within `max_rounding` (relative), or `exact`.
        lr_coupling: factor on the learning rate: 1, the root or the ratio of batch over reference.
        reference_tokens: that reference; None takes the first segment's realised batch.
        growth: `micro_batches`, or `sequence_length` at the first segment's number of sequences.
        sequence_multiple: what a grown sequence length must be a multiple of.
        max_sequence_length: longest sequence in tokens, or None.
        batch_multiple: number of sequences that every batch must be a multiple of (growth
            `micro_batches`).
        max_micro_batch_size: micro-batches of a segment are joined up to this many sequences,
            where their number divides; None joins none. What is legal does not depend on it.
        skip_passed: a batch whose turn is over before a step can start with it is left out, as
            Megatron does, instead of being refused.
        start: (consumed tokens, step) of a resumed run: segments that lie wholly before it are
            not checked.
        source: where the sizes came from.
        key: config key, for messages.

    Raises:
        ScheduleError: not increasing, beyond the budget, or illegal for the layout anywhere from
            `start` on; illegal segments are named with the nearest legal sizes, of many alike the
            first and the last.
    """
    problems = point_problems(spec, total_tokens, key)
    if problems:
        raise ScheduleError.together(problems)
    tokens, step = start
    if not 0 <= tokens <= total_tokens:
        raise ScheduleError.of(
            "consumed tokens", tokens, f"the run has {total_tokens} tokens", total_tokens
        )
    rule = BatchRule(
        micro_batch_size=micro_batch_size,
        data_parallel=data_parallel,
        sequence_length=sequence_length,
        rounding=rounding,
        max_rounding=max_rounding,
        sequence_multiple=sequence_multiple,
        max_sequence_length=max_sequence_length,
        batch_multiple=batch_multiple,
        key=key,
    )
    active = bisect_right([point.start_tokens for point in spec], tokens) - 1
    sizes = _realise(spec, active, rule, growth)
    scale = _LRScale.of(lr_coupling, reference_tokens, spec, sizes, rule)

    segments: list[Segment] = []
    for index in range(active, len(spec)):
        point, size = spec[index], sizes[index]
        limit = spec[index + 1].start_tokens if index + 1 < len(spec) else total_tokens
        if tokens >= limit:
            if segments and not skip_passed:
                problems.append(_never_runs(point, segments[-1], tokens, limit, key))
            continue
        steps = -(-(limit - tokens) // size.batch_tokens)
        joined = _joined(size.micro_batches, (max_micro_batch_size or 1) // micro_batch_size)
        end = min(tokens + steps * size.batch_tokens, total_tokens)
        segments.append(
            Segment(
                start_tokens=tokens,
                end_tokens=end,
                requested_start_tokens=point.start_tokens,
                requested_batch_tokens=point.batch_tokens,
                batch_tokens=size.batch_tokens,
                sequence_length=size.sequence_length,
                micro_batch_size=joined * micro_batch_size,
                micro_batches=size.micro_batches // joined,
                first_step=step,
                steps=steps,
                lr_scale=scale.at(size.batch_tokens),
            )
        )
        tokens, step = end, step + steps
    if problems:
        raise ScheduleError.together(problems)
    return BatchSchedule(
        segments=tuple(segments),
        total_tokens=total_tokens,
        total_steps=step,
        start_tokens=start[0],
        source=dict(source or {"kind": "table", "text": format_table(spec)}),
    )


def _joined(micro_batches: int, most: int) -> int:
    """The largest divisor of `micro_batches` that is at most `most`; 1 where that is less."""
    return max(n for n in range(1, max(1, min(most, micro_batches)) + 1) if micro_batches % n == 0)


@dataclass(frozen=True, slots=True)
class _LRScale:
    """Factor on the learning rate at a batch."""

    coupling: Coupling
    reference_tokens: int

    @classmethod
    def of(
        cls,
        coupling: Coupling,
        reference_tokens: int | None,
        spec: Sequence[BatchPoint],
        sizes: Mapping[int, RealisedBatch],
        rule: BatchRule,
    ) -> _LRScale:
        if coupling == "constant" or reference_tokens is not None:
            return cls(coupling, reference_tokens or 1)
        first = sizes.get(0)
        if first is None:
            try:
                first = rule.by_micro_batches(spec[0])
            except ScheduleError as error:
                raise ScheduleError(
                    "batch.reference_tokens = null: the first segment, which sets the reference of "
                    f"batch.lr_coupling, does not fit this layout; give it in tokens. {error}"
                ) from None
        return cls(coupling, first.batch_tokens)

    def at(self, batch_tokens: int) -> float:
        ratio = batch_tokens / self.reference_tokens
        if self.coupling == "constant":
            return 1.0
        return math.sqrt(ratio) if self.coupling == "sqrt" else ratio


def _realise(
    spec: Sequence[BatchPoint], active: int, rule: BatchRule, growth: Growth
) -> dict[int, RealisedBatch]:
    sizes: dict[int, RealisedBatch] = {}
    problems = []
    if growth == "sequence_length":
        sizes[0] = rule.by_micro_batches(spec[0])
    for index in range(active, len(spec)):
        if index in sizes:
            continue
        try:
            if growth == "sequence_length":
                sizes[index] = rule.by_sequence_length(spec[index], sizes[0])
            else:
                sizes[index] = rule.by_micro_batches(spec[index])
        except ScheduleError as error:
            problems.append(error)
    if problems:
        raise ScheduleError.together(problems)
    return sizes


def _never_runs(
    point: BatchPoint, before: Segment, tokens: int, limit: int, key: str
) -> ScheduleError:
    last_boundary = before.start_tokens + (before.steps - 1) * before.batch_tokens
    return ScheduleError.of(
        key,
        format_table([point]),
        f"never takes effect: the step of {format_count(before.batch_tokens)} tokens before it "
        f"ends at {format_count(tokens)}, where its turn, up to {format_count(limit)}, is over",
        f"a start of {format_count(last_boundary)} or less",
    )
