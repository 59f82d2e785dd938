"""How far a law of whole schedules is from the truth: little where runs are like those that were
fitted, more the more a schedule is unlike all of them.

The difference of truth and law over schedules is taken as a Gaussian process whose correlation
falls with their unlikeness (Kennedy and O'Hagan 2001, model discrepancy; Rasmussen and Williams
2006, eq. 2.26 and 5.12). What is known of it are the errors at schedules that were left out of
the fit: each stands for the distance from the schedule to those that were left, so that one odd
schedule says how wrong the law is about odd ones, and not about all. What the fit to all leaves at
the fitted schedules moves predictions of schedules that are like them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array
from megascale.fitting.history import History
from megascale.laws.schedule.outline import ScheduleOutline, unlikeness

REACH = 2.0
"""Unlikeness over which two schedules' errors have little in common."""
JITTER = 0.02
"""Variance of what only one schedule's measured end has (seeds, the last points), over that of the
law's error at a schedule unlike all that were fitted."""


@dataclass(frozen=True)
class LawDiscrepancy:
    """The law's own error at the ends of schedules.

    Attributes:
        outlines: of the fitted schedules.
        scale: standard deviation at a schedule that is unlike all of them, nats.
        freedom: degrees of freedom of the scale.
        residuals: predicted minus measured last loss of each fitted schedule, by the fit to all of
            them, nats; none where they are not known.
    """

    outlines: tuple[ScheduleOutline, ...]
    scale: float
    freedom: float
    residuals: tuple[float, ...] = ()

    @classmethod
    def of_left_out(
        cls,
        outlines: Mapping[str, ScheduleOutline],
        errors: Mapping[str, float],
        residuals: Mapping[str, float] | None = None,
    ) -> LawDiscrepancy:
        """The error that schedules left out of the fit have shown.

        The scale is the root mean square of the errors, each over what a law of scale one would
        have there: the square root of the variance left by all other schedules.

        Args:
            outlines: of the fitted schedules, by name.
            errors: predicted minus measured last loss of each, by a fit without it, nats.
            residuals: the same by the fit to all.
        """
        names = list(errors)
        known = tuple(outlines[name] for name in names)
        squares = np.square(list(errors.values())) * np.diag(np.linalg.inv(_measured(known)))
        return cls(
            known,
            float(np.sqrt(np.mean(squares))),
            max(len(names) - 1, 1),
            () if residuals is None else tuple(residuals[name] for name in names),
        )

    @property
    def jitter(self) -> float:
        """Variance of what only one schedule's measured end has, nats squared."""
        return JITTER * self.scale**2

    def covariance(self, histories: Sequence[History]) -> Array:
        """Covariance of the law's errors at the ends of runs, (runs, runs), nats squared."""
        own = [ScheduleOutline.of_history(history) for history in histories]
        given = self._given(own)
        return np.asarray(self.scale**2 * (_correlation(own, own) - given.T @ given))

    def levels(self, histories: Sequence[History]) -> Array:
        """Standard deviations of the law's error at the measured ends of runs, (runs,), nats."""
        given = self._given([ScheduleOutline.of_history(history) for history in histories])
        left = np.maximum(1 - (given**2).sum(axis=0), 0.0)
        return np.asarray(self.scale * np.sqrt(left + JITTER))

    def differences(self, histories: Sequence[History], other: History) -> Array:
        """Standard deviations of the law's error of each run's end minus another's, (runs,), nats.

        What only a measured end has is left out, so that a run and itself differ by nothing.
        """
        own = [ScheduleOutline.of_history(history) for history in (*histories, other)]
        given = self._given(own)
        apart = 2 * (1 - _correlation(own[:-1], own[-1:])[:, 0])
        told = ((given[:, :-1] - given[:, -1:]) ** 2).sum(axis=0)
        return np.asarray(self.scale * np.sqrt(np.maximum(apart - told, 0.0)))

    def shifts(self, histories: Sequence[History]) -> Array:
        """By how much the ends of runs lie above the law, as far as the residuals of the fitted
        schedules tell it (the process's mean given them), (runs,), nats."""
        if not self.residuals or not len(histories):
            return np.zeros(len(histories))
        own = [ScheduleOutline.of_history(history) for history in histories]
        return np.asarray(-_correlation(own, self.outlines) @ self.weights)

    @property
    def weights(self) -> Array:
        """Of the fitted schedules in `shifts`, (fitted,), nats."""
        residuals = np.array(self.residuals or np.zeros(len(self.outlines)))
        return np.asarray(self.precision @ residuals)

    @property
    def precision(self) -> Array:
        """Inverse of the correlation of the fitted schedules' measured ends, (fitted, fitted)."""
        size = len(self.outlines)
        return np.asarray(np.linalg.inv(_measured(self.outlines)) if size else np.zeros((0, 0)))

    def _given(self, own: Sequence[ScheduleOutline]) -> Array:
        """What the fitted schedules tell, (fitted, runs): sums of squares are variances."""
        if not self.outlines:
            return np.zeros((0, len(own)))
        root = np.linalg.cholesky(_measured(self.outlines))
        return np.asarray(np.linalg.solve(root, _correlation(self.outlines, own)))


def _correlation(left: Sequence[ScheduleOutline], right: Sequence[ScheduleOutline]) -> Array:
    return np.asarray(np.exp(-0.5 * (unlikeness(left, right) / REACH) ** 2))


def _measured(outlines: Sequence[ScheduleOutline]) -> Array:
    """Correlation of measured ends."""
    return _correlation(outlines, outlines) + JITTER * np.eye(len(outlines))
