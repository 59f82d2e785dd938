"""Plans to try: all of a coarse lattice, and the neighbours of one plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from megascale.propose.plan_bounds import PlanBounds
from megascale.propose.schedule_plan import SchedulePlan
from megascale.schedule.lr import LRSchedule

MESHES = (
    *((16, 2**0.25), (12, 2**0.25), (16, 2**0.5), (12, 2**0.5), (8, 2**0.5)),
    *((16, 2.0), (12, 2.0), (8, 2.0), (6, 2.0), (4, 2.0), (3, 4.0), (2, 8.0)),
)
"""Lattices, the finest first: places of a switch, and the ratio of neighbouring batches."""
MOST = 3000
"""Most plans of one lattice for each number of changes."""


def lattice(
    bounds: PlanBounds, lr: LRSchedule, *, max_changes: int | None = None, most: int = MOST
) -> list[SchedulePlan]:
    """Every plan of a learning rate on the finest mesh of switches and batches that has at most
    `most` plans, for each number of changes; fixed batches included.

    Args:
        bounds: of the plans.
        lr: their learning rate.
        max_changes: most changes; default the bounds'.
        most: plans of one number of changes.
    """
    changes = bounds.max_changes if max_changes is None else min(max_changes, bounds.max_changes)
    found = []
    for many in range(changes + 1):
        for places, ratio in MESHES:
            rungs = bounds.ladder(ratio)
            slots = switch_slots(bounds, lr, places)
            if _plans(len(slots), len(rungs), many, bounds.direction) <= most:
                break
        for starts in itertools.combinations(slots, many):
            for sizes in _sizes(rungs, many + (not bounds.past), bounds.direction):
                begins = starts if bounds.past else (0, *starts)
                batches = (*bounds.past, *zip(begins, sizes, strict=True))
                plan = bounds.plan(batches, lr)
                if bounds.allows(plan):
                    found.append(plan)
    return found


def switch_slots(bounds: PlanBounds, lr: LRSchedule, count: int) -> tuple[int, ...]:
    """About `count` even places of a switch, and the start of the decay."""
    low, high = bounds.places
    even = {round(low + (high - low) * (i + 0.5) / count) for i in range(count)}
    if bounds.past:
        even.add(bounds.start_tokens)
    if lr.kind == "wsd" and low <= lr.decay_start_tokens <= high:
        even.add(lr.decay_start_tokens)
    return tuple(sorted(even))


def rates(bounds: PlanBounds, count: int) -> list[LRSchedule]:
    """Learning rates over the bounds: `count` values of each thing that is planned."""
    peaks = _spread(*bounds.peak, count, by_ratio=True)
    lengths = [round(d) for d in _spread(*bounds.decay_tokens, count, by_ratio=False)]
    finals = _spread(*bounds.final_ratio, max(2, count - 1), by_ratio=bounds.final_ratio[0] > 0)
    made = {
        bounds.lr(peak, length, final if length or bounds.lr_kind == "cosine" else 1.0, shape)
        for peak in peaks
        for length in lengths
        for final in finals
        for shape in (bounds.shapes if length else bounds.shapes[:1])
    }
    return sorted(made, key=lambda lr: (lr.peak, lr.decay_tokens, lr.final, lr.decay_shape))


def neighbours(plan: SchedulePlan, bounds: PlanBounds, scale: float) -> list[SchedulePlan]:
    """Plans one move away that keep the bounds, each once.

    A move shifts one switch or all of them, takes one batch or all of them up or down, drops or
    adds a change, or moves one thing of the learning rate that is planned.

    Args:
        plan: the plan.
        bounds: of all plans.
        scale: size of the moves: switches shift by an eighth of the run times this, batches by
            4^scale.
    """
    made: dict[SchedulePlan, None] = {}
    for found in _small_moves(plan, bounds, scale):
        made[found] = None
    for batches in _change_moves(plan, bounds, scale):
        found = replace(plan, batches=batches)
        if bounds.allows(found):
            made[found] = None
    made.pop(plan, None)
    return list(made)


def pairs_of_moves(plan: SchedulePlan, bounds: PlanBounds, scale: float) -> list[SchedulePlan]:
    """Plans two moves away, neither of which drops or adds a change: at a limit one move alone
    often breaks it or costs too much.

    Args as `neighbours`.
    """
    made: dict[SchedulePlan, None] = {}
    for first in _small_moves(plan, bounds, scale, whole=False):
        for second in _small_moves(first, bounds, scale, whole=False):
            if bounds.allows(second):
                made[second] = None
    made.pop(plan, None)
    return list(made)


def _small_moves(
    plan: SchedulePlan, bounds: PlanBounds, scale: float, *, whole: bool = True
) -> Iterator[SchedulePlan]:
    for batches in _batch_moves(plan, bounds, scale):
        found = replace(plan, batches=batches)
        if not whole or bounds.allows(found):
            yield found
    for lr in _rate_moves(plan.lr, bounds, scale):
        yield replace(plan, lr=lr)


def _batch_moves(
    plan: SchedulePlan, bounds: PlanBounds, scale: float
) -> Iterator[tuple[tuple[int, int], ...]]:
    known = len(bounds.past)
    starts = [start for start, _ in plan.batches]
    sizes = [size for _, size in plan.batches]
    shift = max(1, round((bounds.total_tokens - bounds.start_tokens) * scale / 8))
    free = range(max(known, 1), len(starts))

    for sign in (-1, 1):
        for i in free:
            moved = list(starts)
            moved[i] += sign * shift
            if bounds.past:
                moved[i] = max(moved[i], bounds.start_tokens)
            yield _zipped(moved, sizes)
        if len(free) > 1:
            later = [start + sign * shift for start in starts[free.start :]]
            yield _zipped([*starts[: free.start], *later], sizes)
        for i in range(known, len(sizes)):
            size = _moved(sizes[i], sign * scale, bounds)
            yield _zipped(starts, [*sizes[:i], size, *sizes[i + 1 :]])
        later = [_moved(size, sign * scale, bounds) for size in sizes[known:]]
        yield _zipped(starts, [*sizes[:known], *later])


def _change_moves(
    plan: SchedulePlan, bounds: PlanBounds, scale: float
) -> Iterator[tuple[tuple[int, int], ...]]:
    known = len(bounds.past)
    starts = [start for start, _ in plan.batches]
    sizes = [size for _, size in plan.batches]

    for i in range(max(known - 1, 0), len(sizes)):
        if i >= max(known, 1):
            yield _zipped([*starts[:i], *starts[i + 1 :]], [*sizes[:i], *sizes[i + 1 :]])
        if i == 0 and not known and len(sizes) > 1:
            yield _zipped([0, *starts[2:]], sizes[1:])
        begin = max(starts[i], bounds.start_tokens)
        end = starts[i + 1] if i + 1 < len(starts) else bounds.total_tokens
        for share in (0.0, 0.25, 0.5, 0.75) if i < known else (0.25, 0.5, 0.75):
            at = round(begin + share * (end - begin))
            for sign in (-1, 1):
                other = _moved(sizes[i], sign * max(scale, 0.25), bounds)
                more = [*starts[: i + 1], at, *starts[i + 1 :]]
                yield _zipped(more, [*sizes[: i + 1], other, *sizes[i + 1 :]])
                if i >= known:
                    yield _zipped(more, [*sizes[:i], other, *sizes[i:]])


def _zipped(at: Sequence[int], of: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(at, of, strict=True))


def _moved(size: int, power: float, bounds: PlanBounds) -> int:
    """A batch times 4^power, at least one unit away, a multiple of the unit within the bounds."""
    unit, (low, high) = bounds.unit_tokens, bounds.batch
    units = round(size * 4**power / unit)
    if units == size // unit:
        units += 1 if power > 0 else -1
    return min(max(units * unit, low), high)


def _rate_moves(lr: LRSchedule, bounds: PlanBounds, scale: float) -> Iterator[LRSchedule]:
    final = lr.final / lr.peak if lr.decay_tokens else 1.0
    length, shape = lr.decay_tokens, lr.decay_shape
    for sign in (-1, 1):
        peak = min(max(lr.peak * 2 ** (sign * scale), bounds.peak[0]), bounds.peak[1])
        if peak != lr.peak:
            yield bounds.lr(peak, length, final, shape)
        if bounds.lr_kind == "wsd":
            shift = sign * max(1, round(bounds.total_tokens * scale / 8))
            low, high = bounds.decay_tokens
            other = min(max(length + shift, low), high)
            if other != length:
                kept = final if length else bounds.final_ratio[0]
                yield bounds.lr(peak=lr.peak, decay_tokens=other, final_ratio=kept, shape=shape)
        if length:
            low_final, high_final = bounds.final_ratio
            other_final = min(max(final * 4 ** (sign * scale), low_final), high_final)
            if other_final != final:
                yield bounds.lr(lr.peak, length, other_final, shape)
    for other_shape in bounds.shapes:
        if length and other_shape != shape and bounds.lr_kind == "wsd":
            yield bounds.lr(lr.peak, length, final, other_shape)


def _spread(low: float, high: float, count: int, *, by_ratio: bool) -> list[float]:
    if low == high or count == 1:
        return [low] if low == high else [low, high]
    if by_ratio:
        return [low * (high / low) ** (i / (count - 1)) for i in range(count)]
    return [low + (high - low) * i / (count - 1) for i in range(count)]


def _sizes(rungs: Sequence[int], count: int, direction: str) -> Iterator[tuple[int, ...]]:
    if direction == "up":
        yield from itertools.combinations(rungs, count)
        return
    for sizes in itertools.product(rungs, repeat=count):
        if all(a != b for a, b in itertools.pairwise(sizes)):
            yield sizes


def _plans(slots: int, rungs: int, changes: int, direction: str) -> int:
    sizes = math.comb(rungs, changes + 1) if direction == "up" else rungs * (rungs - 1) ** changes
    return math.comb(slots, changes) * sizes
