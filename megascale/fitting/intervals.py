"""Interval kinds of a fit, and what each needs before it can be believed.

wald: Student's t of the standard error, in the logarithm of positive quantities; the normal's where
    the noise is known.
percentile: percentiles of bootstrap values. Parametric bootstraps draw the noise's scale, so that
    their percentiles are as wide as Student's t by themselves; those that draw residuals or points
    are stretched (`fitting.percentiles`), never both.
studentised: (replicate - fit) / (the replicate's own error), times the fit's error (Efron and
    Tibshirani 1993, section 12.5).
profile: the values that the points do not refute, see `profile`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from megascale.errors import FitError
from megascale.fitting.percentiles import (
    WILD,
    row_percentiles,
    stretch,
    stretched_percentiles,
)
from megascale.fitting.profile import of_any_sign, profile_limits
from megascale.fitting.withheld import withheld

Array = np.ndarray

KINDS = ("wald", "percentile", "studentised", "profile")
RESAMPLED = ("pairs", "runs")
"""Bootstraps that draw what was measured with replacement."""
BY_RUN = ("runs", "wild_runs")
UNSTEADY = ("wsd", "noise_floor")
"""Laws whose replicates have errors of wildly different size (branches without points, a vanishing
floor): studentised limits of 90 % hold the truth in 40 to 80 % of studies and are refused."""
NON_REGULAR = ("wsd", "noise_floor")
"""Laws with change points, or a floor that can vanish, where percentiles alone cover too little:
theirs are those and Wald's together. Wild limits are wide enough."""
MOST_FAILED = 0.1
"""Where more of the replicates failed there is no interval: those would be the extreme ones."""


def usual_kind(result: Any) -> str:
    """The kind that a result gives when none is asked for."""
    if result.bootstrap is None:
        return "wald"
    return "studentised" if result.resample == "studentised" else "percentile"


def interval_limits(result: Any, name: str, kind: str, level: float) -> tuple[Array, Array]:
    """Lower and upper limits of a quantity, an entry a problem; NaN where they are withheld.

    Raises:
        FitError: an unknown kind, or one that the fit's options cannot give.
    """
    if kind not in KINDS:
        raise FitError.of("kind", kind, "must be one of " + ", ".join(KINDS), usual_kind(result))
    if not 0 < level < 1:
        raise FitError.of("confidence", level, "must lie between 0 and 1", 0.9)
    low, high = _limits(result, name, kind, level)
    hidden, _ = withheld(result, name, kind)
    return np.where(hidden, np.nan, low), np.where(hidden, np.nan, high)


def _limits(result: Any, name: str, kind: str, level: float) -> tuple[Array, Array]:
    if kind == "profile":
        return profile_limits(result, name, level)
    if kind == "wald":
        return _wald(result, name, level)
    if result.bootstrap is None:
        raise FitError.of("kind", kind, "needs a fit with bootstrap=", "wald or profile")
    if kind == "percentile":
        return _percentile(result, name, level)
    refuse_unsteady(result.law)
    if result.boot_errors is None:
        rule = "needs a fit with bootstrap=studentised, wild or wild_runs"
        raise FitError.of("kind", kind, rule, "percentile")
    return _studentised(result, name, level)


def refuse_unsteady(law: str) -> None:
    """Refuses studentised limits of a law where they do not hold what they promise.

    Raises:
        FitError: such a law.
    """
    if law in UNSTEADY:
        rule = f"holds the truth of {law} less often than it states (docs/coverage.md)"
        raise FitError.of("kind", "studentised", rule, "parametric percentiles, or profile")


def quantile(result: Any, level: float) -> Array:
    """How many standard errors an interval reaches to each side, an entry a problem."""
    tail = 0.5 + level / 2
    if result.known_noise:
        return np.full(len(result), stats.norm.ppf(tail))
    freedom = result.freedom
    return np.where(freedom > 0, stats.t.ppf(tail, np.maximum(freedom, 1)), np.nan)


def _wald(result: Any, name: str, level: float) -> tuple[Array, Array]:
    reach = quantile(result, level)
    if of_any_sign(name):
        value, width = result[name], reach * result.errors[name]
        return value - width, value + width
    return around(result[name], result.errors[name], reach)


def around(value: Array, error: Array, reach: Array) -> tuple[Array, Array]:
    """Limits `reach` errors away, in the logarithm of positive values."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = np.exp(reach * error / np.abs(value))
        positive = value > 0
        low = np.where(positive, value / ratio, value - reach * error)
        high = np.where(positive, value * ratio, value + reach * error)
    return low, high


def _percentile(result: Any, name: str, level: float) -> tuple[Array, Array]:
    low, high = replicate_limits(result, result.replicates(name), level)
    if result.law in NON_REGULAR and result.resample not in WILD:
        other = _wald(result, name, level)
        low, high = np.fmin(low, other[0]), np.fmax(high, other[1])
    return low, high


def replicate_limits(result: Any, values: Array, level: float) -> Array:
    """(2, problems): limits from replicates of any quantity, (problems, replicates) in `values`.

    NaN where a tenth of the replicates failed, or too few points or runs were drawn.
    """
    how, factor = result.resample, np.ones(len(result))
    known = bool(result.known_noise)
    fewest = np.array([least_drawn(how, int(k), known) for k in result.free_params])
    if how in RESAMPLED + WILD:
        factor, _ = stretch(how, level, result.drawn, result.free_params)
    failed = 1 - np.isfinite(values).mean(axis=1)
    shown = (failed <= MOST_FAILED) & (result.drawn >= fewest)
    return np.where(shown, stretched_percentiles(values, level, factor), np.nan)


def least_drawn(how: str, params: int, known_noise: bool) -> int:
    """The fewest points, or runs, that can give an interval by a bootstrap.

    p + 1 points resampled are always the same points; two runs know their spread no better than to
    a factor of six; p points do not know their noise.
    """
    if how in BY_RUN:
        return 3
    if how in RESAMPLED + WILD:
        return params + 2
    return params + (0 if known_noise else 1)


def _studentised(result: Any, name: str, level: float) -> tuple[Array, Array]:
    value, error = result[name][:, None], result.errors[name][:, None]
    values, errors = result.replicates(name), result.replicate_errors(name)
    tail = 0.5 * (1 - level)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        positive = (value > 0)[:, 0]
        logs = np.log(values / value) * values / errors
        plain = (values - value) / errors
        pivots = np.where(value > 0, logs, plain)
        failed = 1 - np.isfinite(pivots).mean(axis=1)
        ends = row_percentiles(pivots, [tail, 1 - tail])
        low, high = np.where(failed <= MOST_FAILED, ends, np.nan)
        own = (error / np.abs(value))[:, 0]
        down, up = -high * own, -low * own
        value, error = value[:, 0], error[:, 0]
        lower = np.where(positive, value * np.exp(down), value - high * error)
        upper = np.where(positive, value * np.exp(up), value - low * error)
    return lower, upper
