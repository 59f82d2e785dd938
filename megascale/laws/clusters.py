"""Covariance of a least-squares fit whose points come in clusters that share errors.

Points of one run go up and down together, and so do the near-optimal runs of one (N, D): they are
no independent evidence. The sandwich estimator by clusters needs no model of the errors within one;
its bias for few clusters is mended by "bias-reduced linearisation", which scales each cluster's
residuals by (I - H_gg)^(-1/2), H_gg its part of the hat matrix (R. M. Bell and D. F. McCaffrey,
Survey Methodology 28 (2002), 169; CR2 in later texts). Student's t goes with it, with as many
degrees of freedom as clusters less the parameters that are told apart between clusters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megascale.arrays import Array

MOST_LEVERAGE = 1 - 1e-9
"""A cluster that alone decides a parameter has leverage 1; its residuals say nothing of it."""


def clustered_covariance(
    design: Array, residual: Array, weights: npt.ArrayLike | None, clusters: npt.ArrayLike
) -> tuple[Array, int]:
    """Covariance of the coefficients, and the number of clusters.

    NaN where the design is degenerate or there are fewer than two clusters.

    Args:
        design: (points, parameters): derivatives of what was fitted.
        residual: (points,) of the fit.
        weights: of the squared residuals, or None.
        clusters: a label a point.
    """
    count = design.shape[1]
    labels = np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = int(labels.max()) + 1
    root = np.ones(len(residual)) if weights is None else np.sqrt(np.asarray(weights))
    # An orthogonal basis keeps the digits of columns that are nearly alike.
    basis, triangle = np.linalg.qr(design * root[:, None])
    if groups < 2 or np.linalg.cond(triangle / np.abs(triangle).max(axis=0)) > 1e13:
        return np.full((count, count), np.nan), groups
    total = np.zeros((count, count))
    for g in range(groups):
        own = labels == g
        leverage, axes = np.linalg.eigh(basis[own].T @ basis[own])
        scale = (1 - np.minimum(leverage, MOST_LEVERAGE)) ** -0.5
        step = axes @ (scale * (axes.T @ (basis[own].T @ (residual * root)[own])))
        total += np.outer(step, step)
    back = np.linalg.inv(triangle)
    return back @ total @ back.T, groups
