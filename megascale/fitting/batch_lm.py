"""Levenberg-Marquardt for many small problems at once, one array operation for all of them.

The problems share their number of parameters and are padded to one number of points; a residual
function is called with the rows it is to evaluate. The damping is Nielsen's (IMM-REP-1999-05), the
scaling Marquardt's running maximum of the normal matrix' diagonal; the first step is no longer than
the start itself in that scale (More 1978), later ones follow how well the last was predicted.
Bounds are kept by projection: a parameter on a bound whose gradient points outward is held for the
step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Residuals = Callable[[Array, Array], Array]
"""(rows [m], parameters [m, k]) -> residuals [m, n], each multiplied by the root of its weight."""

FORWARD = float(np.sqrt(np.finfo(float).eps))
CENTRAL = float(np.cbrt(np.finfo(float).eps))
HIGHEST_DAMPING = 1e14


@dataclass
class Minima:
    """Where every problem ended.

    Attributes:
        theta: parameters, [m, k].
        cost: half the sum of squared residuals, or of Huber losses, [m].
        residuals: at `theta`, [m, n].
        jacobian: of the residuals at the last accepted point, [m, n, k].
        evaluations: residual vectors worked out, differences included, [m].
        success: whether a step or the predicted decrease fell below the tolerance, [m].
    """

    theta: Array
    cost: Array
    residuals: Array
    jacobian: Array
    evaluations: Array
    success: Array


def huber_cost(residuals: Array, delta: float) -> Array:
    """Half the summed loss of each row: squares, Huber's beyond `delta` (infinite: none)."""
    size = np.abs(residuals)
    if not np.isfinite(delta):
        return 0.5 * np.einsum("mn,mn->m", residuals, residuals)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(axis=1)


