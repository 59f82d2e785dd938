"""What a fit's own points say against it, once the solver has converged.

A solver can converge on a law that its points refute. Three checks, for the laws whose point is an
optimum (tokens and steps, quadratics of a logarithm):

- the law says "never" at a batch that reached the loss: B_min lies above it;
- the residuals are far above the noise that the points themselves state, by several runs of one
  batch or by how rough log E is from batch to batch;
- the optimum lies outside the inputs that were run: an extrapolation, not a finding.
"""

from __future__ import annotations

import numpy as np

from megascale.fitting.catalogue import Law
from megascale.fitting.points import Points
from megascale.fitting.status import Flag
from megascale.formats.tokens_to_loss import tokens_at_batch

Array = np.ndarray

FAR_ABOVE = 3.0
"""Residuals of so many times the stated noise are a misfit, not luck."""
LEAST_FREEDOM = 5
"""Repeated points, or second differences, that state a noise at least."""
ROUNDING = 1e-6
"""Noise below it is rounding: of log E."""


def unsupported(
    law: Law,
    params: dict[str, Array],
    derived: dict[str, Array],
    points: Points,
    weights: Array | None,
) -> Array:
    """Flags of every problem whose points speak against its fit.

    Args:
        law: of the engine.
        params, derived: {name: (problems,) array}.
        points: the ragged problems that were fitted.
        weights: a weight a point, or None; points of weight zero say nothing.

    Returns:
        (problems,) bits of `Flag`.
    """
    flags = np.zeros(points.problems, dtype=np.int64)
    kept = np.ones(len(points.y), dtype=bool) if weights is None else weights > 0
    owner = np.repeat(np.arange(points.problems), np.diff(points.offsets))
    if law.tokens_steps:
        with np.errstate(all="ignore"):
            batch = points.y / points.x[0]
            own = {name: value[owner] for name, value in params.items()}
            form = "wsd" if law.name == "wsd_natural" else law.name
            residual = np.log(tokens_at_batch(form, own, batch) / points.y)
        never = kept & ~np.isfinite(residual)
        flags[np.unique(owner[never])] |= Flag.NEVER_REACHED
        used = kept & np.isfinite(residual) & (points.y > 0) & np.isfinite(points.y)
        scatter = root_mean_square(residual[used], owner[used], points.problems)
        with np.errstate(all="ignore"):
            noise = stated_noise(
                np.log(batch[used]), np.log(points.y[used]), owner[used], points.problems
            )
        flags[scatter > FAR_ABOVE * np.maximum(noise, ROUNDING)] |= Flag.ABOVE_NOISE
        if "B_opt" in derived:
            flags[outside(derived["B_opt"], batch, owner, kept)] |= Flag.OUTSIDE
    elif law.name.startswith("log_quadratic"):
        for name, column in zip(("eta_opt", "B_opt"), points.x, strict=False):
            flags[outside(params[name], column, owner, kept)] |= Flag.OUTSIDE
    return flags


def outside(value: Array, column: Array, owner: Array, kept: Array) -> Array:
    """Whether each problem's value lies outside its own points; NaN does not."""
    low = np.full(len(value), np.inf)
    high = np.full(len(value), -np.inf)
    with np.errstate(invalid="ignore"):
        np.minimum.at(low, owner[kept], column[kept])
        np.maximum.at(high, owner[kept], column[kept])
    edge = 1e-9
    return (value < low * (1 - edge)) | (value > high * (1 + edge))


def root_mean_square(residual: Array, owner: Array, problems: int) -> Array:
    """Of every problem's residuals; NaN where it has none."""
    count = np.bincount(owner, minlength=problems)
    with np.errstate(all="ignore"):
        return np.sqrt(np.bincount(owner, residual**2, minlength=problems) / count)


def stated_noise(x: Array, y: Array, owner: Array, problems: int) -> Array:
    """Standard deviation of y that the points state by themselves, without any law.

    Where points repeat an x (several runs of one batch), the scatter of the repeats. Otherwise the
    mean square of second differences, y against the straight line between its neighbours
    (Gasser, Sroka and Jennen-Steinmetz 1986): no smaller than the noise, since a bend adds to it.

    Args:
        x, y, owner: (points,) input, target and problem of every point.
        problems: how many.

    Returns:
        (problems,), infinite where the points state nothing.
    """
    order = np.lexsort([x, owner])
    x, y, owner = x[order], y[order], owner[order]
    new = np.ones(len(x), dtype=bool)
    new[1:] = (np.diff(owner) != 0) | (np.abs(np.diff(x)) > 1e-9 * np.maximum(np.abs(x[1:]), 1.0))
    place = np.cumsum(new) - 1
    repeats = np.bincount(place)
    means = np.bincount(place, y) / repeats
    at, holder = x[new], owner[new]
    squares = np.bincount(owner, (y - means[place]) ** 2, minlength=problems)
    freedom = np.bincount(holder, repeats - 1, minlength=problems)
    inner = np.flatnonzero(holder[:-2] == holder[2:]) + 1 if len(at) > 2 else np.empty(0, int)
    left = (at[inner + 1] - at[inner]) / (at[inner + 1] - at[inner - 1])
    gap = left * means[inner - 1] + (1 - left) * means[inner + 1] - means[inner]
    scale = left**2 / repeats[inner - 1] + (1 - left) ** 2 / repeats[inner + 1] + 1 / repeats[inner]
    rough = np.bincount(holder[inner], gap**2 / scale, minlength=problems)
    count = np.bincount(holder[inner], minlength=problems)
    with np.errstate(all="ignore"):
        by_repeats = np.sqrt(squares / freedom)
        by_roughness = np.sqrt(rough / count)
    noise = np.where(count >= LEAST_FREEDOM, by_roughness, np.inf)
    return np.where(freedom >= LEAST_FREEDOM, by_repeats, noise)
