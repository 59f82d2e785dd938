"""Runs whose batch changed, beside the best run of one batch that is like them otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.curves.compare import compare_curves
from megascale.curves.curve import Curve
from megascale.curves.smoothing import Window
from megascale.curves.table import curves_from_table
from megascale.curves.verdict import verdict
from megascale.errors import UserError
from megascale.runs.table import RunTable

POINTS = 200
"""Token counts at which the two are set side by side."""
ALIKE = 0.02
"""Relative difference of total tokens, peak and last learning rate within which runs are alike."""


@dataclass(frozen=True, slots=True)
class GrowingRun:
    """A run whose batch changed beside its opponent.

    Attributes:
        run, opponent: names.
        sentence: how they stand.
        tokens: where both have been.
        loss, opponent_loss: smoothed losses there, nats.
        error: standard error of their difference by the curves, nats; NaN where not known.
        crossings: tokens where they change order.
    """

    run: str
    opponent: str
    sentence: str
    tokens: Array
    loss: Array
    opponent_loss: Array
    error: Array
    crossings: tuple[float, ...]


def growing_runs(
    logs: RunTable, sizes: Mapping[str, float | None], losses: str, window: Window
) -> list[GrowingRun]:
    """Return every run whose batch changed and that has an opponent.

    The opponent is, of the runs of one batch with the same N, total tokens, peak and last learning
    rate, the one of lowest final loss.

    Args:
        logs: of `load_runs`.
        sizes: N by run.
        losses, window: as `curves_from_table` takes them.
    """
    try:
        curves = curves_from_table(
            logs.table, n_params=sizes, loss=losses, window=window, phase="all"
        ).curves
    except UserError:
        return []
    last = _last_rates(logs.table)
    fixed = [curve for curve in curves if curve.batch_tokens is not None]
    said = []
    for curve in curves:
        if curve.batch_tokens is not None:
            continue
        alike = [other for other in fixed if _alike(curve, other, last)]
        if alike:
            best = min(alike, key=lambda other: other.final)
            said.append(_beside(curve, best))
    return said


def _beside(curve: Curve, best: Curve) -> GrowingRun:
    found = compare_curves(best, curve, rows=1)
    start, end = max(best.tokens[0], curve.tokens[0]), min(best.last, curve.last)
    at = np.linspace(start, end, POINTS)
    return GrowingRun(
        curve.run,
        best.run,
        verdict([found]),
        at,
        curve.at(at),
        best.at(at),
        np.hypot(curve.error_at(at), best.error_at(at)),
        tuple(crossing.tokens for crossing in found.crossings),
    )


def _last_rates(table: pl.DataFrame) -> dict[str, float | None]:
    rated = table.filter(pl.col("lr").is_not_null()).sort("tokens", maintain_order=True)
    return dict(rated.group_by("run").agg(pl.col("lr").last()).iter_rows())


def _alike(one: Curve, other: Curve, last: Mapping[str, float | None]) -> bool:
    pairs = (
        (one.last, other.last),
        (one.lr, other.lr),
        (last.get(one.run), last.get(other.run)),
    )
    if one.n_params != other.n_params:
        return False
    return all(_close(first, second) for first, second in pairs)


def _close(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) <= ALIKE * max(abs(first), abs(second))
