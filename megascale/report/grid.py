"""The section of learning-rate x batch grids: heatmaps, optima, convexity, the laws' points."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from megascale.curves.curve import Window, curves_from_table
from megascale.errors import FitError, UserError
from megascale.laws.grid.regret import published_pairs, published_regret, target_of_cell
from megascale.laws.grid.table import cell_quadratic
from megascale.laws.law_files import plain
from megascale.laws.learning_rate import CELL, near_optimal
from megascale.laws.power import PowerLaw, fit_power
from megascale.runs.table import RunTable

SAME_RATE = 0.1
"""Peak learning rates of runs that differ by less than this factor in log are one."""
REPLICATES = 200
NEEDS = (
    "It needs a table of finished runs with the columns lr, batch_tokens (or bs, in sequences), "
    "tokens (or D), n_params (or N) and loss, or logs of runs of one size and length that differ "
    "in both."
)


def grid_section(table: pl.DataFrame) -> dict[str, Any]:
    """Every (N, D) cell of a grid of finished runs.

    Args:
        table: n_params, tokens, lr, batch_tokens, loss (nats); repeated settings are averaged.

    Raises:
        FitError: no cell has two learning rates and two batches.
    """
    table = table.group_by([*CELL, "lr", "batch_tokens"], maintain_order=True).agg(
        pl.col("loss").mean()
    )
    table = table.sort([*CELL, "lr", "batch_tokens"])
    parts = table.partition_by(list(CELL), as_dict=True, maintain_order=True)
    found = [_cell(n, d, part) for (n, d), part in parts.items()]
    cells = [cell for cell in found if cell is not None]
    if not cells:
        raise FitError.of("grid", len(table), "no (N, D) has two learning rates and two batches")
    kept = table.join(
        pl.DataFrame({"n_params": [c["n_params"] for c in cells],
                      "tokens": [c["tokens"] for c in cells]}),
        on=list(CELL), how="semi",
    )  # fmt: skip
    return plain(
        {"cells": cells, "refit": _refit(kept), "regret": published_regret(kept), "runs": len(kept)}
    )


def grid_of_runs(loaded: RunTable, loss: str, window: Window) -> pl.DataFrame | None:
    """Logs of finished runs as a grid: peak learning rate, constant batch, last smoothed loss.

    Returns:
        The columns of a grid, with the runs of every (N, consumed tokens) that has at least two
        learning rates and two batches; None where there is none.
    """
    sizes = {run.run: run.meta.n_params for run in loaded.runs}
    ends = dict(loaded.table.group_by("run").agg(pl.col("tokens").max()).iter_rows())
    curves = curves_from_table(
        loaded.table, n_params=sizes, loss=loss, window=window, phase="all"
    ).constant_batch()
    rows = [
        (curve.n_params, ends[curve.run], curve.lr, curve.batch_tokens, float(curve.loss[-1]))
        for curve in curves
        if curve.n_params and curve.lr and ends[curve.run]
    ]
    schema = dict.fromkeys((*CELL, "lr", "batch_tokens", "loss"), pl.Float64)
    table = pl.DataFrame(rows, schema=schema, orient="row")
    rates = dict(zip(table["lr"], _merged(table["lr"].to_numpy()), strict=True))
    table = table.with_columns(pl.col("lr").replace_strict(rates, return_dtype=pl.Float64))
    several = (pl.col("lr").n_unique() > 1) & (pl.col("batch_tokens").n_unique() > 1)
    table = table.filter(several.over(CELL))
    return None if table.is_empty() else table


def _merged(rates: Any) -> list[float]:
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


def _cell(n: float, d: float, part: pl.DataFrame) -> dict[str, Any] | None:
    rates = part["lr"].unique().sort().to_numpy()
    batches = part["batch_tokens"].unique().sort().to_numpy()
    if len(rates) < 2 or len(batches) < 2:
        return None
    lr, batch, loss = (part[name].to_numpy() for name in ("lr", "batch_tokens", "loss"))
    matrix = np.full((len(batches), len(rates)), np.nan)
    matrix[np.searchsorted(batches, batch), np.searchsorted(rates, lr)] = loss
    at = int(np.argmin(loss))
    return {
        "n_params": n,
        "tokens": d,
        "lr": rates.tolist(),
        "batch_tokens": batches.tolist(),
        "loss": [[round(float(v), 5) for v in row] for row in matrix],
        "best": {"lr": lr[at], "batch_tokens": batch[at], "loss": loss[at]},
        "edge": bool(lr[at] in (rates[0], rates[-1]) or batch[at] in (batches[0], batches[-1])),
        "local_minima": _local_minima(matrix),
        "convex_share": _convex_share(matrix, rates, batches),
        "quadratic": cell_quadratic(lr, batch, loss, REPLICATES),
        "laws": _law_points(n, d),
    }


def _local_minima(matrix: Any) -> int:
    """Runs whose loss is below that of all their neighbours, diagonal ones included."""
    padded = np.pad(np.where(np.isnan(matrix), np.inf, matrix), 1, constant_values=np.inf)
    middle = padded[1:-1, 1:-1]
    rows, columns = matrix.shape
    lowest = np.isfinite(middle)
    for i in range(3):
        for j in range(3):
            if (i, j) != (1, 1):
                lowest &= middle < padded[i : i + rows, j : j + columns]
    return int(lowest.sum())


def _convex_share(matrix: Any, rates: Any, batches: Any) -> dict[str, int]:
    """How many neighbouring triples along a row or column bend upwards, in logs."""
    positive = counted = 0
    for table, x in ((matrix, np.log(rates)), (matrix.T, np.log(batches))):
        slope = np.diff(table, axis=1) / np.diff(x)
        bend = np.diff(slope, axis=1)
        positive += int((bend > 0).sum())
        counted += int(np.isfinite(bend).sum())
    return {"positive": positive, "counted": counted}


def _law_points(n: float, d: float) -> list[dict[str, Any]]:
    target = target_of_cell(n, d)
    rows = []
    for name, arxiv, laws in published_pairs():
        values = {column: law.evaluate(target).value for column, law in laws.items()}
        empty = dict.fromkeys(("lr", "batch_tokens"))
        rows.append({"name": name, "arxiv": arxiv, **empty, **values})
    return rows


def _refit(table: pl.DataFrame) -> dict[str, Any] | None:
    """Power laws through the near-optimal runs, as the Step Law's authors fit theirs."""
    near = near_optimal(table)
    try:
        n = near["n_params"].to_numpy() if near["n_params"].n_unique() > 1 else None
        d = near["tokens"].to_numpy()
        cells = near.select(pl.struct(CELL).rank("dense")).to_series()
        lr = fit_power(near["lr"].to_numpy(), d, n, clusters=cells)
        batch = fit_power(near["batch_tokens"].to_numpy(), d, clusters=cells)
    except UserError as error:
        return {"runs": len(near), "reason": str(error)}
    return {"runs": len(near), "reason": "", "lr": _power(lr), "batch": _power(batch)}


def _power(law: PowerLaw) -> dict[str, Any]:
    error = np.sqrt(np.diag(law.covariance))
    return {
        "coef": law.coef,
        "a": law.a if law.with_n else None,
        "b": law.b,
        "a_error": float(error[1]),
        "b_error": float(error[2]),
        "r_squared": law.r_squared,
    }
