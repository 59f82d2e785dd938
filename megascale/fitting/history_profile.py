"""Profile intervals of a law of whole histories: how far a parameter can go while others follow.

The interval holds the values at which the sum of squares, minimised over all other parameters,
rises by no more than its residual variance times the square of Student's t (Bates and Watts 1988,
ch. 6). Residuals of one run are correlated: give a fit of `fit_correlated`, whose sum is of
independent ones. A side on which the sum never rises that far is open: the runs do not bound the
parameter there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from megascale.errors import FitError
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import LOG, NAMES, default_bounds
from megascale.fitting.history_result import HistoryFit, HistoryRun
from megascale.formats.student_t import student_reach

FARTHEST = 30
"""Steps outward, each 1.6 times the last, after which a side counts as open."""
STEP = 1.6
HALVINGS = 7


def profile_interval(
    fit: HistoryFit, runs: Sequence[HistoryRun], name: str, *, confidence: float = 0.9
) -> tuple[float, float]:
    """The interval of one parameter; infinite, or a bound of the form, where a side is open.

    Args:
        fit: to these runs.
        runs: as they were fitted, with what says how residuals are correlated.
        name: a free parameter.
        confidence: of the interval.

    Raises:
        FitError: the parameter is not free.
    """
    if name not in fit.law.free:
        raise FitError.of("parameter", name, "is not free in this form", list(fit.law.free))
    freedom = max(fit.points - len(fit.law.free), 1)
    allowed = student_reach(confidence, max(len(runs) - 1, 1)) ** 2 * fit.objective / freedom
    return _side(fit, runs, name, -1, allowed), _side(fit, runs, name, 1, allowed)


def _side(
    fit: HistoryFit, runs: Sequence[HistoryRun], name: str, sign: int, allowed: float
) -> float:
    place = NAMES.index(name)
    bound = default_bounds(fit.law)[name][0 if sign < 0 else 1]
    value = fit[name]
    by_log = LOG[place] and value > 0
    error = fit.errors[name]
    step = 0.05 if by_log else 0.02 * max(abs(value), 0.1)
    if np.isfinite(error) and error > 0:
        step = min(max(0.3 * (error / value if by_log else error), 0.1 * step), 5 * step)

    def moved(distance: float) -> float:
        to = value * math.exp(sign * distance) if by_log else value + sign * distance
        return min(to, bound) if sign > 0 else max(to, bound)

    start = dict(zip(NAMES, fit.values.tolist(), strict=True))

    def rise(distance: float) -> float:
        nonlocal start
        found = fit_history(
            fit.law,
            runs,
            fixed={name: moved(distance)},
            initial=start,
            scales=fit.scales,
            threads=1,
        )
        start = dict(zip(NAMES, found.values.tolist(), strict=True))
        return found.objective - fit.objective

    near, far = 0.0, step
    for _ in range(FARTHEST):
        if rise(far) > allowed:
            break
        if moved(far) == bound:
            return bound
        near, far = far, STEP * far
    else:
        return sign * math.inf if not by_log else (0.0 if sign < 0 else math.inf)
    for _ in range(HALVINGS):
        middle = 0.5 * (near + far)
        if rise(middle) > allowed:
            far = middle
        else:
            near = middle
    return moved(0.5 * (near + far))
