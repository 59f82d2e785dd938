"""Tables of final losses over learning rate and batch, and the quadratic of a cell.

A cell is all runs of one (N, D). Near its optimum the loss is quadratic in the logarithms,
L = L_min + c_ee x^2 + c_eb x y + c_bb y^2 with x = log(eta / eta_opt), y = log(B / B_opt).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from megascale import fitting
from megascale.errors import FitError
from megascale.laws.grid.sizes import SIZES, Sized, choose_size
from megascale.laws.law_files import NKind
from megascale.laws.learning_rate import CELL
from megascale.runs.measured import grid_rows

REACH = 4.0
NEAR = 0.01
MIN_POINTS = 12
"""The quadratic takes runs within this factor of the best learning rate and batch and within this
share of the lowest loss, and at least so many where there are so many."""
LEAST_POINTS = 8
"""Six coefficients and two degrees of freedom."""
CLOUD_POINTS = 150


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
    """A table of final losses under our names; runs of one setting (seeds) are averaged.

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


def cell_quadratic(lr: Any, batch: Any, loss: Any, replicates: int) -> dict[str, Any] | None:
    """The local quadratic in (log LR, log B) of one cell.

    Args:
        lr, batch, loss: (runs,) arrays; the batch in tokens.
        replicates: bootstrap over runs, for how sure convexity and the optimum are.

    Returns:
        L_min, eta_opt, B_opt, c_ee, c_eb, c_bb; points, rms; convex, the share of replicates that
        are, and whether the optimum lies inside the grid; log_error of eta_opt and B_opt from the
        convex replicates; a cloud of their optima. None where fewer than eight runs are near.
    """
    at = int(np.argmin(loss))
    near = (np.abs(np.log(lr / lr[at])) <= np.log(REACH) + 1e-9) & (
        np.abs(np.log(batch / batch[at])) <= np.log(REACH) + 1e-9
    )
    if near.sum() < LEAST_POINTS:
        return None
    enough = np.sort(loss[near])[min(MIN_POINTS, int(near.sum())) - 1]
    near &= loss <= max(loss[at] * (1 + NEAR), enough)
    result = fitting.fit(
        "log_quadratic",
        np.stack([lr[near], batch[near]]),
        loss[near],
        bootstrap="pairs",
        replicates=replicates,
        errors="status",
    )
    value = {name: float(result[name][0]) for name in result.params}
    draws = None if result.bootstrap is None else result.bootstrap[0]
    convex = None
    cloud: dict[str, list[float]] = {"lr": [], "batch_tokens": []}
    log_error = {"lr": float("nan"), "batch_tokens": float("nan")}
    if draws is not None:
        column = {name: draws[:, i] for i, name in enumerate(result.names)}
        definite = _definite(column["c_ee"], column["c_eb"], column["c_bb"])
        good = np.isfinite(draws).all(axis=1)
        convex = float(definite[good].mean()) if good.any() else None
        shown = good & definite
        for ours, theirs in (("lr", "eta_opt"), ("batch_tokens", "B_opt")):
            values = column[theirs][shown]
            cloud[ours] = [float(f"{v:.5g}") for v in values[:CLOUD_POINTS]]
            if len(values) > 1:
                log_error[ours] = _spread(np.log(values))
    definite_now = bool(_definite(value["c_ee"], value["c_eb"], value["c_bb"]))
    inside = lr.min() <= value["eta_opt"] <= lr.max() and (
        batch.min() <= value["B_opt"] <= batch.max()
    )
    return {
        **value,
        "points": int(near.sum()),
        "rms": float(result.rms[0]),
        "convex": definite_now,
        "convex_replicates": convex,
        "inside": bool(inside),
        "log_error": log_error,
        "cloud": cloud,
    }


def _definite(c_ee: Any, c_eb: Any, c_bb: Any) -> Any:
    return (c_ee > 0) & (4 * c_ee * c_bb > c_eb * c_eb)


def _spread(values: Any) -> float:
    """Half the middle 68 %: a standard deviation that a few flat replicates do not blow up."""
    low, high = np.quantile(values, [0.1587, 0.8413])
    return float(high - low) / 2
