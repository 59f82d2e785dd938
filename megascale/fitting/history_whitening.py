"""Correlated residuals of one run made independent, as csrc/history/whitening.h does."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def whitened(kept: Array | None, common: Array | None, values: Array) -> Array:
    """Values (points, ...) of one run, in the order of tokens, made independent as the engine does
    (csrc/history/whitening.h)."""
    out = np.array(values, float)
    if kept is not None:
        scale = 1 / np.sqrt(1 - kept[1:] ** 2)
        out[1:] = ((out[1:].T - kept[1:] * out[:-1].T) * scale).T
    if common is not None:
        for shape in common:
            out -= np.multiply.outer(shape, shape @ out)
    return out
