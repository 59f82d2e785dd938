"""Logs of finished runs as a grid of final losses."""

from __future__ import annotations

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.curves.smoothing import Window
from megascale.curves.table import curves_from_table
from megascale.laws.learning_rate import CELL
from megascale.runs.table import RunTable

SAME_RATE = 0.1
"""Peak learning rates of runs that differ by less than this factor in log are one."""


def grid_of_runs(
    logs: RunTable, sizes: dict[str, float | None], loss: str, window: Window
) -> pl.DataFrame | None:
    """Return the finished runs as a grid: peak learning rate, constant batch, last smoothed loss.

    Args:
        logs: the runs.
        sizes: N of every run.
        loss: which losses, as `curves_from_table`.
        window: of smoothing.

    Returns:
        n_params, tokens, lr, batch_tokens, loss; one row a setting, of every (N, consumed tokens)
        that has at least two learning rates and two batches. None where there is none.
    """
    ends = dict(logs.table.group_by("run").agg(pl.col("tokens").max()).iter_rows())
    curves = curves_from_table(
        logs.table, n_params=sizes, loss=loss, window=window, phase="all"
    ).constant_batch()
    rows = [
        (curve.n_params, ends[curve.run], curve.lr, curve.batch_tokens, curve.final)
        for curve in curves
        if curve.n_params and curve.lr and ends[curve.run]
    ]
    schema = dict.fromkeys((*CELL, "lr", "batch_tokens", "loss"), pl.Float64)
    table = pl.DataFrame(rows, schema=schema, orient="row")
    rates = dict(zip(table["lr"], _merged(table["lr"].to_numpy()), strict=True))
    table = table.with_columns(pl.col("lr").replace_strict(rates, return_dtype=pl.Float64))
    several = (pl.col("lr").n_unique() > 1) & (pl.col("batch_tokens").n_unique() > 1)
    table = table.filter(several.over(CELL))
    settings = [*CELL, "lr", "batch_tokens"]
    table = table.group_by(settings, maintain_order=True).agg(pl.col("loss").mean())
    return None if table.is_empty() else table


def _merged(rates: Array) -> list[float]:
    """Each peak rate as the highest of those that follow each other closely.

    A rate that warms up or decays is logged a little below its peak, by how much depends on the
    batch.
    """
    order = np.argsort(rates)
    group = np.cumsum(np.diff(np.log(rates[order]), prepend=np.log(rates[order[:1]])) > SAME_RATE)
    peaks = np.empty(len(rates))
    for number in np.unique(group):
        members = order[group == number]
        peaks[members] = rates[members].max()
    return peaks.tolist()
