"""Residuals of an engine law's points in the kind that was fitted, in the user's units."""

from __future__ import annotations

from typing import Any

import numpy as np

from megascale.fitting.catalogue import Law, predict
from megascale.formats.tokens_to_loss import steps_at_batch, tokens_at_batch

Array = np.ndarray


def law_residuals(
    law: Law, residual: str, params: dict[str, Any], x: list[Array], y: Array
) -> Array:
    """Residual of every point, before its weight; NaN where the law does not reach it.

    Args:
        law: of the engine.
        residual: kind of residual.
        params: {name: one value a point, or one for all}.
        x: inputs, an array each.
        y: targets.
    """
    with np.errstate(all="ignore"):
        if law.tokens_steps:
            batch = y / x[0]
            if residual == "ray" and law.name == "wsd":
                return np.log(steps_at_batch(law.name, params, batch) / x[0])
            if residual == "ray" and law.name == "classic":
                return tokens_at_batch(law.name, params, batch) / y - 1
            if law.name in ("noise_floor", "two_power"):
                value = tokens_at_batch(law.name, params, batch)
            else:
                value = predict(law.name, params, x)
        else:
            value = predict(law.name, params, x)
        return residual_between(value, y, residual)


def residual_between(value: Array, y: Array, residual: str) -> Array:
    """What a kind of residual makes of a law's value and a target."""
    with np.errstate(all="ignore"):
        if residual in ("log", "ray"):
            return np.log(value / y)
        return value / y - 1 if residual == "relative" else value - y
