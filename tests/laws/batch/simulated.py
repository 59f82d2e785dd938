"""Points of E(S) of a known law of the family, with errors that each run has at all targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from megascale.formats.tokens_to_loss import tokens_at_batch

FAMILY_TOKENS = np.geomspace(2e8, 4e9, 8)
FAMILY_LOSSES = 4 - 0.15 * np.arange(8)


def family_best(tokens: Any) -> Any:
    """B_opt(D) of the families of `family_points`, for N = 1e8."""
    return 2.4 * tokens**0.53


def family_points(
    truth: str,
    seed: int,
    batches: int,
    sizes: Sequence[float | None] = (None,),
    delay: float = 0.015,
) -> pl.DataFrame:
    """Points of E(S) of one law of the family at every target, whose optima are a power law."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        shift = 1.0 if size is None else (size / 1e8) ** 0.2
        middle = shift * family_best(np.sqrt(FAMILY_TOKENS[0] * FAMILY_TOKENS[-1]))
        for batch in middle * np.geomspace(1 / 8, 8, batches):
            own_delay, rate = rng.standard_normal(2) * (delay, delay / 3)
            for loss, tokens in zip(FAMILY_LOSSES, FAMILY_TOKENS, strict=True):
                parameters = family(truth, tokens, shift * family_best(tokens))
                spent = float(tokens_at_batch(truth, parameters, np.array(batch)))
                if np.isfinite(spent) and spent < 6 * tokens:
                    error = own_delay + rate * np.log(tokens / 1e9) + 0.004 * rng.standard_normal()
                    rows.append((size, loss, batch, spent * np.exp(error), f"{size}-{batch:.0f}"))
    names = ["n_params", "target_loss", "batch_tokens", "tokens", "run"]
    return pl.DataFrame(rows, schema=names, orient="row")


def family(truth: str, tokens: float, best: float) -> dict[str, Any]:
    """Parameters of a law whose best batch takes so many tokens."""
    if truth == "two_power":
        u, w = 0.35, 0.5
        return {"a": tokens * w / (u + w) * best**u, "c": tokens * u / (u + w) * best**-w,
                "u": u, "w": w}  # fmt: skip
    if truth == "noise_floor":
        p, q = 0.6, 0.65
        least = best * (1 + q / p) ** (-1 / q)
        steps = tokens / best * (1 - (least / best) ** q) ** (1 / p)
        return {"S_min": steps, "B_min": least, "p": p, "q": q}
    steps = tokens / best
    shape = {"S_min": 0.45, "S_1": 0.75, "S_opt": 1.0, "S_2": 1.6}
    return {name: factor * steps for name, factor in shape.items()} | {
        "C": 0.3 * tokens / ((1.6**2 - 1) * steps**2),
        "E_min": tokens,
    }
