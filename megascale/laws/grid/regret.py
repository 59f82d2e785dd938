"""What following each published law would have cost on a grid of final losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from megascale.laws.learning_rate import CELL, grid_regret
from megascale.laws.published.batch import STEP_BATCH
from megascale.laws.published.law import Constant, PublishedLaw, Target
from megascale.laws.published.learning_rate import STEP_LR
from megascale.laws.published.registry import LAWS

UNROUNDED = "Step Law, unrounded"
"""The printed 1.79 and 0.58 with the digits of the authors' 1,000 bootstrap rows, whose means are
0.5863 and -0.5435 in log. The lowest loss is so flat that these digits move the nearest run of a
cell on the authors' own table: 0.098 % regret against 0.096 % for the printed constants."""
STEP_LR_UNROUNDED = replace(
    STEP_LR,
    formula="exp(0.5863) N^-0.7129 D^0.3075",
    constants={"k": Constant(1.7973), "n": Constant(-0.7129), "d": Constant(0.3075)},
)
STEP_BATCH_UNROUNDED = replace(
    STEP_BATCH,
    formula="0.5807 D^0.5709",
    constants={"k": Constant(0.5807), "d": Constant(0.5709)},
)
QUANTITY = {"lr": "LR", "batch_tokens": "batch"}


def target_of_cell(n: float, d: float) -> Target:
    """Return a grid's cell as a target: its N stands for every count, the tables left out."""
    return Target(n, n, d, non_embedding=n, active_non_embedding=n)


def published_pairs() -> list[tuple[str, str, dict[str, PublishedLaw]]]:
    """Return (name, paper, {column: law}) of every publication, a rate law, a batch law or both."""
    found: dict[str, tuple[str, str, dict[str, PublishedLaw]]] = {}
    for law in LAWS:
        if law.quantity in ("lr", "batch") and not law.needs and law.regime != "muP base":
            base = law.key.rsplit("-lr", 1)[0].rsplit("-batch", 1)[0]
            laws = found.setdefault(base, (law.name, law.arxiv, {}))[2]
            laws["lr" if law.quantity == "lr" else "batch_tokens"] = law
    return list(found.values())


def published_regret(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the loss of the run nearest to each publication's answer over its cell's lowest, as a
    share.

    A law of one quantity is given the cell's best value of the other.

    Args:
        table: n_params, tokens, loss, and lr or batch_tokens or both.

    Returns:
        A row a publication, best first, those that give everything the table varies at the top:
        name, arxiv, gives, mean_regret, worst_regret, cells, and in how many of them it lies
        inside the grid.
    """
    rows = []
    both = {"lr": STEP_LR_UNROUNDED, "batch_tokens": STEP_BATCH_UNROUNDED}
    for name, arxiv, laws in [*published_pairs(), (UNROUNDED, STEP_LR.arxiv, both)]:
        given = {column: law for column, law in laws.items() if column in table.columns}
        if not given:
            continue

        def predicted(
            n: float, d: float, given: dict[str, PublishedLaw] = given
        ) -> dict[str, float]:
            target = target_of_cell(n, d)
            return {c: float(law.evaluate(target).value or 1e-9) for c, law in given.items()}

        rows.append({"name": name, "arxiv": arxiv, **mean_regret(table, predicted, list(given))})
    most = max((len(row["gives"]) for row in rows), default=0)
    return sorted(rows, key=lambda row: (len(row["gives"]) < most, row["mean_regret"]))


def mean_regret(table: pl.DataFrame, predicted: Any, gives: list[str]) -> dict[str, Any]:
    """Return the regret over all cells of a law that gives some of the table's columns.

    Args:
        table: as `published_regret`.
        predicted: (N, D) -> {column: value}.
        gives: those columns; a column of the table that is not among them takes its best value.

    Returns:
        gives (in words), mean_regret, worst_regret, cells, inside.
    """
    if not {"lr", "batch_tokens"} & set(table.columns) <= set(gives):
        table = table.group_by([*CELL, *gives], maintain_order=True).agg(pl.col("loss").min())
    found = grid_regret(table, predicted)
    return {
        "gives": " and ".join(QUANTITY[c] for c in gives),
        "mean_regret": float(found["regret"].to_numpy().mean()),
        "worst_regret": float(found["regret"].to_numpy().max()),
        "cells": len(found),
        "inside": int(found["inside"].sum()),
    }
