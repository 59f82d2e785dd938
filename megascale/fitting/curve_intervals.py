"""Intervals of a fitted curve: of the law itself, and of points that are still to be measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting.intervals import RESAMPLED, around, quantile, replicate_limits
from megascale.fitting.percentiles import WILD

Array = np.ndarray


def curve_limits(
    result: Any, columns: list[Array], level: float, new_points: bool, sigma: Any, kind: str
) -> tuple[Array, Array]:
    """`FitResult.predict_interval`, with the problems in front: (problems, *points).

    Args:
        result: a `FitResult`.
        columns: inputs, an array each.
        level: confidence.
        new_points: of measured points rather than of the law.
        sigma: standard deviation of the new points in the unit of y, or None for the fit's own.
        kind: "wald" (delta method) or "percentile".

    Raises:
        FitError: the options contradict each other or the residual.
    """
    shape = np.broadcast_shapes(*(c.shape for c in columns))
    flat = [np.broadcast_to(c, shape).reshape(1, -1) for c in columns]
    value = _curve(result, result.values, flat)
    noise = _noise(result, value, sigma) if new_points else np.zeros_like(value)
    if kind == "wald":
        error = np.sqrt(_variance(result, flat, value) + noise**2)
        low, high = around(value, error, quantile(result, level)[:, None])
    else:
        low, high = _percentiles(result, flat, noise, level)
    return low.reshape(len(result), *shape), high.reshape(len(result), *shape)


def _curve(result: Any, values: Array, flat: list[Array]) -> Array:
    """The law at the points for rows of parameters, (rows, points)."""
    params = {name: values[:, i : i + 1] for i, name in enumerate(result.names)}
    with np.errstate(all="ignore"):
        return np.broadcast_to(result._value(params, flat), (len(values), flat[0].shape[1]))


def _variance(result: Any, flat: list[Array], value: Array) -> Array:
    gradient = np.zeros((len(result.names), *value.shape))
    for i in range(len(result.names)):
        at = result.values[:, i]
        step = 6e-6 * np.where(at == 0, 1.0, np.abs(at))
        up, down = result.values.copy(), result.values.copy()
        up[:, i] += step
        down[:, i] -= step
        with np.errstate(invalid="ignore"):
            gradient[i] = (_curve(result, up, flat) - _curve(result, down, flat)) / (
                2 * step[:, None]
            )
    with np.errstate(invalid="ignore"):
        variance = np.einsum("ipn,pij,jpn->pn", gradient, result.covariance, gradient)
    return np.maximum(variance, 0.0) + 0 * variance


def _noise(result: Any, value: Array, sigma: Any) -> Array:
    """Standard deviation of a new point's target."""
    if sigma is not None:
        given = np.asarray(sigma, float)
        if not (np.isfinite(given) & (given >= 0)).all():
            raise FitError.of("sigma", sigma, "must be finite and not negative")
        try:
            return np.broadcast_to(given.reshape(-1), value.shape)
        except ValueError:
            rule = f"must be one number or {value.shape[1]}, one a new point"
            raise FitError.of("sigma", f"{given.size} numbers", rule) from None
    if result.residual == "ray":
        rule = "new points of ray noise move along E = B S, not at given S"
        raise FitError.of("new_points", True, rule, "residual='log', or sigma=")
    if result.known_noise or result._weights is not None:
        rule = "needs the new points' own standard deviation where those of the fit have weights"
        raise FitError.of("sigma", None, rule, "sigma=")
    scale = np.sqrt(result.residual_variance)[:, None]
    return scale * (1.0 if result.residual == "absolute" else np.abs(value))


def _percentiles(result: Any, flat: list[Array], noise: Array, level: float) -> tuple[Array, Array]:
    if result.bootstrap is None:
        raise FitError.of("kind", "percentile", "needs a fit with bootstrap=", "wald")
    limits = np.empty((2, *noise.shape))
    freedom = result.freedom
    drawn = np.empty((*noise.shape, result.bootstrap.shape[1]))
    for p in range(len(result)):
        values = _curve(result, result.bootstrap[p], flat).copy()
        if noise[p].any():
            rng = np.random.default_rng([int(result.settings.get("seed") or 0), p, 2])
            fresh = rng.standard_normal(values.shape)
            if not result.known_noise and freedom[p] > 0:
                fresh *= _drawn_scale(result, p, len(values), rng)
            values += noise[p] * fresh
        drawn[p] = values.T
    for k in range(noise.shape[1]):
        limits[:, :, k] = replicate_limits(result, drawn[:, k], level)
    return limits[0], limits[1]


def _drawn_scale(result: Any, p: int, count: int, rng: np.random.Generator) -> Array:
    """(count, 1): sizes of new noise that make percentiles as wide as Student's t.

    Limits of resampled replicates are stretched as a whole, those of wild ones also for residuals
    that the fit has shrunk; new noise is not shrunk.
    """
    freedom = result.freedom[p]
    if result.resample in WILD:
        units = float(result.drawn[p])
        return np.full((count, 1), np.sqrt(max(units - result.free_params[p], 1.0) / units))
    if result.resample in RESAMPLED:
        return np.ones((count, 1))
    return np.sqrt(freedom / rng.chisquare(freedom, (count, 1)))
