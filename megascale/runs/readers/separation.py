"""Which records of one log belong to which run: what tells another run from a restart.

A restart goes on from a checkpoint: its first step lies beyond the beginning of the run. Another
run begins where the first began, and shows a new total, another batch or size, or comes after the
end of the first. Two totals that take turns are two runs that write to one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from megascale.runs.readers.launches import (
    CHANGES,
    N_PARAMS,
    RESUMED,
    STEPS,
    Launch,
    governing,
)

Counts: TypeAlias = npt.NDArray[np.int64]

TURNS = 3
"""From so many changes more than a change per total takes, totals are said to take turns."""


def runs_of(
    steps: Counts,
    lines: Counts,
    totals: Counts | None = None,
    launches: Sequence[Launch] = (),
    ends: Sequence[int] = (),
) -> Counts:
    """Return the number of the run, from 0 as they appear, of every training record of a log.

    Args:
        steps: finished steps, in the order of the file.
        lines: of the records, rising.
        totals: planned steps as each record shows them; 0 where it shows none.
        launches: in order; the steps that one plans count where records show no total.
        ends: lines that say that training has ended.
    """
    count = len(steps)
    runs = np.zeros(count, dtype=np.int64)
    if count == 0:
        return runs
    launch = governing(launches, lines) if launches else np.full(count, -1, dtype=np.int64)
    planned = np.zeros(count, dtype=np.int64) if totals is None else totals
    if launches and not planned.any():
        said = np.array([one.get(STEPS) or 0 for one in launches] + [0])
        planned = said[launch]
    if (planned == planned[0]).all() and (np.diff(steps) > 0).all() and (launch == launch[0]).all():
        return runs
    changes = int((np.diff(planned) != 0).sum())
    distinct = list(dict.fromkeys(planned.tolist()))
    groups = [np.arange(count)]
    if changes >= len(distinct) - 1 + TURNS:
        groups = [np.flatnonzero(planned == total) for total in distinct]
    used = 0
    for group in groups:
        own = _in_sequence(
            steps[group], lines[group], planned[group], launch[group], launches, ends
        )
        runs[group] = own + used
        used += int(own.max()) + 1
    return _in_order(runs)


def _in_sequence(
    steps: Counts,
    lines: Counts,
    totals: Counts,
    launch: Counts,
    launches: Sequence[Launch],
    ends: Sequence[int],
) -> Counts:
    """Runs one after the other."""
    moved = (np.diff(totals) != 0) | (np.diff(launch) != 0)
    closed = np.searchsorted(np.sort(np.asarray(ends, dtype=np.int64)), lines)
    reached = np.maximum.accumulate(steps)
    begin, begins = 0, [0]
    for at in (np.flatnonzero(moved | (np.diff(steps) < 0)) + 1).tolist():
        before = at - 1
        from_start = steps[at] <= steps[begin] and (moved[before] or steps[at] < reached[before])
        ended = 0 < totals[before] <= steps[before] or closed[at] > closed[before]
        here, there = (_facts(launches, launch[index]) for index in (before, at))
        new_total = totals[at] != totals[before]
        other = new_total or any(_differ(here, there, name) for name in CHANGES)
        resumed = there is not None and there is not here and there.get(RESUMED) is not None
        anew = ended and new_total and steps[at] < steps[before] and not resumed
        if _differ(here, there, N_PARAMS) or (from_start and (ended or other)) or anew:
            begin = at
            begins.append(at)
            reached[at:] = np.maximum.accumulate(steps[at:])
    return np.asarray(np.searchsorted(begins, np.arange(len(steps)), side="right") - 1)


def _facts(launches: Sequence[Launch], index: int) -> Launch | None:
    return launches[index] if 0 <= index < len(launches) else None


def _differ(here: Launch | None, there: Launch | None, name: str) -> bool:
    """Whether two launches both state a fact, and not the same."""
    if here is None or there is None or here is there:
        return False
    first, second = here.get(name), there.get(name)
    return first is not None and second is not None and first != second


def _in_order(runs: Counts) -> Counts:
    """The same division, numbered in order of appearance."""
    _, first, inverse = np.unique(runs, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.asarray(rank[inverse], dtype=np.int64)


def abandoned(
    steps: Counts, lines: Counts, runs: Counts, launches: Sequence[Launch]
) -> npt.NDArray[np.bool_]:
    """Say which records lie beyond the checkpoint that a later launch of their run went on from."""
    gone = np.zeros(len(steps), dtype=bool)
    if not any(launch.get(RESUMED) for launch in launches):
        return gone
    index = governing(launches, lines)
    for number, launch in enumerate(launches):
        resumed = launch.get(RESUMED)
        own = index == number
        if resumed is None or not own.any() or steps[own].min() <= resumed:
            continue
        run = runs[np.flatnonzero(own)[0]]
        gone |= (lines < launch.line) & (runs == run) & (steps > resumed)
    return gone


def label(run: int) -> str:
    """Return what a run within a file is called, counted from 0."""
    return f"run-{run + 1}"
