"""When a run reaches a loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from megascale.curves.curve import Curve
from megascale.curves.smoothing import Trend

ROUNDING = 1e-9
"""Relative error of token counts that went through their logarithm."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a curve comes down to a loss.

    Attributes:
        loss: nats per token.
        tokens: consumed tokens at which its trend first has that loss.
        log_error: standard error of log tokens from the scatter within the run: that of the
            loss there over the slope; NaN where it is not known.
    """

    loss: float
    tokens: float
    log_error: float


def reach(curve: Curve, loss: float) -> Reach | str:
    """Where the curve first comes down to a loss.

    That is read from the curve's trend; a loss below the trend that an evaluation has all the same
    is read from the curve through the evaluations themselves.

    Args:
        curve: of one run, or the mean of several.
        loss: nats per token.

    Returns:
        The place; in words why there is none: losses above a curve's first one or below its lowest
        are never extrapolated.
    """
    found = _first(curve.trend, loss)
    if found is None and curve.is_validation:
        found = _first(curve.line, loss)
    if found is None or found.tokens > curve.last * (1 + ROUNDING):
        return f"not reached: the lowest loss is {curve.lowest:.4f}"
    if found.tokens < curve.tokens[0] * (1 - ROUNDING):
        return f"the curve starts below it, at {float(curve.at(curve.tokens[0])):.4f}"
    return replace(found, tokens=min(found.tokens, curve.last))


def _first(trend: Trend, loss: float) -> Reach | None:
    """Where the trend first has a loss, 0 tokens where it starts below it; None where never."""
    below = trend.loss <= loss
    if not below.any():
        return None
    at = int(np.argmax(below))
    if at == 0:
        return Reach(loss, 0.0, np.nan)
    pair = slice(at - 1, at + 1)
    x, y = trend.x[pair], trend.loss[pair]
    share = float((y[0] - loss) / (y[0] - y[1]))
    tokens = float(np.exp(x[0] + share * (x[1] - x[0])))
    error = (1 - share) * trend.error[at - 1] + share * trend.error[at]
    slope = (1 - share) * trend.slope[at - 1] + share * trend.slope[at]
    if not slope < 0:
        slope = (y[1] - y[0]) / (x[1] - x[0])
    return Reach(loss, tokens, float(error / abs(slope)))
