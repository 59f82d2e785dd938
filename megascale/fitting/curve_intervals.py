"""Intervals of a fitted curve: of the law itself, and of points that are still to be measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting.intervals import around, quantile

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
    freedom = np.maximum(result.points - result.free_params, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(result.objective / freedom)[:, None]
    return scale * (1.0 if result.residual == "absolute" else np.abs(value))


def _percentiles(result: Any, flat: list[Array], noise: Array, level: float) -> tuple[Array, Array]:
    if result.bootstrap is None:
        raise FitError.of("kind", "percentile", "needs a fit with bootstrap=", "wald")
    low, high = np.empty_like(noise), np.empty_like(noise)
    freedom = result.points - result.free_params
    tail = 50 * (1 - level)
    for p in range(len(result)):
        drawn = _curve(result, result.bootstrap[p], flat).copy()
        if noise[p].any():
            rng = np.random.default_rng([int(result.settings.get("seed") or 0), p, 2])
            fresh = rng.standard_normal(drawn.shape)
            if not result.known_noise and freedom[p] > 0:
                scale = np.sqrt(freedom[p] / rng.chisquare(freedom[p], len(drawn)))
                fresh *= scale[:, None]
            drawn += noise[p] * fresh
        good = np.isfinite(drawn).all(axis=1)
        if good.sum() > 0.9 * len(drawn):
            low[p], high[p] = np.percentile(drawn[good], [tail, 100 - tail], axis=0)
        else:
            low[p] = high[p] = np.nan
    return low, high
