"""Errors as runs have them: drawn from the residuals of whole runs.

All targets of a run are cut from one curve, and another seed moves them together, by how much
nobody can say beforehand. What the laws' residuals say of it is used as it is: with R the (runs,
targets) residuals of one setting, S = R' R / (m - k) estimates the covariance of one run's errors
across targets, and the errors of m new runs are drawn as Z R / sqrt(m - k) with Z standard normal,
(m, m). For laws that are linear in their parameters this is multivariate regression with one design
for all targets: the variance of any combination of targets' estimates is a chi-squared of m - k
degrees of freedom times the truth, so Student's t with m - k covers exactly, whatever the
correlation (T. W. Anderson, An Introduction to Multivariate Statistical Analysis, section 8.2).
The number of targets cut from the same runs adds no freedom. Where points are known to differ in
how sure they are, R holds their residuals in units of the expected error, and what is drawn is
multiplied by it; m - k then is what the fit is expected to leave of the squares of R.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array, Index


@dataclass(frozen=True)
class RunErrors:
    """How errors of log E are drawn.

    Attributes:
        draws: (count, points) errors.
        freedom: (groups,) runs less parameters; at least 1.
        scale: (groups,) size of the errors in units of the expected ones.
    """

    draws: Array
    freedom: Array
    scale: Array


def draw_run_errors(
    residuals: Array,
    owner: Index,
    group: Index,
    setting: Index,
    *,
    unit: Array,
    left: Array,
    spare: Array,
    count: int,
    seed: int,
) -> RunErrors:
    """Draw errors of every point.

    Args:
        residuals: (points,) of the fits; NaN counts as 0.
        owner: (points,) number of the run.
        group: (points,) number of the fit.
        setting: (groups,) number of the group's N and learning rate; runs of other settings are
            independent.
        unit: (points,) expected error.
        left: (groups,) sum of squared residuals in units of the expected errors that such errors
            leave; points less parameters where all expected errors are alike.
        spare: (groups,) points less parameters. Without any, errors of the expected size are drawn.
        count: of draws.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    residuals = np.nan_to_num(residuals) / unit
    exact = spare <= 0
    left = np.where(exact, 1.0, np.maximum(left, 1e-12))
    square = np.bincount(group, residuals**2, minlength=len(setting))
    scale = np.where(exact, 1.0, np.sqrt(square / left))
    draws = np.zeros((count, len(residuals)))
    for points, row, column, groups in _by_setting(owner, group, setting):
        table = _table(residuals[points], row, column)
        # Z R and Z' T have one distribution where T is the triangle of R = Q T.
        triangle = np.linalg.qr(table / np.sqrt(left[groups]))[1]
        mixed = rng.standard_normal((count, len(table), len(triangle))) @ triangle
        draws[:, points] = mixed[:, row, column]
        for g in groups[exact[groups]]:
            here = np.flatnonzero(group == g)
            draws[:, here] = rng.standard_normal((count, len(here)))
    return RunErrors(draws * unit, np.maximum(spare, 1.0), scale)


def residual_tables(residuals: Array, owner: Index, group: Index, setting: Index) -> list[Array]:
    """(runs, targets) residuals of every setting, 0 where a run has no point; as above."""
    residuals = np.nan_to_num(residuals)
    return [
        _table(residuals[points], row, column)
        for points, row, column, _ in _by_setting(owner, group, setting)
    ]


def _by_setting(
    owner: Index, group: Index, setting: Index
) -> Iterator[tuple[Index, Index, Index, Index]]:
    """Points of each setting, their rows (runs) and columns (groups), and the groups' numbers."""
    for number in np.unique(setting):
        points = np.flatnonzero(setting[group] == number)
        row = np.unique(owner[points], return_inverse=True)[1]
        groups, column = np.unique(group[points], return_inverse=True)
        yield points, row, column, groups


def _table(residuals: Array, row: Index, column: Index) -> Array:
    table = np.zeros((int(row.max()) + 1, int(column.max()) + 1))
    table[row, column] = residuals
    return table
