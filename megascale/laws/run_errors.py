"""Errors of log E as runs have them: drawn from the residuals of whole runs.

All targets of a run are cut from one curve, and another seed moves them together, by how much
nobody can say beforehand. What the laws' residuals say of it is used as it is: with R the (runs,
targets) residuals of one setting, S = R' R / (m - k) estimates the covariance of one run's errors
across targets, and the errors of m new runs are drawn as Z R / sqrt(m - k) with Z standard normal,
(m, m). For laws that are linear in their parameters this is multivariate regression with one design
for all targets: the variance of any combination of targets' estimates is a chi-squared of m - k
degrees of freedom times the truth, so Student's t with m - k covers exactly, whatever the
correlation (T. W. Anderson, An Introduction to Multivariate Statistical Analysis, section 8.2).
The number of targets cut from the same runs adds no freedom.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import optimize

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


FIRST_SPREAD = 0.01
"""What runs of other seeds differ by in log E, where nothing tells."""
LEAST_ERROR = 1e-4
"""No point is surer than this: a tenth of a thousandth of its tokens."""


@dataclass(frozen=True)
class RunErrors:
    """How errors of log E are drawn.

    Attributes:
        draws: (count, points) errors of log E.
        freedom: (groups,) runs less parameters; at least 1.
        scale: (groups,) standard deviation of log E of one point.
    """

    draws: Array
    freedom: Array
    scale: Array


def draw_run_errors(
    residuals: Array,
    owner: Indices,
    group: Indices,
    setting: Indices,
    parameters: Sequence[int] | Array,
    count: int,
    seed: int,
    alone: float,
) -> RunErrors:
    """Draw errors of every point.

    Args:
        residuals: (points,) log E less the law's, in units of the point's expected error; NaN
            counts as 0.
        owner: (points,) number of the run.
        group: (points,) number of the fit.
        setting: (groups,) number of the group's N and learning rate; runs of other settings are
            independent.
        parameters: (groups,) free ones of each fit.
        count: of draws.
        seed: of the draws.
        alone: standard deviation to take where a group has as many points as parameters, and so no
            residuals.
    """
    rng = np.random.default_rng(seed)
    residuals = np.nan_to_num(residuals)
    size = np.bincount(group, minlength=len(setting)).astype(np.float64)
    spare = size - np.asarray(parameters, dtype=np.float64)
    freedom = np.maximum(spare, 1.0)
    square = np.bincount(group, residuals**2, minlength=len(setting))
    scale = np.sqrt(square / freedom)
    draws = np.zeros((count, len(residuals)))
    for points, row, column, groups in _by_setting(owner, group, setting):
        table = _table(residuals[points], row, column)
        # Z R and Z' T have one distribution where T is the triangle of R = Q T.
        triangle = np.linalg.qr(table / np.sqrt(freedom[groups]))[1]
        mixed = rng.standard_normal((count, len(table), len(triangle))) @ triangle
        draws[:, points] = mixed[:, row, column]
        for g in groups[spare[groups] <= 0]:
            here = np.flatnonzero(group == g)
            scale[g] = alone
            draws[:, here] = scale[g] * rng.standard_normal((count, len(here)))
    return RunErrors(draws, freedom, scale)


def residual_tables(
    residuals: Array, owner: Indices, group: Indices, setting: Indices
) -> list[Array]:
    """(runs, targets) residuals of every setting, 0 where a run has no point; as above."""
    residuals = np.nan_to_num(residuals)
    return [
        _table(residuals[points], row, column)
        for points, row, column, _ in _by_setting(owner, group, setting)
    ]


def _by_setting(
    owner: Indices, group: Indices, setting: Indices
) -> Iterator[tuple[Indices, Indices, Indices, Indices]]:
    """Points of each setting, their rows (runs) and columns (groups), and the groups' numbers."""
    for number in np.unique(setting):
        points = np.flatnonzero(setting[group] == number)
        row = np.unique(owner[points], return_inverse=True)[1]
        groups, column = np.unique(group[points], return_inverse=True)
        yield points, row, column, groups


def _table(residuals: Array, row: Indices, column: Indices) -> Array:
    table = np.zeros((int(row.max()) + 1, int(column.max()) + 1))
    table[row, column] = residuals
    return table


def stated_errors(points: pl.DataFrame) -> Array | None:
    """`log_error` of every point, standard errors of log E; None where one is missing."""
    if "log_error" not in points.columns:
        return None
    own = points["log_error"].cast(pl.Float64).fill_nan(None)
    return None if own.null_count() else np.maximum(own.to_numpy(), LEAST_ERROR)


def weights_of(own: Array, spread: float) -> Array:
    """Weights of squared errors of log E, largest 1.

    A point's variance is what its curve states (near B_min, where the curve is flat, many times
    that of other batches) and the square of what runs differ by beyond that.
    """
    variance = own**2 + spread**2
    return variance.min() / variance


def run_spread(residuals: Array, own: Array, parameters: int) -> float:
    """What runs differ by in log E beyond their own errors.

    The spread at which the squared residuals over own**2 + spread**2 sum up to the degrees of
    freedom (Paule and Mandel, J. Res. Natl. Bur. Stand. 87 (1982), 377); 0 where the own errors
    are enough, `FIRST_SPREAD` where there is no freedom.

    Args:
        residuals: (points,) of a weighted fit; NaN counts as 0.
        own: (points,) standard errors that the points state.
        parameters: fitted ones in all.
    """
    freedom = len(own) - parameters
    if freedom <= 0:
        return FIRST_SPREAD
    square = np.nan_to_num(residuals) ** 2

    def excess(spread: float) -> float:
        return float((square / (own**2 + spread**2)).sum()) - freedom

    if excess(0.0) <= 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, np.sqrt(square.sum() / freedom) + 1e-12))
