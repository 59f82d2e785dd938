"""The section of loss curves: every run decimated to what a screen can show, crossings marked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale.runs.overview import overviews
from megascale.runs.readers.base import VALIDATION
from megascale.runs.table import LoadedRun, RunTable

if TYPE_CHECKING:
    from megascale.arrays import Array
    from megascale.curves.crossing import BatchCrossing
    from megascale.laws.growing import GrowingRun

POINTS_IN_ALL = 60_000
POINTS_A_RUN = (16, 800)
"""Bins of records drawn in all, and the fewest and most a run gets."""
SIZES_SHOWN = 4
"""Batch sizes of a run that are named, besides the last; `runs show --json` has all of them."""
STAIRS_DRAWN = 400
"""Most batch changes of a run that are drawn."""
LEAST_SHADED = 20
"""Runs with fewer bins than this do not keep their bins' lowest and highest losses."""
_SEED = re.compile(r"[ _./-]*\bseed[-_= ]?\d+|[ _./-]+seed[-_= ]?\d+", re.IGNORECASE)
IS_VALIDATION = pl.col("loss_kind").str.starts_with(VALIDATION).fill_null(False)
HAS_LOSS = pl.col("loss").is_not_null()


def run_rows(loaded: RunTable) -> list[dict[str, Any]]:
    """One row a run: what its logs say."""
    rows = []
    parts = loaded.table.partition_by("run", as_dict=True, maintain_order=True)
    for run, seen in zip(loaded.runs, overviews(loaded), strict=True):
        clock = _clock(_drawn_rows(parts.get((run.run,), loaded.table.clear())))
        batches = [part.batch_tokens for part in seen.segments if part.batch_tokens is not None]
        rows.append(
            {
                "run": run.run,
                "format": run.format,
                "n_params": run.meta.n_params,
                "steps": seen.steps,
                "tokens": seen.tokens,
                "batch_tokens": [*batches[:SIZES_SHOWN], *batches[SIZES_SHOWN:][-1:]],
                "batch_sizes": len(batches),
                "seconds": None if clock is None else round(float(clock[-1]), 3),
                "loss": seen.loss,
                "validation_loss": seen.validation_loss,
                "malformed": seen.malformed,
                "source": seen.path,
            }
        )
    return rows


