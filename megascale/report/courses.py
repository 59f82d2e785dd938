"""What goes along a run beside its loss: learning rate, batch, gradient norm, throughput and the
gradient noise scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from megascale.formats.run_log import METRICS_FILE
from megascale.runs.readers.base import VALIDATION
from megascale.runs.table import LoadedRun, RunTable

POINTS_IN_ALL = 24_000
POINTS_A_RUN = (12, 160)
"""Points drawn in all, and the fewest and most of a run."""
OWN = "megascale"
"""Format of our own logs, which hold the noise scale."""


def run_courses(loaded: RunTable) -> list[dict[str, Any]]:
    """Every run's quantities, in the order of the runs; None where its log does not say.

    A point is the last record of a bin of neighbouring ones; of the gradient norm and the
    throughput it is the bin's mean. Throughput is tokens over the seconds that the log counts.
    """
    low, high = POINTS_A_RUN
    room = min(high, max(low, POINTS_IN_ALL // max(len(loaded.runs), 1)))
    parts = loaded.table.partition_by("run", as_dict=True, maintain_order=True)
    return [
        _course(parts.get((run.run,), loaded.table.clear()), room)
        | {"run": run.run, "noise_scale": _noise_scale(loaded, run, room)}
        for run in loaded.runs
    ]


def _course(rows: pl.DataFrame, room: int) -> dict[str, Any]:
    train = rows.filter(~pl.col("loss_kind").str.starts_with(VALIDATION).fill_null(False))
    train = train.filter(pl.col("tokens").is_not_null() & pl.col("step").is_not_null())
    bins = max(1, -(-len(train) // room))
    tokens = pl.col("tokens")
    found = (
        train.with_columns(consumed=tokens.diff().fill_null(tokens.first()))
        .group_by(pl.int_range(pl.len()) // bins, maintain_order=True)
        .agg(
            pl.col("tokens", "step", "lr", "batch_tokens").last(),
            pl.col("grad_norm").mean(),
            pl.when(pl.col("seconds").null_count() == 0)
            .then(pl.col("consumed").sum() / pl.col("seconds").sum())
            .alias("throughput"),
        )
    )
    clock = train["seconds"].cast(pl.Float64).fill_null(np.nan).cum_sum().to_numpy()
    ends = np.minimum(np.arange(1, len(found) + 1) * bins, len(train)) - 1
    whole = len(train) > 0 and bool(np.isfinite(clock).all())
    return {
        "tokens": found["tokens"].to_list(),
        "step": found["step"].to_list(),
        "seconds": [round(float(v), 3) for v in clock[ends]] if whole else None,
        "lr": _known(found["lr"]),
        "batch": _known(found["batch_tokens"]),
        "grad_norm": _known(found["grad_norm"]),
        "throughput": _known(found["throughput"]),
    }


def _known(values: pl.Series) -> list[float | None] | None:
    """Values to six digits; None where none is known."""
    made = [
        None if value is None or not np.isfinite(value) else float(f"{value:.6g}")
        for value in values.cast(pl.Float64).to_list()
    ]
    return made if any(value is not None for value in made) else None


def _noise_scale(loaded: RunTable, run: LoadedRun, room: int) -> dict[str, Any] | None:
    """Tokens, B_simple and its 95 % interval, as our own log measured them."""
    if run.format != OWN:
        return None
    found: list[tuple[int, float, float | None, float | None]] = []
    for index in run.files:
        path = loaded.files[index].path
        if path.name == METRICS_FILE and path.is_file():
            found += _measured(path)
    if not found:
        return None
    found = sorted(found)[:: -(-len(found) // room)]
    names = ("tokens", "value", "low", "high")
    return {
        name: list(column) for name, column in zip(names, zip(*found, strict=True), strict=True)
    }


def _measured(path: Path) -> list[tuple[int, float, float | None, float | None]]:
    found = {}
    with path.open("rb") as lines:
        for line in lines:
            if b'"noise_scale":' not in line:
                continue
            try:
                record = json.loads(line)
            except ValueError:
                continue  # named as malformed where the log is read
            if isinstance(record, dict) and record.get("noise_scale") is not None:
                limits = (record.get("noise_scale_low"), record.get("noise_scale_high"))
                found[record["tokens"]] = (record["tokens"], record["noise_scale"], *limits)
    return list(found.values())
