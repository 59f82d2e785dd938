"""Interval kinds of a fit, and what each needs before it can be believed.

wald: Student's t of the standard error, in the logarithm of positive quantities; the normal's where
    the noise is known.
percentile: percentiles of bootstrap values; of resampled points or runs, percentiles as far out as
    so few can stand for (Hesterberg 2015, section 4.3).
studentised: (replicate - fit) / (the replicate's own error), times the fit's error (Efron and
    Tibshirani 1993, section 12.5).
profile: the values that the points do not refute, see `profile`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from megascale.errors import FitError
from megascale.fitting.profile import profile_limits

Array = np.ndarray

KINDS = ("wald", "percentile", "studentised", "profile")
RESAMPLED = ("pairs", "runs")
"""Bootstraps that draw what was measured with replacement."""
WILD = ("wild", "wild_runs")
"""Bootstraps that draw factors of residuals."""
BY_RUN = ("runs", "wild_runs")
UNSTEADY = ("wsd", "noise_floor")
"""Laws whose replicates have errors of wildly different size (branches without points, a vanishing
floor): studentised limits of 90 % hold the truth in 40 to 80 % of studies and are refused."""


def usual_kind(result: Any) -> str:
    """The kind that a result gives when none is asked for."""
    if result.bootstrap is None:
        return "wald"
    return "studentised" if result.settings.get("bootstrap") == "studentised" else "percentile"


def limits(result: Any, name: str, kind: str, level: float) -> tuple[Array, Array]:
    """Lower and upper limits of a quantity, an entry a problem; NaN where they are withheld.

    Raises:
        FitError: an unknown kind, or one that the fit's options cannot give.
    """
    if kind not in KINDS:
        raise FitError.of("kind", kind, "must be one of " + ", ".join(KINDS), usual_kind(result))
    if not 0 < level < 1:
        raise FitError.of("confidence", level, "must lie between 0 and 1", 0.9)
    if kind == "profile":
        return profile_limits(result, name, level)
    if kind == "wald":
        return _wald(result, name, level)
    if result.bootstrap is None:
        raise FitError.of("kind", kind, "needs a fit with bootstrap=", "wald or profile")
    if kind == "percentile":
        return _percentile(result, name, level)
    refuse_unsteady(result.law)
    if result.boot_triangle is None:
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
    freedom = result.points - result.free_params
    return np.where(freedom > 0, stats.t.ppf(tail, np.maximum(freedom, 1)), np.nan)


def _wald(result: Any, name: str, level: float) -> tuple[Array, Array]:
    return around(result[name], result.errors[name], quantile(result, level))


def around(value: Array, error: Array, reach: Array) -> tuple[Array, Array]:
    """Limits `reach` errors away, in the logarithm of positive values."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = np.exp(reach * error / np.abs(value))
        positive = value > 0
        low = np.where(positive, value / ratio, value - reach * error)
        high = np.where(positive, value * ratio, value + reach * error)
    return low, high


def _percentile(result: Any, name: str, level: float) -> tuple[Array, Array]:
    values = result.replicates(name)
    tail = np.full(len(result), 0.5 * (1 - level))
    how = result.settings.get("bootstrap")
    if how in RESAMPLED + WILD:
        tail = resampled_tail(how, result.drawn, result.free_params, level)
        tail = np.where(tail * values.shape[1] >= 1, tail, np.nan)
    return _quantiles(values, tail, 1 - tail)


def resampled_tail(how: str, drawn: Array, params: Array, level: float) -> Array:
    """The share of replicates to leave out on each side where noise is drawn from the points' own.

    Percentiles reach as far as a normal's quantile, where n points of unknown noise ask for
    Student's t with n - p degrees of freedom (n runs: n - 1); the share is that of the normal
    beyond the latter. Residuals of a wild bootstrap are smaller than their noise even with the
    root of one minus the leverage made up for: they reach sqrt(n / freedom) further.
    """
    freedom = drawn - (1 if how in BY_RUN else params)
    safe = np.maximum(freedom, 1)
    reach = stats.t.ppf(0.5 + level / 2, safe)
    if how in WILD:
        reach = reach * np.sqrt(drawn / safe)
    return np.where(freedom > 0, stats.norm.cdf(-reach), 0.0)


def least_drawn(how: str, params: int, level: float, replicates: int) -> int:
    """The fewest points, or runs, that can give an interval."""
    count = 2 if how in BY_RUN else params + 1
    while resampled_tail(how, np.array(count), np.array(params), level) * replicates < 1:
        count += 1
        if count > params + 1000:
            break
    return count


def _studentised(result: Any, name: str, level: float) -> tuple[Array, Array]:
    value, error = result[name][:, None], result.errors[name][:, None]
    values, errors = result.replicates(name), result.replicate_errors(name)
    tail = np.full(len(result), 0.5 * (1 - level))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        positive = (value > 0)[:, 0]
        logs = np.log(values / value) * values / errors
        plain = (values - value) / errors
        pivots = np.where(value > 0, logs, plain)
        low, high = _quantiles(pivots, tail, 1 - tail)
        own = (error / np.abs(value))[:, 0]
        down, up = -high * own, -low * own
        value, error = value[:, 0], error[:, 0]
        lower = np.where(positive, value * np.exp(down), value - high * error)
        upper = np.where(positive, value * np.exp(up), value - low * error)
    return lower, upper


def _quantiles(values: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Quantiles of each row's finite values at the row's own levels.

    NaN where a tenth of the replicates or more failed: those would be the extreme ones.
    """
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf), axis=1)
    count = np.isfinite(values).sum(axis=1)
    enough = (count >= 2) & (count > 0.9 * values.shape[1]) & ~np.isnan(low)
    out = []
    for level in (low, high):
        at = np.where(enough, level, 0.0) * np.maximum(count - 1, 0)
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, np.maximum(count - 1, 0))
        rows = np.arange(len(values))
        left, right = ordered[rows, below], ordered[rows, above]
        with np.errstate(invalid="ignore"):
            out.append(np.where(enough, left + (at - below) * (right - left), np.nan))
    return out[0], out[1]