def drawn_curves(loaded: RunTable) -> list[dict[str, Any]]:
    """Training losses of every run, in bins of neighbouring records.

    A bin holds its records' mean loss, tokens, step and seconds (weighted by tokens) and the lowest
    and highest loss. Half of the edges are even in records and half in their logarithm, so that
    curves look alike on both axes. Where a run has no more records than bins, every record is
    drawn. Seconds are the wall clock until then, as `RunTable.table` counts it; of
    validation losses that of the training around them.
    """
    low, high = POINTS_A_RUN
    room = min(high, max(low, POINTS_IN_ALL // max(len(loaded.runs), 1)))
    curves = []
    parts = loaded.table.partition_by("run", as_dict=True, maintain_order=True)
    for run in loaded.runs:
        rows = parts.get((run.run,))
        if rows is None:
            continue
        drawn = _drawn_rows(rows)
        clock = _clock(drawn)
        if clock is not None:
            drawn = drawn.with_columns(clock=pl.Series(clock))
        drawn = drawn.filter(HAS_LOSS)
        curve = _binned(drawn, run, room)
        checks = rows.filter(IS_VALIDATION & HAS_LOSS)
        if len(checks) and len(drawn) and not drawn["loss_kind"].str.starts_with(VALIDATION).any():
            kept = checks if len(checks) <= room else checks.gather_every(len(checks) // room + 1)
            curve["validation"] = {
                "tokens": _integers(kept, "tokens"),
                "step": _integers(kept, "step"),
                "seconds": _seconds_at(kept, drawn),
                "loss": [round(value, 6) for value in kept["loss"].to_list()],
            }
        curves.append(curve)
    several = Counter(_without_seed(curve["run"]) for curve in curves)
    for curve in curves:
        name = _without_seed(curve["run"])
        curve["seed_of"] = name if several[name] > 1 else None
    return curves


def _without_seed(run: str) -> str:
    """A run's name without its seed: seeds of one arm have the same."""
    return _SEED.sub("", run) or run


def _drawn_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The training losses of the kind with most records; else such validation losses."""
    train = rows.filter(~IS_VALIDATION)
    chosen = train if train["loss"].count() else rows
    kinds = chosen.filter(HAS_LOSS)["loss_kind"].value_counts(sort=True)["loss_kind"]
    return chosen.filter(pl.col("loss_kind").eq_missing(kinds[0])) if len(kinds) > 1 else chosen


def _binned(rows: pl.DataFrame, run: LoadedRun, room: int) -> dict[str, Any]:
    count = len(rows)
    starts = _starts(count, room)
    loss = rows["loss"].to_numpy()
    tokens = rows["tokens"].cast(pl.Float64).to_numpy()
    weight = np.diff(tokens, prepend=0.0)
    if not (np.isfinite(weight).all() and (weight > 0).all()):
        weight = np.ones(count)
    batches = rows["batch_tokens"].drop_nulls().unique().to_list()
    rates = rows["lr"].drop_nulls()
    curve: dict[str, Any] = {
        "run": run.run,
        "kind": rows["loss_kind"][0] if count else None,
        "n_params": run.meta.n_params,
        "batch_tokens": batches[0] if len(batches) == 1 else None,
        "batches": _batch_changes(rows) if len(batches) > 1 else None,
        "lr": None if rates.is_empty() else _number(rates.max()),
        "records": count,
        "tokens": [],
        "step": [],
        "seconds": None,
        "loss": [],
        "low": None,
        "high": None,
        "validation": None,
    }
    if not count:
        return curve
    total = np.add.reduceat(weight, starts)

    def mean(values: Array) -> Array:
        return np.add.reduceat(values * weight, starts) / total

    for axis in ("tokens", "step"):
        known = rows[axis].cast(pl.Float64).to_numpy()
        whole = np.isfinite(known).all()
        curve[axis] = [round(value) for value in mean(known).tolist()] if whole else None
    curve["loss"] = _rounded(mean(loss))
    if len(starts) < count and room >= LEAST_SHADED:
        curve["low"] = _rounded(np.minimum.reduceat(loss, starts))
        curve["high"] = _rounded(np.maximum.reduceat(loss, starts))
    if "clock" in rows.columns:
        curve["seconds"] = [round(value, 3) for value in mean(rows["clock"].to_numpy()).tolist()]
    return curve


def _starts(count: int, room: int) -> npt.NDArray[np.int64]:
    """First records of at most `room` bins."""
    if count <= room:
        return np.arange(count)
    even = np.linspace(0, count, room - room // 2 + 1)
    return np.unique(np.append(even, np.geomspace(1, count, room // 2)).astype(np.int64))[:-1]


def _clock(rows: pl.DataFrame) -> Array | None:
    """Wall clock (s) after every row; None where the log does not tell.

    A first row without a time counts as zero: where a log only has the time of its records, the
    clock starts with the first.
    """
    seconds = rows["seconds"].cast(pl.Float64).to_numpy().copy()
    if len(seconds) < 2 or np.isnan(seconds[1:]).any():
        return None
    seconds[0] = np.nan_to_num(seconds[0])
    return np.cumsum(seconds)


def _seconds_at(checks: pl.DataFrame, train: pl.DataFrame) -> list[float] | None:
    """The training's wall clock at the steps of validation losses, by straight lines."""
    if "clock" not in train.columns or checks["step"].null_count() or train["step"].null_count():
        return None
    at = np.interp(checks["step"].to_numpy(), train["step"].to_numpy(), train["clock"].to_numpy())
    return [round(float(value), 3) for value in at]


def _batch_changes(rows: pl.DataFrame) -> list[list[int]]:
    """[start tokens, batch tokens] where a run's batch changes, thinned if there are very many."""
    known = rows.filter(pl.col("batch_tokens").is_not_null() & pl.col("tokens").is_not_null())
    parts = known.group_by(pl.col("batch_tokens").rle_id().alias("part"), maintain_order=True).agg(
        pl.col("batch_tokens").first(), pl.col("tokens").last()
    )
    starts = [0, *parts["tokens"][:-1]]
    stairs = [[int(s), int(b)] for s, b in zip(starts, parts["batch_tokens"], strict=True)]
    every = -(-len(stairs) // STAIRS_DRAWN)
    return [*stairs[:-1:every], stairs[-1]]


def _integers(rows: pl.DataFrame, column: str) -> list[int] | None:
    values = rows[column]
    return None if values.null_count() else [int(value) for value in values.to_list()]


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _number(value: Any) -> float:
    return float(value)


def crossing_rows(crossings: Sequence[BatchCrossing]) -> list[dict[str, Any]]:
    """Crossings of neighbouring batch sizes of every setting, in the order given."""
    return [asdict(crossing) for crossing in crossings]


def compared_runs(growing: Sequence[GrowingRun]) -> list[dict[str, Any]]:
    """Runs whose batch changed beside their opponents: losses and their difference."""
    return [
        {
            "run": one.run,
            "opponent": one.opponent,
            "sentence": one.sentence,
            "tokens": [round(value) for value in one.tokens.tolist()],
            "loss": _rounded(one.loss),
            "opponent_loss": _rounded(one.opponent_loss),
            "difference": _rounded(one.loss - one.opponent_loss),
            "error": _rounded(one.error) if np.isfinite(one.error).all() else None,
            "crossings": list(one.crossings),
        }
        for one in growing
    ]
