"""The section of loss curves: every run decimated to what a screen can show, crossings marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from megascale.errors import UserError
from megascale.laws.crossings import by_setting, crossing_table, find_crossings
from megascale.laws.curves import Array, Curves
from megascale.runs.log import METRICS_FILE, read_run
from megascale.runs.overview import overview
from megascale.runs.readers.base import VALIDATION
from megascale.runs.table import LoadedRun, RunTable

POINTS_IN_ALL = 60_000
POINTS_A_RUN = (16, 800)
"""Bins of records drawn in all, and the fewest and most a run gets."""
LEAST_SHADED = 20
"""Runs with fewer bins than this do not keep their bins' lowest and highest losses."""
PAIRS_SHOWN = 400


def run_rows(loaded: RunTable) -> list[dict[str, Any]]:
    """One row a run: what its logs say."""
    rows = []
    parts = loaded.table.partition_by("run", as_dict=True, maintain_order=True)
    for run in loaded.runs:
        own = parts.get((run.run,), loaded.table.clear())
        seen = overview(RunTable(own, [run], loaded.files), run)
        batches = [segment.batch_tokens for segment in seen.segments]
        rows.append(
            {
                "run": run.run,
                "format": run.format,
                "n_params": run.meta.n_params,
                "steps": seen.steps,
                "tokens": seen.tokens,
                "batch_tokens": batches,
                "loss": seen.loss,
                "validation_loss": seen.validation_loss,
                "malformed": seen.malformed,
                "source": seen.path,
            }
        )
    return rows


def drawn_curves(loaded: RunTable) -> list[dict[str, Any]]:
    """Training losses of every run, in bins of equally many records.

    A bin holds its records' mean loss (weighted by tokens), their lowest and highest, and the
    tokens, step and seconds of its last record. Where a run has no more records than bins, every
    record is drawn.
    """
    low, high = POINTS_A_RUN
    room = min(high, max(low, POINTS_IN_ALL // max(len(loaded.runs), 1)))
    curves = []
    parts = loaded.table.partition_by("run", as_dict=True, maintain_order=True)
    for run in loaded.runs:
        rows = parts.get((run.run,))
        if rows is None:
            continue
        validation = pl.col("loss_kind").str.starts_with(VALIDATION).fill_null(False)
        rows = rows.filter(pl.col("loss").is_not_null())
        train = rows.filter(~validation)
        curve = _binned(train if len(train) else rows, run, room)
        if len(train) and len(rows) > len(train):
            checks = rows.filter(validation)
            kept = checks if len(checks) <= room else checks.gather_every(len(checks) // room + 1)
            curve["validation"] = {
                "tokens": _integers(kept, "tokens"),
                "step": _integers(kept, "step"),
                "loss": [round(value, 6) for value in kept["loss"].to_list()],
            }
        curves.append(curve)
    return curves


def _binned(rows: pl.DataFrame, run: LoadedRun, room: int) -> dict[str, Any]:
    count = len(rows)
    bins = np.unique(np.linspace(0, count, min(room, count) + 1).astype(np.int64))
    starts, ends = bins[:-1], bins[1:] - 1
    loss = rows["loss"].to_numpy()
    tokens = rows["tokens"].cast(pl.Float64).to_numpy()
    weight = np.diff(tokens, prepend=0.0)
    if not (np.isfinite(weight).all() and (weight > 0).all()):
        weight = np.ones(count)
    known = rows["batch_tokens"].drop_nulls().unique().to_list()
    rates = rows["lr"].drop_nulls()
    curve: dict[str, Any] = {
        "run": run.run,
        "kind": rows["loss_kind"][0] if count else None,
        "n_params": run.meta.n_params,
        "batch_tokens": known[0] if len(known) == 1 else None,
        "batches": _batch_changes(rows) if len(known) > 1 else None,
        "lr": None if rates.is_empty() else _number(rates.max()),
        "records": count,
        "tokens": _integers(rows[ends], "tokens") if count else [],
        "step": _integers(rows[ends], "step") if count else [],
        "seconds": None,
        "loss": [],
        "low": None,
        "high": None,
        "validation": None,
    }
    if not count:
        return curve
    total = np.add.reduceat(weight, starts)
    curve["loss"] = _rounded(np.add.reduceat(loss * weight, starts) / total)
    if len(starts) < count and room >= LEAST_SHADED:
        curve["low"] = _rounded(np.minimum.reduceat(loss, starts))
        curve["high"] = _rounded(np.maximum.reduceat(loss, starts))
    seconds = _seconds(Path(rows["source"][0]), run.format)
    if seconds and curve["step"] is not None:
        at = [seconds.get(step) for step in curve["step"]]
        curve["seconds"] = at if None not in at else None
    return curve


def _seconds(path: Path, format: str) -> dict[int, float] | None:
    """Wall clock spent in training after every logged step of an own log."""
    if format != "megascale" or path.name != METRICS_FILE:
        return None
    try:
        records = read_run(path).records
    except UserError:
        return None
    spent, out = 0.0, {}
    for record in records:
        spent += float(record.get("seconds") or 0.0)
        out[record["step"]] = round(spent, 3)
    return out


def _batch_changes(rows: pl.DataFrame) -> list[list[int]]:
    """[start tokens, batch tokens] wherever a run's batch changes."""
    known = rows.filter(pl.col("batch_tokens").is_not_null() & pl.col("tokens").is_not_null())
    known = known.with_columns(id=pl.col("batch_tokens").rle_id())
    parts = known.group_by("id", maintain_order=True).agg(
        pl.col("tokens").first(), pl.col("batch_tokens").first()
    )
    starts = [0, *known.group_by("id", maintain_order=True).agg(pl.col("tokens").last())["tokens"]]
    return [[int(s), int(b)] for s, b in zip(starts, parts["batch_tokens"], strict=False)]


def _integers(rows: pl.DataFrame, column: str) -> list[int] | None:
    values = rows[column]
    return None if values.null_count() else [int(value) for value in values.to_list()]


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _number(value: Any) -> float:
    return float(value)


def crossing_rows(curves: Curves) -> list[dict[str, Any]]:
    """Crossings of neighbouring batch sizes of every setting."""
    settings = by_setting(curves.curves)
    usable = [c for group in settings.values() for c in group if _several_batches(group)]
    found = find_crossings(usable)[:PAIRS_SHOWN]
    return crossing_table(found).to_dicts() if found else []


def _several_batches(group: list[Any]) -> bool:
    return len({curve.batch_tokens for curve in group}) > 1
