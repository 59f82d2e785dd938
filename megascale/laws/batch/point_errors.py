"""How sure each point of E(S) is expected to be, and what the fits leave of such errors.

A point's curve states an error of log E (`log_error`). Near B_min, where the loss hardly falls, it
is ten times that of other batches, and these points have so much leverage that their residuals do
not show it. Nor is it the whole error: another seed would differ by more than a curve's own noise
tells; and where evaluations are few it may be overstated. So the stated errors give the shape, and
the residuals the size: with M the fits' residual-maker, the squared residuals are expected to sum
up to tr(M W) for errors of variances W = own^2 + spread^2, which fixes the spread between runs; if
the own errors alone make more than there is, they are scaled down.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.formats.tokens_to_loss import tokens_at_batch
from megascale.laws.batch.tokens_steps import TokensStepsFits
from megascale.laws.run_errors import RunErrors, draw_run_errors

FIRST_SPREAD = 0.01
"""What runs of other seeds differ by in log E, where there are no residuals to tell."""
LEAST_ERROR = 1e-6
DIFFERENCE = 1e-4


@dataclass(frozen=True)
class PointErrors:
    """Expected errors of all points.

    Attributes:
        unit: (points,) of log E.
        left: (groups,) what such errors leave of the squared residuals, in units of them.
    """

    unit: Array
    left: Array


def draw_point_errors(fits: TokensStepsFits, count: int, seed: int) -> RunErrors:
    """Errors of log E around the fitted laws, whole runs together.

    Args:
        fits: of all groups.
        count, seed: of the draws.
    """
    owner, group, setting = fits.layout()
    expected = expect_errors(fits)
    return draw_run_errors(
        fits.log_residuals(),
        owner,
        group,
        setting,
        unit=expected.unit,
        left=expected.left,
        spare=np.diff(fits.offsets) - fits.result.free_params.astype(np.float64),
        count=count,
        seed=seed,
    )


def expect_errors(fits: TokensStepsFits) -> PointErrors:
    """Expected errors of the points of some fits, each setting by itself."""
    _, group, setting = fits.layout()
    residual = np.nan_to_num(fits.log_residuals())
    own = _stated(fits.points)
    spare = np.diff(fits.offsets) - fits.result.free_params.astype(np.float64)
    unit = np.empty(len(residual))
    left = np.maximum(spare, 0.0)
    makers = None if own is None else _residual_makers(fits)
    for number in np.unique(setting):
        here = setting[group] == number
        groups = np.flatnonzero(setting == number)
        square = float((residual[here] ** 2).sum())
        freedom = float(left[groups].sum())
        if own is None or makers is None:
            unit[here] = np.sqrt(square / freedom) if freedom > 0 else FIRST_SPREAD
            continue
        if freedom > 0:
            by_own = sum(float(np.diag(makers[g]) @ own[group == g] ** 2) for g in groups)
            shrink = min(1.0, square / by_own) if by_own > 0 else 1.0
            spread = max(0.0, square - by_own) / freedom
        else:
            shrink, spread = 1.0, FIRST_SPREAD**2
        unit[here] = np.sqrt(shrink * own[here] ** 2 + spread)
    unit = np.maximum(unit, LEAST_ERROR)
    if makers is not None:
        for g, maker in enumerate(makers):
            own_unit = unit[group == g]
            inside = maker * own_unit
            left[g] = float((inside**2).sum(axis=1) @ own_unit**-2.0) if spare[g] > 0 else 0.0
    return PointErrors(unit, left)


def _stated(points: pl.DataFrame) -> Array | None:
    """`log_error` of every point; None where one is missing."""
    if "log_error" not in points.columns:
        return None
    own = points["log_error"].cast(pl.Float64).fill_nan(None)
    return None if own.null_count() else own.to_numpy()


def _residual_makers(fits: TokensStepsFits) -> list[Array]:
    """I - J (J' J)^-1 J' of every group, J the derivatives of log E by the log parameters."""
    batch = fits.points["batch_tokens"].to_numpy()
    _, group, _ = fits.layout()
    names = list(fits.result.params)
    params = {name: fits.result.params[name][group] for name in names}

    def slope(name: str) -> Array:
        up, down = (
            tokens_at_batch(fits.law, params | {name: params[name] * factor}, batch)
            for factor in (np.exp(DIFFERENCE), np.exp(-DIFFERENCE))
        )
        with np.errstate(all="ignore"):
            return np.log(up / down) / (2 * DIFFERENCE)

    columns = [slope(name) for name in names]
    jacobian = np.nan_to_num(np.stack(columns, axis=1), posinf=0.0, neginf=0.0)
    makers = []
    for begin, end in pairwise(fits.offsets):
        own = jacobian[begin:end]
        basis, size, _ = np.linalg.svd(own, full_matrices=False)
        basis = basis[:, size > 1e-8 * max(float(size.max()), 1e-300)]
        makers.append(np.eye(end - begin) - basis @ basis.T)
    return makers
