"""Covariance of a least-squares line whose points come in clusters that share errors.

The jackknife over clusters (CR3): every cluster is left out once, and the spread of the refits
about the fit is (G - 1)/G times their sum of squares. It needs no model of the errors within a
cluster and errs on the wide side where clusters are few (MacKinnon, Nielsen and Webb, Journal of
Econometrics 232 (2023), 272); Student's t with G - k degrees of freedom goes with it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def clustered_covariance(
    design: Array, residual: Array, weights: npt.ArrayLike | None, clusters: npt.ArrayLike
) -> tuple[Array, int]:
    """Covariance of the coefficients, and its degrees of freedom; NaN and 0 where there are none.

    Args:
        design: (points, parameters).
        residual: (points,) of the weighted fit.
        weights: of the squared residuals, or None.
        clusters: a label a point.
    """
    count = design.shape[1]
    labels = np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = int(labels.max()) + 1
    none = np.full((count, count), np.nan)
    if groups <= count:
        return none, 0
    root = np.ones(len(residual)) if weights is None else np.sqrt(np.asarray(weights))
    x, r = design * root[:, None], residual * root
    # Columns are scaled by an orthogonal basis, so that logs far from 0 lose no digits.
    basis, triangle = np.linalg.qr(x)
    total = np.zeros((count, count))
    for g in range(groups):
        own = labels == g
        q = basis[own]
        left = np.eye(count) - q.T @ q
        if np.linalg.cond(left) > 1e10:
            return none, 0
        step = np.linalg.solve(left, q.T @ r[own])
        total += np.outer(step, step)
    back = np.linalg.inv(triangle)
    return (groups - 1) / groups * back @ total @ back.T, groups - count
