"""Tables of final losses over learning rate and batch: their columns.

A cell is all runs of one (N, D).
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from megascale.errors import FitError
from megascale.laws.learning_rate import CELL

SEQUENCE_OF_BS = 2048
"""Tokens of a sequence where a grid counts its batch in sequences and nothing says otherwise."""
GRID_COLUMNS: dict[str, tuple[str, ...]] = {
    "n_params": ("n_params", "N", "params"),
    "tokens": ("tokens", "D", "d_tokens"),
    "lr": ("lr", "learning_rate", "peak_lr", "eta"),
    "batch_tokens": ("batch_tokens", "B_tokens"),
    "batch_samples": ("batch_samples", "bs", "batch_size"),
    "loss": ("smooth loss", "smooth_loss", "loss", "final_loss"),
}
"""Our column -> what tables call it, the first that is there."""
ALSO_OURS = {"batch": "batch_tokens", "B": "batch_tokens"}
"""Further names of ours in `--columns OUR=THEIRS`; as names of a table they say no unit."""


def grid_names(names: Sequence[str], columns: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Our column -> the table's, for those that are there.

    Args:
        names: of the table's columns.
        columns: (ours, theirs) pairs that were stated; ours by any of its names.

    Raises:
        FitError: a stated column is not one of ours, or not in the table.
    """
    ours_of = {alias: ours for ours, known in GRID_COLUMNS.items() for alias in known} | ALSO_OURS
    found = {
        ours: next(name for name in known if name in names)
        for ours, known in GRID_COLUMNS.items()
        if set(known) & set(names)
    }
    for ours, theirs in columns:
        if ours not in ours_of:
            rule = "is not a column of a grid"
            raise FitError.of("--columns", ours, rule, [*GRID_COLUMNS])
        if theirs not in names:
            rule = "is not a column of the table"
            raise FitError.of("--columns", f"{ours}={theirs}", rule, list(names))
        if ours_of[ours].startswith("batch_"):
            found.pop("batch_tokens", None)
            found.pop("batch_samples", None)
        found[ours_of[ours]] = theirs
    return found


def is_grid(frame: pl.DataFrame, columns: Sequence[tuple[str, str]] = ()) -> bool:
    """Whether a table holds final losses: N, D, a loss, a rate or a batch, and one row a run."""
    names = frame.columns
    if "step" in names or ("run" in names and frame["run"].n_unique() < len(frame)):
        return False
    try:
        has = set(grid_names(names, columns))
    except FitError:
        return False
    whole = {"n_params", "tokens", "loss"} <= has
    return whole and bool(has & {"lr", "batch_tokens", "batch_samples"})


def grid_table(
    frame: pl.DataFrame,
    name: str,
    *,
    columns: Sequence[tuple[str, str]] = (),
    seq_length: int | None = None,
    needs: Sequence[str] = ("lr", "batch_tokens"),
) -> tuple[pl.DataFrame, list[str]]:
    """A table of final losses under our names; runs of one setting (seeds) are averaged.

    Args:
        frame: one row a run.
        name: of the table, for messages.
        columns: (ours, theirs) pairs that were stated.
        seq_length: tokens of a sequence, for batches in sequences.
        needs: which of lr and batch_tokens it must have; the other is kept where it is there.

    Returns:
        n_params, tokens, lr and batch_tokens as they are there, loss (nats), all positive; and
        what the reader should know, in words.

    Raises:
        FitError: a column is missing, or no row has all of them finite and positive.
    """
    names = grid_names(frame.columns, columns)
    notes = []
    chosen = [
        pl.col(theirs).cast(pl.Float64, strict=False).alias(ours) for ours, theirs in names.items()
    ]
    table = frame.select(chosen)
    if "batch_tokens" not in names and "batch_samples" in names:
        length = seq_length or SEQUENCE_OF_BS
        table = table.with_columns(batch_tokens=pl.col("batch_samples") * length)
        if seq_length is None:
            notes.append(
                f"{name}: batches taken as sequences of {length} tokens; --seq-length says "
                "otherwise"
            )
    for ours in (*CELL, *needs, "loss"):
        if ours not in table.columns:
            known = [*GRID_COLUMNS[ours]]
            if ours == "batch_tokens":
                known += [f"{alias} (in sequences)" for alias in GRID_COLUMNS["batch_samples"]]
            rule = f"has no column for {ours}; name it with --columns {ours}=NAME"
            raise FitError.of("grid", name, rule, known)
    settings = [*CELL, *(c for c in ("lr", "batch_tokens") if c in table.columns)]
    used = [*settings, "loss"]
    kept = table.select(used).filter(
        pl.all_horizontal(pl.col(used).is_finite() & (pl.col(used) > 0))
    )
    if kept.is_empty():
        raise FitError.of("grid", name, f"no row has positive {', '.join(used)}")
    if len(kept) < len(table):
        notes.append(
            f"{name}: {len(table) - len(kept)} of {len(table)} runs left out, without a finite "
            f"positive {', '.join(used)}"
        )
    rivals = [alias for alias in GRID_COLUMNS["loss"] if alias in frame.columns]
    if len(rivals) > 1 and not any(ours in GRID_COLUMNS["loss"] for ours, _ in columns):
        notes.append(f"{name}: the loss is column {names['loss']!r}, not {rivals[1]!r}")
    averaged = kept.group_by(settings, maintain_order=True).agg(pl.col("loss").mean())
    return averaged.select(used), notes