def minimise(
    residuals: Residuals,
    start: Array,
    lower: Array,
    upper: Array,
    *,
    unit: Array,
    tolerance: float,
    evaluations: int,
    central: bool = False,
    delta: float = np.inf,
) -> Minima:
    """Minimise every problem from its own start.

    Args:
        residuals: see `Residuals`.
        start, lower, upper: parameters and their bounds, [m, k].
        unit: least size of each parameter that a difference step follows, positive, [m, k].
        tolerance: relative decrease of the cost, or change of the parameters, that ends a problem.
        evaluations: residual vectors that a problem may work out.
        central: central differences instead of forward ones.
        delta: where the Huber loss turns linear, in units of the weighted residual.
    """
    count, params = start.shape
    theta = np.clip(start, lower, upper)
    every = np.arange(count)
    r = residuals(every, theta)
    cost = huber_cost(r, delta)
    jacobian = np.zeros((*r.shape, params))
    normal, slope = np.zeros((count, params, params)), np.zeros((count, params))
    scale = np.zeros((count, params))
    damping, growth = np.full(count, 1e-3), np.full(count, 2.0)
    radius = np.full(count, np.inf)
    used = np.ones(count, np.int64)
    success, stale = np.zeros(count, bool), np.ones(count, bool)
    alive = every
    while len(alive):
        fresh = alive[stale[alive]]
        if len(fresh):
            j = differences(residuals, fresh, theta, r, lower, upper, unit, central)
            used[fresh] += (2 if central else 1) * params
            pull = np.ones_like(r[fresh])
            if np.isfinite(delta):
                pull = np.minimum(1.0, delta / np.maximum(np.abs(r[fresh]), 1e-300))
            weighted = j * pull[:, :, None]
            jacobian[fresh] = j
            normal[fresh] = np.matmul(weighted.transpose(0, 2, 1), j)
            slope[fresh] = np.einsum("mnk,mn->mk", weighted, r[fresh])
            diagonal = np.einsum("mkk->mk", normal[fresh])
            scale[fresh] = np.maximum(scale[fresh], diagonal)
            stale[fresh] = False
        step = _step(alive, theta, normal, slope, scale, damping, lower, upper)
        root = np.sqrt(scale[alive])
        first = np.isinf(radius[alive])
        radius[alive[first]] = np.linalg.norm(theta[alive] * root, axis=1)[first] + 1e-300
        length = np.linalg.norm(step * root, axis=1)
        step *= np.minimum(1.0, radius[alive] / np.maximum(length, 1e-200))[:, None]
        trial = np.clip(theta[alive] + step, lower[alive], upper[alive])
        step = trial - theta[alive]
        ahead = residuals(alive, trial)
        used[alive] += 1
        reached = huber_cost(ahead, delta)
        predicted = -np.einsum("mk,mk->m", slope[alive], step)
        predicted -= 0.5 * np.einsum("mk,mkl,ml->m", step, normal[alive], step)
        small = predicted <= tolerance * cost[alive]
        reach = np.abs(trial) + unit[alive]
        small |= (np.abs(step) <= tolerance * reach).all(axis=1)
        better = reached < cost[alive]
        length = np.linalg.norm(step * root, axis=1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.nan_to_num((cost[alive] - reached) / predicted)
        taken, left = alive[better], alive[~better]
        wider = np.maximum(radius[alive], 2 * length)
        radius[alive] = np.where(ratio > 0.75, wider, radius[alive])
        radius[alive] = np.where(ratio < 0.25, 0.25 * length, radius[alive]) + 1e-300
        theta[taken], r[taken], cost[taken] = trial[better], ahead[better], reached[better]
        stale[taken] = True
        gain = np.clip(ratio[better], 0, 1)
        damping[taken] *= np.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
        growth[taken] = 2.0
        damping[left] *= growth[left]
        growth[left] *= 2
        ended = small | (damping[alive] > HIGHEST_DAMPING)
        success[alive[ended]] = True
        alive = alive[~ended & (used[alive] < evaluations)]
    again = every[stale]
    if len(again):
        jacobian[again] = differences(residuals, again, theta, r, lower, upper, unit, central)
    return Minima(theta, cost, r, jacobian, used, success)


def differences(
    residuals: Residuals,
    rows: Array,
    theta: Array,
    at: Array,
    lower: Array,
    upper: Array,
    unit: Array,
    central: bool,
) -> Array:
    """Derivatives of the residuals of some rows by differences that stay within the bounds."""
    here = theta[rows]
    out = np.empty((len(rows), at.shape[1], theta.shape[1]))
    size = (CENTRAL if central else FORWARD) * np.maximum(np.abs(here), unit[rows])
    for k in range(theta.shape[1]):
        up, down = here.copy(), here.copy()
        up[:, k] = np.minimum(here[:, k] + size[:, k], upper[rows, k])
        if central:
            down[:, k] = np.maximum(here[:, k] - size[:, k], lower[rows, k])
        else:
            blocked = up[:, k] - here[:, k] < 0.5 * size[:, k]
            up[blocked, k] = here[blocked, k] - size[blocked, k]
            up[:, k] = np.maximum(up[:, k], lower[rows, k])
        width = up[:, k] - down[:, k]
        below = residuals(rows, down) if central else at[rows]
        rise = residuals(rows, up) - below
        with np.errstate(divide="ignore", invalid="ignore"):
            out[:, :, k] = np.where(width[:, None] != 0, rise / width[:, None], 0.0)
    return out


def _step(
    rows: Array,
    theta: Array,
    normal: Array,
    slope: Array,
    scale: Array,
    damping: Array,
    lower: Array,
    upper: Array,
) -> Array:
    """The damped step of some rows; 0 for parameters held on a bound."""
    matrix, pull = normal[rows].copy(), slope[rows].copy()
    held = (theta[rows] <= lower[rows]) & (pull > 0)
    held |= (theta[rows] >= upper[rows]) & (pull < 0)
    added = damping[rows, None] * scale[rows]
    held |= ~(np.einsum("mkk->mk", matrix) + added > 0)
    index = np.arange(theta.shape[1])
    matrix[:, index, index] += added
    matrix[held[:, :, None] | held[:, None, :]] = 0.0
    matrix[:, index, index] += held
    pull[held] = 0.0
    unit = 1 / np.sqrt(matrix[:, index, index])
    matrix *= unit[:, :, None] * unit[:, None, :]
    # A last bit of damping: rounding may leave a correlation matrix of two equal columns singular.
    matrix[:, index, index] += 1e-15
    with np.errstate(over="ignore"):
        found = np.linalg.solve(matrix, -(pull * unit)[:, :, None])[:, :, 0] * unit
    return np.where(np.isfinite(found), found, 0.0)
