"""Known noise of the points: scipy's `sigma` and `absolute_sigma` as weights of a residual."""

from __future__ import annotations

from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting.points import Points, float_column

Array = np.ndarray


def weights_of_sigma(sigma: Any, points: Points, residual: str) -> Array:
    """Weights under which a weighted sum of squared residuals is chi-squared.

    Args:
        sigma: standard deviation of each target in the unit of y, as in scipy's `curve_fit`; one
            number stands for all points.
        points: the points.
        residual: kind of residual. All but "absolute" are relative to the target, to first
            order: their standard deviation is sigma / y. Along a ray E = B S noise moves log S
            as it does log E.

    Raises:
        FitError: not one positive number a point.
    """
    try:
        given = np.asarray(sigma)
        if np.iscomplexobj(given):
            rule = "must be real numbers"
            raise FitError.of("sigma", given.dtype, rule, "the real part, stated")
        given = given.astype(np.float64)
    except (TypeError, ValueError):
        given = np.full(0, np.nan)
    if given.ndim == 2 and given.shape == (len(points.y),) * 2 and len(points.y) > 1:
        rule = "a covariance of the points is not taken; give one standard deviation a point"
        raise FitError.of("sigma", f"{given.shape[0]} x {given.shape[1]}", rule)
    if given.ndim == 0:
        size = np.full(len(points.y), float(given))
    else:
        size = float_column(points.rearrange(sigma, "sigma"), "sigma")
    bad = ~(np.isfinite(size) & (size > 0))
    if bad.any():
        value = float(size[int(np.argmax(bad))])
        raise FitError.of("sigma", value, "must be positive and finite", "a standard deviation")
    if residual != "absolute":
        with np.errstate(divide="ignore", invalid="ignore"):
            size = size / np.abs(points.y)
    with np.errstate(divide="ignore"):
        weights = 1 / size**2
    # A target of 0 is refused by the fit itself, which names its row.
    return np.where(np.isfinite(weights), weights, 1.0)
