"""How unlike two schedules are: their batches and learning rates at even shares of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array
from megascale.fitting.history import History
from megascale.formats.schedule_law_file import PLACES

LATE = 0.2
"""Last share of a run that counts as much as the whole: its end is what is compared."""
OCTAVE_OF_BATCH, OCTAVE_OF_TOKENS, OCTAVE_OF_PEAK, WHOLE_RATE = 1.0, 1.0, 2.0, 2.0
"""Distance of a doubled batch, a doubled length, a doubled peak, and of a learning rate at its peak
from one at zero. They are judgements, the same for every law (docs/schedule-law.md)."""


@dataclass(frozen=True, slots=True)
class ScheduleOutline:
    """A schedule at the middles of `PLACES` even shares of its tokens.

    Attributes:
        total_tokens: of the run.
        peak: largest learning rate.
        batch: tokens of a step there.
        rate: learning rate there over the peak.
    """

    total_tokens: float
    peak: float
    batch: tuple[float, ...]
    rate: tuple[float, ...]

    @classmethod
    def of_history(cls, history: History) -> ScheduleOutline:
        """The outline of a run, its logged history or its plan."""
        at = (np.arange(PLACES) + 0.5) / PLACES * history.total_tokens
        section = np.searchsorted(history.tokens, at, side="right") - 1
        begin, end = history.tokens[section], history.tokens[section + 1]
        share = (at - begin) / (end - begin)
        rate = history.lr_start[section] * (1 - share) + history.lr_end[section] * share
        return cls(
            history.total_tokens,
            history.peak,
            tuple(history.batch[section].tolist()),
            tuple(np.clip(rate / history.peak, 0.0, 1.0).tolist()),
        )


def unlikeness(left: Sequence[ScheduleOutline], right: Sequence[ScheduleOutline]) -> Array:
    """Distances between schedules, (left, right); zero for schedules that are the same.

    The root of a sum of squares: octaves of the batch and the difference of the learning rate over
    its peak, both over the run and once more over its last part, octaves of the peak and of the
    length.
    """
    one, other = outline_coordinates(left), outline_coordinates(right)
    return np.asarray(np.sqrt(((one[:, None] - other) ** 2).sum(axis=2)))


def outline_coordinates(outlines: Sequence[ScheduleOutline]) -> Array:
    """Rows whose Euclidean distances are the unlikenesses, (outlines, 2 `PLACES` + 2)."""
    if not outlines:
        return np.empty((0, 2 * PLACES + 2))
    late = round(LATE * PLACES)
    weight = np.full(PLACES, 0.5 / PLACES)
    weight[-late:] += 0.5 / late
    root = np.sqrt(weight)
    batch = np.log2([one.batch for one in outlines]) * (OCTAVE_OF_BATCH * root)
    rate = np.array([one.rate for one in outlines]) * (WHOLE_RATE * root)
    peak = OCTAVE_OF_PEAK * np.log2([[one.peak] for one in outlines])
    tokens = OCTAVE_OF_TOKENS * np.log2([[one.total_tokens] for one in outlines])
    return np.hstack([batch, rate, peak, tokens])
