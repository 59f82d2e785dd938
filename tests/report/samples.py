"""Inputs with every section's data: runs of many batches, a grid of finished runs, a law file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from tests.laws.analysis_runs import Truth, run_table

BEST_LR, BEST_BATCH = 2e-3, 3e5


def write_runs(folder: Path) -> Path:
    """Constant-LR runs at nine batch sizes as one table."""
    path = folder / "runs.csv"
    run_table(Truth(), total_tokens=4e9, records=120, noise=0.003).write_csv(path)
    return path


def write_grid(folder: Path) -> Path:
    """Two (N, D) cells whose loss is an exact quadratic in log LR and log B."""
    rows = []
    for n, d in ((1e8, 4e9), (4e8, 2e10)):
        for lr in 2.0 ** np.arange(-12, -5):
            for batch in 2.0 ** np.arange(15, 23):
                u, v = np.log(lr / BEST_LR), np.log(batch / BEST_BATCH)
                loss = 2.5 + 0.02 * u * u - 0.008 * u * v + 0.015 * v * v
                rows.append({"N": n, "D": d, "lr": lr, "batch_tokens": batch, "loss": loss})
    path = folder / "grid.csv"
    pl.DataFrame(rows).write_csv(path)
    return path
