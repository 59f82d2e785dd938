"""How long the rest of a run takes when its batch still grows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Protocol


class SegmentLike(Protocol):
    """The part of `megascale.schedule.batch.Segment` that an estimate needs."""

    @property
    def start_tokens(self) -> int: ...
    @property
    def end_tokens(self) -> int: ...
    @property
    def batch_tokens(self) -> int: ...


class ScheduleLike(Protocol):
    """The part of `megascale.schedule.batch.BatchSchedule` that an estimate needs."""

    @property
    def segments(self) -> Sequence[SegmentLike]: ...


class StepTimeModel:
    """Seconds per step = a + b * batch tokens, from the intervals seen so far.

    Per batch size the median of its recent intervals, which one slow interval (a compilation, a
    checkpoint) does not move. Over several batch sizes the median slope between them (Theil and
    Sen), put through the batch size seen last. With one batch size alone time is taken to be
    proportional to tokens.
    """

    def __init__(self, *, remembered: int = 32) -> None:
        """Args:
        remembered: intervals kept per batch size.
        """
        self._remembered = remembered
        self._seen: dict[int, deque[float]] = {}
        self._latest = 0

    def add(self, *, batch_tokens: int, steps: int, seconds: float) -> None:
        """Take in an interval of `steps` steps at one batch size."""
        if steps < 1 or not seconds > 0:
            return
        self._seen.setdefault(batch_tokens, deque(maxlen=self._remembered)).append(seconds / steps)
        self._latest = batch_tokens

    def step_seconds(self, batch_tokens: int) -> float | None:
        """Expected seconds of a step of `batch_tokens`; None before anything was seen."""
        if not self._seen:
            return None
        points = {batch: median(times) for batch, times in self._seen.items()}
        here = points[self._latest]
        proportional = here / self._latest
        slope = proportional
        if len(points) > 1:
            slope = median(
                (points[b] - points[a]) / (b - a) for a, b in combinations(sorted(points), 2)
            )
            # Neither a negative fixed cost nor a step that gets faster with more tokens.
            slope = min(max(slope, 0.0), proportional)
        return here + slope * (batch_tokens - self._latest)


def eta_seconds(schedule: ScheduleLike, consumed_tokens: int, model: StepTimeModel) -> float | None:
    """Seconds from `consumed_tokens` to the end of the schedule; None before any timing.

    Args:
        schedule: the batch schedule; its segments hold their boundaries and batches in tokens.
        consumed_tokens: where the run stands.
        model: fitted to the intervals so far.
    """
    total = 0.0
    for segment in schedule.segments:
        rest = segment.end_tokens - max(segment.start_tokens, consumed_tokens)
        if rest <= 0:
            continue
        each = model.step_seconds(segment.batch_tokens)
        if each is None:
            return None
        total += math.ceil(rest / segment.batch_tokens) * max(each, 0.0)
    return total
