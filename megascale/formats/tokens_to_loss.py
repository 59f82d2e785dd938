"""The laws of tokens and steps as formulas, each form written once: E(S), S(B) and E(B).

A run at a constant batch B spends E = B S tokens on the S steps that it needs to a target loss L.
`wsd`, `classic`, `noise_floor` and `two_power` are laws of one target; the surface L(S, B) holds
for every target. Forms and parameters are those that `formats.law_file.TokensSteps` and the fitting
engine name. Parameters come as {name: number or array} and broadcast against the other arguments.
S is in steps, E and B in tokens, L in nats a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megascale.arrays import Array

Parameters = Mapping[str, Any]


def tokens_at_steps(form: str, p: Parameters, steps: npt.ArrayLike) -> Array:
    """Return E(S): tokens to the target in S steps; infinite at or below S_min.

    Args:
        form: `wsd`, `classic`, `noise_floor` or `two_power`.
        p: its parameters.
        steps: S.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _AT_STEPS[form](p, np.asarray(steps, float))


def steps_at_batch(form: str, p: Parameters, batch: npt.ArrayLike) -> Array:
    """Return S(B): steps to the target at batch B, where the ray E = B S meets the law.

    NaN where it never does: at or below B_min, or below the law's tangent from the origin.

    Args:
        form: `wsd`, `classic`, `noise_floor` or `two_power`.
        p: its parameters.
        batch: B in tokens.
    """
    batch = np.asarray(batch, float)
    if form == "wsd":
        with np.errstate(divide="ignore", invalid="ignore"):
            return _wsd_steps(p, batch)
    tokens = tokens_at_batch(form, p, batch)
    return np.where(np.isfinite(tokens), tokens, np.nan) / batch


def tokens_at_batch(form: str, p: Parameters, batch: npt.ArrayLike) -> Array:
    """Return E(B): tokens to the target at batch B; infinite where it is never reached.

    Args:
        form: `wsd`, `classic`, `noise_floor` or `two_power`.
        p: its parameters.
        batch: B in tokens.
    """
    batch = np.asarray(batch, float)
    with np.errstate(all="ignore"):
        if form == "wsd":
            steps = _wsd_steps(p, batch)
            return np.where(np.isfinite(steps), steps * batch, np.inf)
        return _AT_BATCH[form](p, batch)


def surface_loss(p: Parameters, steps: npt.ArrayLike, batch: npt.ArrayLike) -> Array:
    """Return L(S, B) of `loss_surface`: L_inf + a S^-p + c B^-q."""
    s, b = np.asarray(steps, float), np.asarray(batch, float)
    return p["L_inf"] + p["a"] * s ** -p["p"] + p["c"] * b ** -p["q"]


def surface_tokens(p: Parameters, target_loss: npt.ArrayLike, batch: npt.ArrayLike) -> Array:
    """Return E of `loss_surface`: tokens to a loss at batch B; infinite where it is not reached."""
    b = np.asarray(batch, float)
    left = np.asarray(target_loss, float) - p["L_inf"] - p["c"] * b ** -p["q"]
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(left > 0, b * (p["a"] / np.abs(left)) ** (1 / p["p"]), np.inf)


def tokens_to_targets(
    form: str, parameters: Mapping[str, Sequence[float]], target_loss: Sequence[float],
    batch: npt.ArrayLike,
) -> Array:  # fmt: skip
    """Return E to every target of a family at every batch, (targets, batches); infinite where
    never.

    Args:
        form, parameters, target_loss: as `formats.law_file.TokensSteps` holds them.
        batch: (batches,) in tokens.
    """
    p = {name: np.asarray(values, float)[:, None] for name, values in parameters.items()}
    batches = np.asarray(batch, float)[None, :]
    if form == "loss_surface":
        return surface_tokens(p, np.asarray(target_loss, float)[:, None], batches)
    return tokens_at_batch(form, p, batches)


def _classic_at_steps(p: Parameters, s: Array) -> Array:
    return np.where(s > p["S_min"], p["E_min"] * s / (s - p["S_min"]), np.inf)


def _classic_at_batch(p: Parameters, batch: Array) -> Array:
    return p["E_min"] + p["S_min"] * batch


