"""The curves of logs, from the one table of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.curves.choice import AUTO, LEAST, TRAIN, choose_loss, inventory
from megascale.curves.curve import Curve, Curves, Dropped, RecordCounts
from megascale.curves.records import PLATEAU, VALIDATION, Placed, Records, split_runs
from megascale.curves.smoothing import Window, smooth
from megascale.errors import DataError, FitError
from megascale.runs.table import RunTable

LEAST_COMPARED = 3
"""Losses that a run needs to be compared with others."""


def curve_of(records: Records, wanted: str, window: Window) -> Curve | None:
    """Return the curve of a run's losses of one kind; None where it has none after a token.

    Args:
        records: of one run.
        wanted: as `choose_loss` returns it.
        window: smoothing of training losses.
    """
    placed = records.losses_of(wanted)
    if placed is None or not (placed.tokens > 0).any():
        return None
    rates = records.rates_at(placed.rows)
    is_validation = placed.kind.startswith(VALIDATION)
    tokens, loss, error = _points(placed, Window("none") if is_validation else window)
    return Curve(
        run=records.run,
        tokens=tokens,
        loss=loss,
        error=error,
        batch_tokens=records.constant_batch(),
        lr=float(np.nanmax(rates)) if np.isfinite(rates).any() else None,
        loss_kind=placed.kind,
        sources=records.sources,
        window=window,
        end=float(placed.after[-1]),
        placed=placed,
        clock=_clock(records, placed),
        ramp_tokens=records.ramp_tokens(),
    )


def curves_from_table(
    table: pl.DataFrame,
    *,
    n_params: Mapping[str, float | None] | None = None,
    loss: str = AUTO,
    window: Window | None = None,
    phase: Literal["stable", "all"] = "stable",
) -> Curves:
    """Return the smoothed curves of every run of the one table, for laws.

    Args:
        table: columns run, step, tokens, batch_tokens, lr, loss, loss_kind, source (others are
            ignored; all but run, tokens and loss may hold nulls or be absent).
        n_params: parameters by run.
        loss: which losses, see `choose_loss`.
        window: smoothing, default 5 % of the tokens. Validation losses are never averaged.
        phase: "stable" gives of runs that log a learning rate the stretch at its peak (within
            1e-3), without warmup and decay; "all" gives whole curves.

    Raises:
        FitError: a needed column is missing, or an option is not legal.
        DataError: as `choose_loss`.
    """
    for name in ("run", "tokens", "loss"):
        if name not in table.columns:
            raise FitError.of("column", name, "is not in the table", list(table.columns))
    if phase not in ("stable", "all"):
        raise FitError.of("phase", phase, "must be stable or all", "stable")
    if table.is_empty():
        return Curves([])
    runs = list(split_runs(table))
    wanted = choose_loss(runs, loss)
    sizes = {run: None if size is None else float(size) for run, size in (n_params or {}).items()}
    found = Curves([], [], wanted)
    for records in runs:
        built = _law_curve(records, wanted, window or Window(), phase)
        if isinstance(built, str):
            found.dropped.append(Dropped(records.run, built))
        else:
            found.curves.append(replace(built, n_params=sizes.get(records.run)))
    return found


def curves_of_logs(
    logs: Sequence[RunTable], loss: str = AUTO, window: Window | None = None
) -> tuple[str, list[Curve]]:
    """Return one curve a run, all of the same kind of loss, for comparison.

    Args:
        logs: what `load_runs` gave, in the order of the comparison.
        loss: which losses, see `choose_loss`.
        window: smoothing of training losses, default 5 % of the tokens.

    Returns:
        What was taken: "train", or the kind of validation loss; and the curves, in the order of
        the logs' runs. Runs of one name are told apart by the folder of their first file.

    Raises:
        DataError: an illegal `loss`, a run without records, consumed tokens, or such losses.
    """
    runs: list[Records] = []
    for table in logs:
        runs += (own := list(split_runs(table.table)))
        known = {records.run for records in own}
        empty = [one.run for one in table.runs if one.run not in known]
        if empty:
            rule = f"needs {LEAST_COMPARED} records with a loss or more"
            raise DataError.of(empty[0], "no records", rule)
    names = _names(runs)
    for records, name in zip(runs, names, strict=True):
        _require_tokens(records, name)
    wanted = choose_loss(runs, loss)
    curves = []
    for records, name in zip(runs, names, strict=True):
        placed = records.losses_of(wanted)
        count = 0 if placed is None else int((placed.tokens > 0).sum())
        curve = curve_of(records, wanted, window or Window())
        if curve is None or count < LEAST_COMPARED:
            has = inventory([records], [name])
            rule = f"needs {LEAST_COMPARED} {wanted} losses with tokens; {has}"
            raise DataError.of(name, f"{count} losses", rule)
        curves.append(replace(curve, run=name))
    return wanted, curves


def _law_curve(records: Records, wanted: str, window: Window, phase: str) -> Curve | str:
    """The run's curve, or in words why there is none."""
    if not np.isfinite(records.tokens).any():
        return "the log has no tokens: state the batch and the sequence length"
    placed = records.losses_of(wanted)
    curve = curve_of(records, wanted, window)
    count = 0 if placed is None else len(placed)
    least = LEAST[TRAIN if wanted == TRAIN else VALIDATION]
    if placed is None or curve is None or count < least:
        return f"{count} {wanted} losses, of at least {least}"
    keep = placed.tokens > 0
    rates = records.rates_at(placed.rows)
    if phase == "all" or not np.isfinite(rates).any():
        return curve if keep.sum() >= least else f"{int(keep.sum())} losses, of at least {least}"
    keep &= rates >= np.nanmax(rates) * (1 - PLATEAU)
    if keep.sum() < least:
        return f"{int(keep.sum())} losses at the peak learning rate, of at least {least}"
    if keep[placed.tokens > 0].all():
        return curve
    at_peak = placed.tokens[keep]
    stable = curve.stretch(at_peak[0], placed.after[np.flatnonzero(keep)[-1]])
    return stable if len(stable.tokens) else "no smoothed loss at the peak learning rate"


def _points(placed: Placed, window: Window) -> tuple[Array, Array, Array]:
    """Positions, losses and errors of the windows, of losses after a token."""
    rising = (placed.tokens > 0) & (np.diff(placed.tokens, prepend=-1.0) > 0)
    return smooth(placed.tokens[rising], placed.loss[rising], window, placed.weight[rising])


def _clock(records: Records, placed: Placed) -> RecordCounts:
    """What the run counted after each of its losses."""
    seconds = np.full(len(placed), np.nan)
    timed = records.clock()
    if timed is not None and placed.after[-1] <= timed[0][-1]:
        seconds = np.interp(placed.after, np.append(0.0, timed[0]), np.append(0.0, timed[1]))
    return RecordCounts(
        placed.after, records.step[placed.rows], seconds, records.batch_at(placed.after)
    )


def _names(runs: Sequence[Records]) -> list[str]:
    """Run ids; with their first file's folder where two are alike."""
    names = [records.run for records in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{Path(records.sources[0]).parent}/{records.run}" for records in runs]


def _require_tokens(records: Records, name: str) -> None:
    if np.isfinite(records.tokens).any():
        return
    lacks = "its log has no consumed tokens"
    if np.isfinite(records.step).any():
        nearest = "--batch-tokens SIZE, or --batch-samples SIZE with --seq-length LENGTH"
        raise DataError.of(name, "no tokens", f"{lacks}; state its batch", nearest)
    raise DataError.of(name, "no tokens", f"{lacks} and no steps to count them by")
