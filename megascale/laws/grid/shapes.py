"""The shapes of a grid's cells: their matrix of losses, lowest run, local minima and bends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.laws.learning_rate import CELL

LEAST_VALUES = 2
"""Learning rates and batches that make a cell a matrix."""


@dataclass(frozen=True)
class CellShape:
    """The final losses of one (N, D) over learning rate and batch.

    Attributes:
        n_params, tokens: N and D.
        lr, batch_tokens: the values that were run, rising.
        loss: (batches, learning rates) in nats per token, NaN where nothing was run.
        best: lr, batch_tokens and loss of the lowest run.
        at_edge: whether that run has the smallest or largest learning rate or batch.
        local_minima: runs whose loss is below that of all their neighbours, diagonal ones included.
        bends_up, bends: how many neighbouring triples along a row or column bend upwards, in
            logarithms, and how many there are.
    """

    n_params: float
    tokens: float
    lr: Array
    batch_tokens: Array
    loss: Array
    best: dict[str, float]
    at_edge: bool
    local_minima: int
    bends_up: int
    bends: int


def cell_shapes(table: pl.DataFrame) -> list[CellShape]:
    """Return the shape of every cell that has at least two learning rates and two batches.

    Args:
        table: n_params, tokens, lr, batch_tokens, loss; one row a setting.

    Raises:
        FitError: no cell has.
    """
    table = table.sort([*CELL, "lr", "batch_tokens"])
    parts = table.partition_by(list(CELL), as_dict=True, maintain_order=True)
    shapes = [
        _shape(n, d, part)
        for (n, d), part in parts.items()
        if min(part[name].n_unique() for name in ("lr", "batch_tokens")) >= LEAST_VALUES
    ]
    if not shapes:
        raise FitError.of("grid", len(table), "no (N, D) has two learning rates and two batches")
    return shapes


def _shape(n: float, d: float, part: pl.DataFrame) -> CellShape:
    rates = part["lr"].unique().sort().to_numpy()
    batches = part["batch_tokens"].unique().sort().to_numpy()
    lr, batch, loss = (part[name].to_numpy() for name in ("lr", "batch_tokens", "loss"))
    matrix = np.full((len(batches), len(rates)), np.nan)
    matrix[np.searchsorted(batches, batch), np.searchsorted(rates, lr)] = loss
    at = int(np.argmin(loss))
    up, bends = _bends(matrix, rates, batches)
    return CellShape(
        n_params=n,
        tokens=d,
        lr=rates,
        batch_tokens=batches,
        loss=matrix,
        best={"lr": float(lr[at]), "batch_tokens": float(batch[at]), "loss": float(loss[at])},
        at_edge=bool(lr[at] in (rates[0], rates[-1]) or batch[at] in (batches[0], batches[-1])),
        local_minima=_local_minima(matrix),
        bends_up=up,
        bends=bends,
    )


def _local_minima(matrix: Array) -> int:
    padded = np.pad(np.where(np.isnan(matrix), np.inf, matrix), 1, constant_values=np.inf)
    middle = padded[1:-1, 1:-1]
    rows, columns = matrix.shape
    lowest = np.isfinite(middle)
    for i in range(3):
        for j in range(3):
            if (i, j) != (1, 1):
                lowest &= middle < padded[i : i + rows, j : j + columns]
    return int(lowest.sum())


def _bends(matrix: Array, rates: Array, batches: Array) -> tuple[int, int]:
    up = counted = 0
    for table, x in ((matrix, np.log(rates)), (matrix.T, np.log(batches))):
        slope: Any = np.diff(table, axis=1) / np.diff(x)
        bend = np.diff(slope, axis=1)
        up += int((bend > 0).sum())
        counted += int(np.isfinite(bend).sum())
    return up, counted
