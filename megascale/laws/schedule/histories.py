"""Histories and losses of runs, from their logs: what the laws of whole histories are fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.fitting.history_result import HistoryRun
from megascale.runs.readers.base import INTERVAL_MEAN, VALIDATION
from megascale.runs.table import RunTable

LONGEST_GAP = 0.05
"""Largest share of a run that may lie between two rows without a learning rate or a batch."""


def history_of_rows(
    tokens: np.ndarray,
    batch: np.ndarray,
    lr: np.ndarray,
    *,
    weight_decay: float = 0.0,
    name: str = "",
    n_params: float | None = None,
) -> History:
    """A run's history from rows of its log.

    A row says the batch of the step that ended there, which is taken for all steps since the row
    before, and its learning rate, which is linear in tokens between rows. The rate before the
    first row is followed back to token 0 along the first two rows, or stays where it does not rise.

    Args:
        tokens: consumed tokens after each row, increasing; a repeated count is taken once.
        batch: in tokens.
        lr: learning rate of the row's last step.
        weight_decay: of the run.
        name: of the run, for messages.
        n_params: parameters of its model, where they are known.

    Raises:
        FitError: fewer than two rows, an unknown batch or learning rate, or a gap longer than a
            twentieth of the run where the batch or the learning rate changes.
    """
    label = f"run {name}".strip()
    at = np.asarray(tokens, float)
    order = np.argsort(at, kind="stable")
    at, size, rate = at[order], np.asarray(batch, float)[order], np.asarray(lr, float)[order]
    keep = np.concatenate([np.diff(at) > 0, [True]])
    at, size, rate = at[keep], size[keep], rate[keep]
    if len(at) < 2:
        raise FitError.of(label, f"{len(at)} rows", "needs at least two rows with tokens")
    for key, column in (("batch", size), ("learning rate", rate)):
        unknown = ~np.isfinite(column)
        if unknown.any():
            raise FitError.of(
                f"{label}: {key}",
                "unknown",
                f"must be known at every row, also at {at[unknown][0]:.0f} tokens; give the log's "
                "columns or the run's config",
            )
    changed = (np.diff(size) != 0) | (np.abs(np.diff(rate)) > 1e-9 * rate.max())
    gap = np.where(changed, np.diff(at), 0.0)
    if gap.max() > LONGEST_GAP * at[-1]:
        where = int(np.argmax(gap))
        raise FitError.of(
            f"{label}: gap",
            f"{at[where]:.0f} to {at[where + 1]:.0f} tokens",
            "batch or learning rate change within a gap of the log; give a log with more rows or "
            "the run's config",
        )
    rise = (rate[1] - rate[0]) / (at[1] - at[0])
    first = max(rate[0] - rise * at[0], 0.0) if rise > 0 else rate[0]
    return History.of_sections(
        np.concatenate([[0.0], at]),
        size,
        np.concatenate([[first], rate[:-1]]),
        rate,
        weight_decay=weight_decay,
        name=name,
        n_params=n_params,
    )


def until(history: History, tokens: float) -> History:
    """The part of a history up to a token count within it."""
    many = int(np.searchsorted(history.tokens, tokens, side="left"))
    edges = np.append(history.tokens[:many], tokens)
    begin, end = history.tokens[many - 1], history.tokens[many]
    share = (tokens - begin) / (end - begin)
    last = history.lr_start[many - 1] * (1 - share) + history.lr_end[many - 1] * share
    rates = np.append(history.lr_end[: many - 1], last)
    return History.of_sections(
        edges,
        history.batch[:many],
        history.lr_start[:many],
        rates,
        weight_decay=history.weight_decay[:many],
        name=history.name,
        n_params=history.n_params,
    )


def runs_of_table(
    table: RunTable | pl.DataFrame,
    *,
    loss: str = VALIDATION,
    from_tokens: float = 0.0,
    weight_decay: float | Mapping[str, float] = 0.0,
    names: Sequence[str] | None = None,
) -> list[HistoryRun]:
    """Histories and losses of the runs of a table.

    Args:
        table: as `load_runs` gives it, or its frame.
        loss: the kind of loss to fit. A mean over an interval belongs to the interval's middle.
        from_tokens: losses before are left out: no law of the family holds in the warmup.
        weight_decay: of all runs, or of each by its name, where a form needs it.
        names: runs to take; default all.

    Raises:
        FitError: a run is not there, has no such loss after `from_tokens`, or its history cannot
            be told (see `history_of_rows`).
    """
    frame = table.table if isinstance(table, RunTable) else table
    sizes = (
        {run.run: run.meta.n_params for run in table.runs} if isinstance(table, RunTable) else {}
    )
    have = frame["run"].unique(maintain_order=True).to_list()
    out = []
    for name in have if names is None else names:
        if name not in have:
            raise FitError.of("run", name, "is not in the table", have)
        rows = frame.filter(pl.col("run") == name).sort("tokens")
        said = rows.filter(pl.col("lr").is_not_null() | pl.col("batch_tokens").is_not_null())
        history = history_of_rows(
            _floats(said, "tokens"),
            _floats(said, "batch_tokens"),
            _floats(said, "lr"),
            weight_decay=weight_decay.get(name, 0.0)
            if isinstance(weight_decay, Mapping)
            else weight_decay,
            name=name,
            n_params=sizes.get(name),
        )
        found = rows.filter((pl.col("loss_kind") == loss) & pl.col("loss").is_finite())
        tokens = _floats(found, "tokens")
        if loss == INTERVAL_MEAN and len(tokens):
            tokens = tokens - 0.5 * np.diff(tokens, prepend=0.0)
        value = _floats(found, "loss")
        good = (tokens >= from_tokens) & (tokens > 0) & (tokens <= history.total_tokens)
        if not good.any():
            kinds = rows["loss_kind"].drop_nulls().unique().to_list()
            raise FitError.of(
                f"run {name}: loss", loss, f"none logged after {from_tokens:.0f} tokens", kinds
            )
        out.append(HistoryRun(history, tokens[good], value[good]))
    return out


def _floats(frame: pl.DataFrame, column: str) -> np.ndarray:
    return frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