def _noise_floor_at_steps(p: Parameters, s: Array) -> Array:
    inside = 1 - (p["S_min"] / s) ** p["p"]
    return np.where(s > p["S_min"], p["B_min"] * s * np.abs(inside) ** (-1 / p["q"]), np.inf)


def _noise_floor_at_batch(p: Parameters, batch: Array) -> Array:
    inside = 1 - (p["B_min"] / batch) ** p["q"]
    tokens = p["S_min"] * batch * np.abs(inside) ** (-1 / p["p"])
    return np.where(inside > 0, tokens, np.inf)


def _two_power_at_batch(p: Parameters, batch: Array) -> Array:
    return p["a"] * batch ** -p["u"] + p["c"] * batch ** p["w"]


def _two_power_at_steps(p: Parameters, s: Array) -> Array:
    """Bisects log B: S = E(B)/B falls with B up to where the far branch, if any, turns it."""
    a, c, u, w = (np.asarray(p[name], float) for name in ("a", "c", "u", "w"))
    turn = (a * (u + 1) / (c * np.maximum(w - 1, 1e-12))) ** (1 / (u + w))
    shape = np.broadcast_shapes(s.shape, a.shape)
    high = np.broadcast_to(np.where(w < 1, 700.0, np.log(turn)), shape).copy()
    low = np.full(shape, -700.0)
    for _ in range(200):
        middle = 0.5 * (low + high)
        more = a * np.exp(-(u + 1) * middle) + c * np.exp((w - 1) * middle) > s
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return s * np.exp(0.5 * (low + high))


def _wsd_at_steps(p: Parameters, s: Array) -> Array:
    b, a, c = p["S_1"] - p["S_min"], p["S_opt"] - p["S_1"], p["S_2"] - p["S_opt"]
    d, e = s - p["S_min"], s - p["S_opt"]
    left = a * a - 2 * a * b + 2 * a * b * b / d
    phi = np.where(d < b, left, np.where(e <= c, e * e, 2 * c * e - c * c))
    return np.where(d > 0, p["C"] * phi + p["E_min"], np.inf)


def _wsd_steps(p: Parameters, batch: Array) -> Array:
    """Where E = B S crosses the branch it meets first, in closed form; NaN where it meets none."""
    b, a, c = p["S_1"] - p["S_min"], p["S_opt"] - p["S_1"], p["S_2"] - p["S_opt"]
    curve, floor = p["C"], p["E_min"]
    # Inverse-linear branch: B d^2 + linear d - q = 0 in d = S - S_min.
    q = 2 * curve * a * b * b
    linear = batch * p["S_min"] - (curve * a * (a - 2 * b) + floor)
    root = np.sqrt(linear * linear + 4 * batch * q)
    d = np.where(linear > 0, 2 * q / (root + linear), (root - linear) / (2 * batch))
    # Quadratic branch: C e^2 - B e - excess = 0 in e = S - S_opt; no root below the tangent.
    excess = floor - batch * p["S_opt"]
    square = batch * batch - 4 * curve * excess
    middle = p["S_opt"] + 2 * excess / (batch + np.sqrt(np.maximum(square, 0)))
    # Linear branch A_1 S + A_0.
    a1, a0 = 2 * curve * c, floor - curve * c * (c + 2 * p["S_opt"])
    right = a0 / (batch - a1)
    left_first = batch * p["S_1"] > curve * a * a + floor
    past = (batch * p["S_2"] <= curve * c * c + floor) & (a0 > 0)
    steps = np.where(left_first, p["S_min"] + d, np.where(past, right, middle))
    meets = left_first | np.where(past, batch > a1, square >= 0)
    return np.where(meets & (steps > 0), steps, np.nan)


_AT_STEPS: dict[str, Callable[[Parameters, Array], Array]] = {
    "wsd": _wsd_at_steps,
    "classic": _classic_at_steps,
    "noise_floor": _noise_floor_at_steps,
    "two_power": _two_power_at_steps,
}
_AT_BATCH: dict[str, Callable[[Parameters, Array], Array]] = {
    "classic": _classic_at_batch,
    "noise_floor": _noise_floor_at_batch,
    "two_power": _two_power_at_batch,
}
