"""The one rule for intervals of predicted losses and of their differences.

A number has three errors: of the parameters (replicates of a bootstrap over whole runs), of the
form (several forms, equally many draws of each), both in the spread of the draws; and of the law
itself (`LawDiscrepancy`). They are added in squares, and the interval reaches as far as Student's
t with the law's degrees of freedom does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array, Flags
from megascale.formats.student_t import student_reach
from megascale.propose.loss_draws import LossDraws, draws_of_each


@dataclass(frozen=True, slots=True)
class Estimated:
    """A number with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class IntervalRule:
    """How numbers are read off a law's draws.

    Attributes:
        law: whose draws they are.
        confidence: of the intervals.
        rows: the draws that are asked.
    """

    law: LossDraws
    confidence: float
    rows: np.ndarray

    @classmethod
    def of_all(cls, law: LossDraws, confidence: float) -> IntervalRule:
        """The rule over all draws."""
        return cls(law, confidence, np.arange(len(law.forms)))

    @property
    def best(self) -> Flags:
        """Which of the draws are a form's best parameters."""
        return np.asarray(np.isin(self.rows, draws_of_each(self.law, 1)))

    def values(self, draws: Array) -> Array:
        """The mean of the forms' best parameters, of draws (draws, ...)."""
        return np.asarray(draws[self.best].mean(axis=0))

    def halves(self, draws: Array, own: Array | float) -> Array:
        """How far the intervals reach to either side, of draws (draws, ...) and of the law's own
        errors there."""
        reach = student_reach(self.confidence, self.law.discrepancy.freedom)
        return np.asarray(reach * np.hypot(spread_of_draws(draws), own))

    def estimated(self, draws: Array, own: float) -> Estimated:
        """One number, of its draws (draws,) and the law's own error of it."""
        value, half = float(self.values(draws)), float(self.halves(draws, own))
        return Estimated(value, value - half, value + half)


def spread_of_draws(draws: Array) -> Array:
    """Half the distance between the 16th and the 84th percentile: a standard deviation that a few
    replicates without any decay, which know nothing of one, do not decide."""
    low, high = np.percentile(draws, [15.87, 84.13], axis=0)
    return np.asarray(0.5 * (high - low))
