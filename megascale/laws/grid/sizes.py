"""Which size a grid's laws are of, where mixture-of-experts runs have two: total and active.

A law of N needs one N a run. A table that states both sizes is not asked to guess: the kind of N
that the user names picks the column. The other size must not vary unseen beneath it: runs of one
N and D that differ in it would share a cell, so they are refused unless it is held fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from megascale.errors import FitError
from megascale.laws.law_files import NKind

TOTAL, ACTIVE = "n_params", "active_params"
SIZES = (TOTAL, ACTIVE)
WORDS = {TOTAL: "total", ACTIVE: "active"}
SAME = 0.01
"""Sizes within this share of each other are the same, and so is one that is held fixed."""


@dataclass(frozen=True)
class Sized:
    """A grid with one size a run.

    Attributes:
        table: with n_params, the size of the law; the other size is gone.
        kind: which parameters n_params counts.
        notes: what was chosen and held, in words.
        other: range of the other size, where there is one.
        held: what was held fixed.
    """

    table: pl.DataFrame
    kind: NKind
    notes: list[str]
    other: dict[str, tuple[float, float]]
    held: dict[str, float]


def choose_size(
    table: pl.DataFrame,
    kind: NKind | None,
    hold: Mapping[str, float] | None = None,
    *,
    default: NKind = "non_embedding",
) -> Sized:
    """Return the grid with the size that its laws are to be of.

    Args:
        table: n_params, active_params or both, in parameters, with tokens and what else there is.
        kind: which parameters N counts; of two sizes the active kinds take active_params.
        hold: {column: value}: only runs within 1 % of the value are kept.
        default: kind of a table with one size where none is stated.

    Raises:
        FitError: two sizes and no kind; a kind whose size is not there; nothing is left; or runs
            of one N and D differ in the other size.
    """
    held = dict(hold or {})
    for name, value in held.items():
        if name not in table.columns:
            raise FitError.of("--hold", name, "is not a column of the grid", table.columns)
        kept = table.filter((pl.col(name) / value - 1).abs() <= SAME)
        if kept.is_empty():
            values = sorted(table[name].unique().to_list())
            nearest = min(values, key=lambda one: abs(one / value - 1))
            rule = f"no run has it; {name} is {values[0]:.6g} to {values[-1]:.6g}"
            raise FitError.of("--hold", f"{name}={value:g}", rule, f"{nearest:.6g}")
        table = kept
    there = [name for name in SIZES if name in table.columns]
    wants_active = kind is not None and kind.startswith("active")
    if there == [ACTIVE]:
        if kind is not None and not wants_active:
            rule = "the table has active parameters alone"
            raise FitError.of("--n-kind", kind, rule, "active")
        return Sized(table.rename({ACTIVE: TOTAL}), kind or "active", [], {}, held)
    if there == [TOTAL] or not there:
        return Sized(table, kind or default, [], {}, held)
    if kind is None:
        rule = "the table has total and active parameters: say which N the law is of"
        raise FitError.of("--n-kind", None, rule, ["total", "active"])
    chosen, other = (ACTIVE, TOTAL) if wants_active else (TOTAL, ACTIVE)
    _refuse_hidden(table, chosen, other)
    span = (_number(table[other].min()), _number(table[other].max()))
    notes = [
        f"N counts {WORDS[chosen]} parameters; {WORDS[other]} ones are "
        + (
            f"{span[0]:.4g}"
            if span[1] <= span[0] * (1 + SAME)
            else f"{span[0]:.4g} to {span[1]:.4g}"
        )
    ]
    table = table.drop(other).rename({chosen: TOTAL})
    return Sized(table, kind, notes, {other: span}, held)


def _refuse_hidden(table: pl.DataFrame, chosen: str, other: str) -> None:
    """Stops where runs of one N and D, N within 1 %, differ in the other size."""
    sizes = table.select(pl.col(chosen).log().alias("size"), pl.col("tokens"), pl.col(other)).sort(
        "size"
    )
    steps = sizes["size"].diff().fill_null(0.0) > SAME
    cells = sizes.with_columns(steps.cum_sum().alias("group")).group_by("group", "tokens").agg(
        pl.col(other).min().alias("least"), pl.col(other).max().alias("most"),
        pl.col("size").mean().exp(),
    )  # fmt: skip
    mixed = cells.filter(pl.col("most") > pl.col("least") * (1 + SAME))
    if mixed.is_empty():
        return
    row = mixed.sort("size", "tokens").row(0, named=True)
    rule = (
        f"runs of one {WORDS[chosen]} size, {row['size']:.4g}, and D = {row['tokens']:.4g} have "
        f"{WORDS[other]} sizes from {row['least']:.4g} to {row['most']:.4g}"
    )
    nearest = [f"--n-kind {WORDS[other]}", f"--hold {other}={row['least']:.4g}"]
    raise FitError.of("--n-kind", WORDS[chosen], rule, nearest)


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
