"""What the counters of an MLPerf log count: steps, samples or tokens, from 0 or from 1.

Submitters fill the same field with different counts. A unit is taken only where the evaluations,
the planned steps or the times of the log allow no other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

STEPS, SAMPLES, TOKENS = "steps", "samples", "tokens"

_FAR = 1.5
"""Training goes on for less than this much of the last evaluation's samples beyond it."""

_LEAST_ODD = 12
_INTERVALS = (20, 25, 50, 100, 200, 250, 500, 1000)
"""Logging intervals in use beside small numbers."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a log says beside its counters.

    Attributes:
        batch, seq: global batch in sequences, and tokens per sequence; None where not stated.
        evaluated: samples of its last evaluation whose unit is known; None where there is none.
        max_steps: planned steps.
        steps_passed: per pair of neighbouring records, the steps that their time allows: the time
            between them over the time of a step.
    """

    batch: int | None
    seq: int | None
    evaluated: int | None = None
    max_steps: int | None = None
    steps_passed: Sequence[float] = ()


def unit_of(counts: Sequence[int], evidence: Evidence) -> str | None:
    """Return the unit of a counter; None where several are possible.

    Args:
        counts: its values, in order.
        evidence: beside them.
    """
    sizes = {STEPS: 1}
    if evidence.batch and evidence.batch > 1:
        sizes[SAMPLES] = evidence.batch
        if evidence.seq and evidence.seq > 1:
            sizes[TOKENS] = evidence.batch * evidence.seq
    common = math.gcd(*(_moves(counts)))
    possible = [unit for unit, size in sizes.items() if unit == STEPS or common % size == 0]
    for test in (_by_plan, _by_evaluations, _by_time, _by_spacing):
        if len(possible) > 1:
            possible = test(counts, sizes, possible, evidence) or possible
    return possible[0] if len(possible) == 1 else None


def _moves(counts: Sequence[int]) -> list[int]:
    """The values without their order, from the first on: what all of them are multiples of."""
    distinct = sorted(set(counts))
    moves = [later - before for before, later in pairwise(distinct)]
    return moves or [distinct[0]]


def _by_plan(
    counts: Sequence[int], sizes: dict[str, int], possible: list[str], evidence: Evidence
) -> list[str]:
    if evidence.max_steps is None:
        return possible
    return [unit for unit in possible if max(counts) / sizes[unit] <= evidence.max_steps]


def _by_evaluations(
    counts: Sequence[int], sizes: dict[str, int], possible: list[str], evidence: Evidence
) -> list[str]:
    if not evidence.evaluated or not evidence.batch:
        return possible
    reached = {unit: max(counts) / sizes[unit] * evidence.batch for unit in possible}
    near = [
        unit for unit in possible if 1 / _FAR < (reached[unit] or 1) / evidence.evaluated < _FAR
    ]
    return near or [unit for unit in possible if reached[unit] < _FAR * evidence.evaluated]


def _by_time(
    counts: Sequence[int], sizes: dict[str, int], possible: list[str], evidence: Evidence
) -> list[str]:
    """Units of which no more passed between two records than the time between them allows."""
    passed = sorted(zip(_moves(counts), evidence.steps_passed, strict=False))
    if not passed:
        return possible
    ratios = sorted(move / allowed for move, allowed in passed if allowed > 0)
    if not ratios:
        return possible
    usual = ratios[len(ratios) // 2]  # moves of the counter per step, as the clock sees it
    return [unit for unit in possible if 1 / 3 < usual / sizes[unit] < 3]


def _by_spacing(
    counts: Sequence[int], sizes: dict[str, int], possible: list[str], evidence: Evidence
) -> list[str]:
    """The largest unit that divides all counts, if no logging interval in use is such a number."""
    batch = evidence.batch or 0
    return possible if batch < _LEAST_ODD or batch in _INTERVALS else possible[-1:]


def shift_of(counts: Sequence[int], size: int, trained: bool) -> int:
    """Return what is missing of counts that were logged one batch low: `size`, or 0.

    A counter that starts from 0 shows a training record at 0; one that is logged every so many
    steps shows multiples of the interval, less one.

    Args:
        counts: of records.
        size: how far the counter moves in one step.
        trained: every record follows a step; an evaluation may come before the first.
    """
    distinct = sorted(set(counts) if trained else {count for count in counts if count})
    if not distinct or distinct[0] == 0:
        return size if distinct else 0
    interval = math.gcd(*_moves(counts)) if len(distinct) > 1 else 0
    if interval <= size:
        return 0
    low = all((count + size) % interval == 0 for count in distinct)
    return size if low else 0
