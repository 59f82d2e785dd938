"""The optimum of every cell of a grid, by quadratics in both logarithms and in one at a time."""

from __future__ import annotations

from typing import Any

import polars as pl

from megascale.errors import FitError
from megascale.laws.grid.quadratic import cell_quadratic
from megascale.laws.learning_rate import CELL, MIN_RATES, optimal_rates

REPLICATES = 200
COLUMNS = ("lr", "batch_tokens")
WORDS = {"lr": "learning rates", "batch_tokens": "batches"}


def cell_quadratics(table: pl.DataFrame) -> dict[tuple[float, float], dict[str, Any] | None]:
    """Return the quadratic in (log LR, log B) of every (N, D), as `cell_quadratic` gives it.

    None where a cell has fewer than three learning rates or batches, or too few runs near its
    best.
    """
    found: dict[tuple[float, float], dict[str, Any] | None] = {}
    for (n, d), part in table.group_by(list(CELL), maintain_order=True):
        lr, batch, loss = (part[name].to_numpy() for name in (*COLUMNS, "loss"))
        enough = min(part[name].n_unique() for name in COLUMNS) >= MIN_RATES
        found[n, d] = cell_quadratic(lr, batch, loss, REPLICATES) if enough else None
    return found


def fit_cells(
    table: pl.DataFrame, quadratics: dict[tuple[float, float], dict[str, Any] | None] | None = None
) -> pl.DataFrame:
    """Say where each cell's loss is lowest, and how surely.

    The quadratic in (log LR, log B) is fitted where a cell has three learning rates, three batches
    and eight runs near its best; the quadratic in one logarithm wherever it has three values of it,
    with the other at its best for each.

    Args:
        table: n_params, tokens, lr or batch_tokens or both, loss; one row a setting.
        quadratics: of `cell_quadratics`, where the table has both columns.

    Returns:
        A row a cell: n_params, tokens, runs, loss (the lowest run's). For lr and batch_tokens, as
        far as the table has them: COLUMN (the lowest run's), COLUMN_edge ("low", "high" or "only"
        where that is the smallest, largest or only value run), COLUMN_opt and COLUMN_log_error (of
        the quadratic in both), COLUMN_opt_1d and COLUMN_curvature_1d (in one). And c_ee, c_eb,
        c_bb (nats per squared log), convex, convex_share of the resamples, reason why an optimum is
        not used. Optima that are not used are null.

    Raises:
        FitError: no cell has three learning rates or three batches.
    """
    columns = [name for name in COLUMNS if name in table.columns]
    rows = []
    for key, part in table.group_by(list(CELL), maintain_order=True):
        quadratic = None if quadratics is None else quadratics[key]
        rows.append(dict(zip(CELL, key, strict=True)) | _cell(part, columns, quadratic))
    enough = [row for row in rows if row.pop("varied")]
    if not enough:
        most = {name: most_values(table, name) for name in columns}
        said = ", ".join(f"{count} {WORDS[name]}" for name, count in most.items())
        rule = f"no (N, D) has {MIN_RATES} values of either, as a quadratic needs"
        raise FitError.of("grid", f"at most {said} a cell", rule, MIN_RATES)
    return pl.DataFrame(enough, infer_schema_length=None).sort(CELL)


def most_values(table: pl.DataFrame, column: str) -> int:
    """Return the most distinct values of a column in one cell."""
    return max(table.group_by(CELL).agg(pl.col(column).n_unique())[column].to_list())


def _cell(
    part: pl.DataFrame, columns: list[str], quadratic: dict[str, Any] | None
) -> dict[str, Any]:
    best = part.row(int(part["loss"].arg_min() or 0), named=True)
    row: dict[str, Any] = {"runs": len(part), "loss": best["loss"]}
    row["varied"] = any(part[name].n_unique() >= MIN_RATES for name in columns)
    reasons = []
    for name in columns:
        row |= _ends(part, best, name)
        alone, reason = _one(part, name)
        row |= alone
        if reason:
            reasons.append(reason)
    row |= {"c_ee": None, "c_eb": None, "c_bb": None}
    curved = [row[f"{name}_curvature_1d"] for name in columns]
    row["convex"] = all(value is None or value > 0 for value in curved)
    row["convex_share"] = None
    if len(columns) == 2:
        both, reason = _both(part, columns, quadratic)
        row |= both
        reasons = [reason] if reason else []
    return row | {"reason": "; ".join(dict.fromkeys(reasons))}


def _ends(part: pl.DataFrame, best: dict[str, Any], name: str) -> dict[str, Any]:
    values = part[name].unique().sort()
    edge = {values[0]: "low", values[-1]: "high"}.get(best[name], "")
    if len(values) == 1:
        edge = "only"
    return {name: best[name], f"{name}_edge": edge}


def _one(part: pl.DataFrame, name: str) -> tuple[dict[str, Any], str]:
    keys = [f"{name}_opt_1d", f"{name}_curvature_1d"]
    if part[name].n_unique() < MIN_RATES:
        return dict.fromkeys(keys), f"fewer than {MIN_RATES} {WORDS[name]}"
    profile = part.group_by([*CELL, name]).agg(pl.col("loss").min())
    (found,) = optimal_rates(profile, column=name).to_dicts()
    values = [found["lr_opt"] if found["usable"] else None, found["curvature"]]
    return dict(zip(keys, values, strict=True)), found["reason"].replace("rates", WORDS[name])


def _both(
    part: pl.DataFrame, columns: list[str], found: dict[str, Any] | None
) -> tuple[dict[str, Any], str]:
    keys = [f"{name}_{what}" for name in columns for what in ("opt", "log_error")]
    empty: dict[str, Any] = dict.fromkeys(keys)
    if min(part[name].n_unique() for name in columns) < MIN_RATES:
        return empty, f"fewer than {MIN_RATES} learning rates or batches"
    if found is None:
        return empty, "fewer than eight runs within a factor of four of the best"
    known = {key: found[key] for key in ("c_ee", "c_eb", "c_bb", "convex")}
    known["convex_share"] = found["convex_replicates"]
    if not found["convex"]:
        return empty | known, "not convex"
    if not found["inside"]:
        return empty | known, "the optimum lies outside the grid"
    values: dict[str, Any] = {}
    for name, theirs in zip(columns, ("eta_opt", "B_opt"), strict=True):
        values |= {f"{name}_opt": found[theirs], f"{name}_log_error": found["log_error"][name]}
    return values | known, ""
