"""Keep what counts of a run that was killed and restarted: each step once, in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

_SMALL_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of a table once the replaced rows are gone.

    Attributes:
        table: the rows that count, by run in order of appearance and then by step.
        restarts: lines at which the step goes back.
        superseded: rows dropped because a restart wrote them, or their past, again.
        duplicates: rows dropped in runs without a restart: the same step, written twice.
    """

    table: pl.DataFrame
    restarts: list[int]
    superseded: int = 0
    duplicates: int = 0


def keep_last(table: pl.DataFrame, *, ordered: bool = True) -> Kept:
    """Drop the rows that a later row replaces.

    A row is replaced by a later one of the same run, step and kind of loss. In a file that was
    written as the run went (`ordered`), a step that goes back also replaces every row beyond it:
    the run was restarted from there, and what it had logged further on never counted.

    Args:
        table: rows in the order of the file.
        ordered: False for tables in any order, where a smaller step says nothing.
    """
    if table.is_empty() or _is_settled(table):
        return Kept(table, [])
    parts, restarts, superseded, duplicates = [], [], 0, 0
    for part in table.partition_by("run", maintain_order=True):
        kept, lines = _one_run(part, ordered)
        parts.append(kept)
        restarts += lines
        dropped = part.height - kept.height
        if lines:
            superseded += dropped
        else:
            duplicates += dropped
    return Kept(pl.concat(parts), restarts, superseded, duplicates)


def _is_settled(table: pl.DataFrame) -> bool:
    """Whether the rows of one run are in order already, each step once a kind of loss.

    Told without a query of the table, which for the log of a small run takes longest.
    """
    if table["run"].null_count() < table.height or table["step"].null_count():
        return False
    passed = np.diff(table["step"].to_numpy())
    if (passed > 0).all():
        return True
    if (passed < 0).any():
        return False
    if table.height > _SMALL_ROWS:
        return False
    return len(set(zip(table["step"], table["loss_kind"], strict=True))) == table.height


def _one_run(part: pl.DataFrame, ordered: bool) -> tuple[pl.DataFrame, list[int]]:
    if part["step"].null_count() == part.height:
        return part, []
    lines: list[int] = []
    if ordered and not part["step"].is_sorted():
        steps = part["step"].fill_null(strategy="forward").fill_null(0).to_numpy()
        later = np.minimum.accumulate(steps[::-1])[::-1]
        back = np.flatnonzero(steps[1:] < steps[:-1]) + 1
        lines = [line or 0 for line in part["line"].gather(back).to_list()]
        part = part.filter(pl.Series(steps <= later))
    last = pl.struct("step", "loss_kind").is_last_distinct()
    part = part.filter(pl.col("step").is_null() | last)
    return part.sort("step", maintain_order=True, nulls_last=True), lines


def place_between(steps: pl.Series, train: pl.DataFrame) -> pl.Series:
    """Return the consumed samples at steps that lie between training rows, where they follow
    exactly.

    Between two rows a step consumes the same number of samples if both rows show the same batch
    and the samples between them are that batch times the steps between them; elsewhere (a batch
    that changed in between, a stretch nobody logged) the result is null.

    Args:
        steps: steps to place, whole numbers.
        train: rows with `step`, `samples`, `batch_samples`.

    Returns:
        Samples, one per step; null where they do not follow.
    """
    known = (
        train.select("step", "samples", "batch_samples")
        .drop_nulls()
        .unique("step", keep="last")
        .sort("step")
    )
    empty = pl.Series("samples", [None] * len(steps), dtype=pl.Int64)
    if known.is_empty():
        return empty
    at, samples, batch = (known[name].to_numpy() for name in known.columns)
    if at[0] > 0:  # the beginning is a row too
        at, samples = np.insert(at, 0, 0), np.insert(samples, 0, 0)
        batch = np.insert(batch, 0, batch[0])
    wanted = steps.fill_null(-1).to_numpy()
    right = np.searchsorted(at, wanted)
    inside = right < len(at)
    right = np.minimum(right, len(at) - 1)
    left = np.maximum(right - 1, 0)
    exact = at[right] == wanted
    even = (batch[left] == batch[right]) & (
        (samples[right] - samples[left]) == batch[right] * (at[right] - at[left])
    )
    value = np.where(exact, samples[right], samples[right] - batch[right] * (at[right] - wanted))
    valid = inside & (wanted >= 0) & (exact | even)
    placed = pl.Series("samples", value).cast(pl.Int64)
    return pl.select(pl.when(pl.Series(valid)).then(placed)).to_series().alias("samples")
