"""Tables of final losses over learning rate and batch: their columns.

A cell is all runs of one (N, D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

from megascale.errors import FitError
from megascale.laws.grid.sizes import SIZES, Sized, choose_size
from megascale.laws.law_files import NKind
from megascale.laws.learning_rate import CELL
from megascale.runs.measured import grid_rows


def grid_table(
    frame: pl.DataFrame,
    name: str,
    *,
    columns: Sequence[tuple[str, str]] = (),
    seq_length: int | None = None,
    loss: str = "auto",
    constant: Mapping[str, float] | None = None,
    needs: Sequence[str] = ("lr", "batch_tokens"),
    n_kind: NKind | Literal["any"] | None = None,
    hold: Mapping[str, float] | None = None,
) -> tuple[pl.DataFrame, list[str], Sized]:
    """Return a table of final losses under our names; runs of one setting (seeds) are averaged.

    Args:
        frame: one row a run.
        name: of the table, for messages.
        columns: (ours, theirs) pairs that were stated.
        seq_length: tokens of a sequence, for batches in sequences.
        loss: which losses: "auto", "train" or "validation".
        constant: n_params or tokens of all runs, where the table does not say.
        needs: which of lr and batch_tokens it must have; the other is kept where it is there.
        n_kind, hold: as `sizes.choose_size` takes them; "any" takes the total size, or the active
            one where that varies beneath the total one.

    Returns:
        n_params, tokens, lr and batch_tokens as they are there, loss (nats), all positive; what
        the reader should know, in words; and which size n_params is.

    Raises:
        FitError: a column is missing, or no row has all of them finite and positive; and those of
            `sizes.choose_size`.
    """
    table, notes = grid_rows(
        frame,
        name,
        stated=columns,
        seq_length=seq_length,
        loss=loss,
        constant=constant,
        needs=needs,
    )
    sized = _sized(table, n_kind, hold)
    table = sized.table
    notes += [f"{name}: {note}" for note in sized.notes]
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
    averaged = kept.group_by(settings, maintain_order=True).agg(pl.col("loss").mean())
    return averaged.select(used), notes, sized


def _sized(
    table: pl.DataFrame, n_kind: NKind | Literal["any"] | None, hold: Mapping[str, float] | None
) -> Sized:
    if n_kind != "any":
        return choose_size(table, n_kind, hold)
    if not {*SIZES} <= {*table.columns}:
        return choose_size(table, None, hold)
    try:
        return choose_size(table, "total", hold)
    except FitError:
        return choose_size(table, "active", hold)
