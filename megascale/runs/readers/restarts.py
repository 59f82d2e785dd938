"""Keep what counts of a run that was killed and restarted: each step once, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from megascale.runs.readers.base import VALIDATION

_SMALL_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of a table once the replaced rows are gone.

    Attributes:
        table: the rows that count, by run in order of appearance and then by step.
        restarts: lines at which the step goes back.
        superseded: rows dropped because a restart wrote them, or their past, again.
        duplicates: rows dropped in runs without a restart: the same step, written twice.
        by_run: how often each run was restarted.
        mixed: lines and reasons where a run looks like several, which cannot be told apart.
    """

    table: pl.DataFrame
    restarts: list[int]
    superseded: int = 0
    duplicates: int = 0
    mixed: list[tuple[int, str]] = field(default_factory=list)
    by_run: dict[str, int] = field(default_factory=dict)


_LEAST_TURNS = 4
"""So many steps back, each to a later step than the one before, look like two writers."""


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
    mixed: list[tuple[int, str]] = []
    by_run: dict[str, int] = {}
    for part in table.partition_by("run", maintain_order=True):
        kept, lines = _one_run(part, ordered)
        parts.append(kept)
        restarts += lines
        mixed += _mixed(part, ordered)
        by_run[part["run"][0] or ""] = len(lines)
        dropped = part.height - kept.height
        if lines:
            superseded += dropped
        else:
            duplicates += dropped
    return Kept(pl.concat(parts), restarts, superseded, duplicates, mixed, by_run)


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
        # An evaluation may be printed late: that training went back, its own steps say.
        train = ~part["loss_kind"].str.starts_with(VALIDATION).fill_null(False).to_numpy()
        train = train if train.any() else ~train
        trained = np.where(train, steps, np.iinfo(np.int64).max)
        later = np.minimum.accumulate(trained[::-1])[::-1]
        shown = np.flatnonzero(train)
        back = shown[1:][np.diff(steps[shown]) < 0]
        lines = [line or 0 for line in part["line"].gather(back).to_list()]
        part = part.filter(pl.Series(steps <= later))
    last = pl.struct("step", "loss_kind").is_last_distinct()
    part = part.filter(pl.col("step").is_null() | last)
    return part.sort("step", maintain_order=True, nulls_last=True), lines


def _mixed(part: pl.DataFrame, ordered: bool) -> Iterator[tuple[int, str]]:
    """Why rows under one name cannot be the history of one run, and the line that shows it.

    A restart repeats a stretch that lies behind it. Several runs that share a log repeat most of
    their steps with other losses, or take turns; or one starts over and ends before what the other
    had reached.
    """
    axis = next((name for name in ("step", "tokens", "samples") if part[name].count()), None)
    if axis is None:
        return
    rows = part.drop_nulls([axis, "loss"])
    for (kind,), same in rows.partition_by("loss_kind", as_dict=True).items():
        counts = same.group_by(axis, maintain_order=True).agg(
            pl.col("loss").n_unique().alias("losses"), pl.col("line").last()
        )
        differ = counts.filter(pl.col("losses") > 1)
        if 2 * differ.height > counts.height and (not ordered or _take_turns(same[axis])):
            places = "steps" if axis == "step" else f"counts of {axis}"
            message = (
                f"{differ.height:,} of {counts.height:,} {places} have several {kind} losses that "
                "differ: several runs share this log, and nothing in it tells them apart"
            )
            yield differ["line"][0] or 0, message
            return
    if not ordered or axis != "step":
        return
    train = rows.filter(~pl.col("loss_kind").str.starts_with(VALIDATION).fill_null(False))
    back = _steps_back(train["step"])
    if len(back) >= train.height / 8 and _take_turns(train["step"]) and len(back):
        message = (
            f"the step goes back {len(back):,} times in {train.height:,} rows, each time to a "
            "later one: several runs take turns in this log"
        )
        yield train["line"][int(back[0])] or 0, message
    else:
        yield from _started_over(train, back)


def _started_over(train: pl.DataFrame, back: np.ndarray) -> Iterator[tuple[int, str]]:
    steps = train["step"].to_numpy()
    again = back[steps[back] <= steps[0]] if len(back) else back
    if not len(again):
        return
    over = int(again[-1])
    reached, last = int(steps[:over].max()), int(steps[over:].max())
    ended = reached == last and train["source"].n_unique() > 1  # files that end alike have ended
    if last < reached or ended:
        message = (
            f"the log starts over at step {steps[over]:,} and ends at step {last:,}, before it had "
            f"reached {reached:,}: if that is another run, keep it in a log of its own"
        )
        yield train["line"][over] or 0, message


def _steps_back(steps: pl.Series) -> np.ndarray:
    """Where a step is smaller than the one before."""
    values = steps.to_numpy()
    return np.flatnonzero(values[1:] < values[:-1]) + 1


def _take_turns(steps: pl.Series) -> bool:
    """Whether steps that repeat look like several writers: side by side, or always further on."""
    back = _steps_back(steps)
    if not len(back):
        return True
    later = int((np.diff(steps.to_numpy()[back]) > 0).sum()) + 1
    return len(back) >= _LEAST_TURNS and later >= 0.75 * len(back)


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
