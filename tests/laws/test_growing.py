"""Runs whose batch changed, beside the best fixed run that is like them otherwise."""

from __future__ import annotations

import numpy as np
import polars as pl

from megascale.curves.smoothing import Window
from megascale.laws.growing import growing_runs
from megascale.runs.table import RunTable


def rows(name: str, floor: float, batches: tuple[int, int], last_lr: float = 1e-3) -> pl.DataFrame:
    tokens = np.linspace(1e4, 1e6, 100)
    half = np.arange(100) < 50
    noise = 0.002 * np.random.default_rng(len(name)).standard_normal(100)
    return pl.DataFrame(
        {
            "run": name,
            "step": np.arange(1, 101),
            "tokens": tokens,
            "batch_tokens": np.where(half, *batches),
            "lr": np.where(tokens < 8e5, 1e-3, last_lr),
            "loss": floor + 50 * tokens**-0.4 + noise,
            "loss_kind": "validation",
            "source": f"{name}.csv",
        }
    )


def said(*parts: pl.DataFrame, sizes: dict[str, float] | None = None) -> list[str]:
    table = pl.concat(parts)
    known = dict.fromkeys(table["run"].unique(), 100000.0) | (sizes or {})
    found = growing_runs(RunTable(table, [], [], []), known, "auto", Window())
    return [one.sentence for one in found]


def test_a_growing_run_is_held_against_the_best_fixed_one():
    grown = rows("grown", 3.0, (500, 2000))
    small, large = rows("small", 3.2, (500, 500)), rows("large", 3.1, (2000, 2000))
    (text,) = said(small, large, grown)
    assert "grown is 0.1" in text
    assert "below large" in text


def test_runs_of_another_size_or_schedule_are_no_opponents():
    grown, fixed = rows("grown", 3.0, (500, 2000)), rows("fixed", 3.1, (2000, 2000))
    assert said(grown, fixed, sizes={"fixed": 3e5}) == []
    assert said(grown, rows("fixed", 3.1, (2000, 2000), last_lr=1e-4)) == []
    assert said(fixed) == []
