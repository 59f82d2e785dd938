"""Batch schedules by rule, without a law: pure functions of consumed tokens.

`remaining_points` is the optimum of a last-iterate bound (arXiv 2607.27731), which under a stable
learning rate with linear decay is a batch in proportion to 1 / (tokens left), constant within the
decay. `late_points` is one late switch (arXiv 2602.14208 on tasks that are hard to learn).
"""

from __future__ import annotations

import math

from megascale.errors import ScheduleError
from megascale.schedule.points import BatchPoint

LATE_SHARE = 0.75
"""Share of the tokens after which a late switch happens where none is given."""


def remaining_points(
    initial_tokens: int,
    *,
    total_tokens: int,
    decay_tokens: int = 0,
    max_tokens: int | None = None,
    ratio: float = 2.0,
    unit_tokens: int = 1,
    key: str = "batch.remaining",
) -> tuple[BatchPoint, ...]:
    """Batches in proportion to 1 / (tokens left), as a staircase of equal ratios.

    At t consumed tokens the rule asks for b(t) = initial x D / (D - t) up to the start of the
    decay, and for b(D - decay) within it. Stair i, of initial x ratio^i tokens, holds from where
    b(t) passes the geometric mean of stairs i - 1 and i.

    Args:
        initial_tokens: batch (tokens) at token 0.
        total_tokens: D, the run's budget.
        decay_tokens: length of the learning rate's final decay; 0 for none.
        max_tokens: largest batch (tokens), or None; needed where there is no decay.
        ratio: of a stair to the one before.
        unit_tokens: stairs are rounded to whole multiples of it, upwards at least one.
        key: config key or option, for messages.

    Raises:
        ScheduleError: the ratio does not grow, the decay is longer than the run, or nothing bounds
            the batch.
    """
    if not (math.isfinite(ratio) and ratio > 1):
        raise ScheduleError.of(f"{key}.ratio", ratio, "must be above 1", 2.0)
    if not 0 <= decay_tokens <= total_tokens:
        raise ScheduleError.of(
            f"{key}: decay_tokens", decay_tokens, "longer than the run", total_tokens
        )
    if max_tokens is None and decay_tokens == 0:
        raise ScheduleError.of(
            f"{key}.max_tokens",
            None,
            "without a decay of the learning rate the rule grows without bound",
            16 * initial_tokens,
        )
    if max_tokens is not None and max_tokens < initial_tokens:
        raise ScheduleError.of(
            f"{key}.max_tokens", max_tokens, "is below initial_tokens", initial_tokens
        )
    stable = total_tokens - decay_tokens
    points = [BatchPoint(0, initial_tokens)]
    for stair in range(1, 1 + int(math.log(total_tokens, ratio))):
        asked = initial_tokens * ratio**stair
        size = max(unit_tokens, round(asked / unit_tokens) * unit_tokens)
        start = math.ceil(total_tokens * (1 - ratio ** (0.5 - stair)))
        beyond = max_tokens is not None and size > max_tokens
        if beyond or start > stable or start + size > total_tokens:
            break
        if size > points[-1].batch_tokens:
            points.append(BatchPoint(start, size))
    return tuple(points)


def late_points(
    initial_tokens: int,
    late_tokens: int,
    *,
    total_tokens: int,
    start_tokens: int | None = None,
    key: str = "--rule late",
) -> tuple[BatchPoint, ...]:
    """A small batch, and one switch to a large one late in the run.

    Args:
        initial_tokens: batch (tokens) before the switch.
        late_tokens: batch (tokens) after it.
        total_tokens: the run's budget.
        start_tokens: tokens of the switch; default `LATE_SHARE` of the budget.
        key: option, for messages.

    Raises:
        ScheduleError: the switch lies outside the run.
    """
    start = round(LATE_SHARE * total_tokens) if start_tokens is None else start_tokens
    if not 0 < start < total_tokens:
        nearest = round(LATE_SHARE * total_tokens)
        raise ScheduleError.of(f"{key}: switch", start, "must lie within the run", nearest)
    return BatchPoint(0, initial_tokens), BatchPoint(start, late_tokens)
