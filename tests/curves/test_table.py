"""Curves of the one table: where losses stand, which are taken, which stretch counts."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from megascale.curves.smoothing import Window
from megascale.curves.table import curves_from_table
from megascale.errors import FitError
from megascale.laws.batch.points import extract
from tests.curves.simulated import Truth, run_table

TRUTH = Truth()


def test_a_loss_belongs_to_the_model_before_its_step() -> None:
    batch = 1000
    step = np.arange(1, 41)
    table = pl.DataFrame(
        {
            "run": "a",
            "step": step,
            "tokens": step * batch,
            "batch_tokens": batch,
            "loss": 5.0 - 0.01 * step,
            "loss_kind": "instantaneous",
        }
    )
    (curve,) = curves_from_table(table, window=Window("none")).curves
    assert curve.tokens[0] == batch  # the first step's loss is that of no tokens: left out
    assert curve.loss[0] == pytest.approx(5.0 - 0.02)
    means = table.filter(pl.col("step") % 4 == 0).with_columns(loss_kind=pl.lit("interval_mean"))
    (curve,) = curves_from_table(means, window=Window("none")).curves
    # Steps 5 to 8 saw models of 4 to 7 batches.
    assert curve.tokens[1] == pytest.approx(5.5 * batch)


def test_only_the_constant_phase_counts() -> None:
    step = np.arange(1, 101)
    rate = np.where(step <= 10, step / 10, np.where(step <= 80, 1.0, (101 - step) / 21)) * 1e-3
    table = pl.DataFrame(
        {"run": "a", "step": step, "tokens": step * 10, "batch_tokens": 10, "lr": rate}
    ).with_columns(loss=4.0 - pl.col("step") * 0.01, loss_kind=pl.lit("validation"))
    (curve,) = curves_from_table(table).curves
    assert (curve.tokens[0], curve.tokens[-1], curve.lr) == (100, 800, 1e-3)
    assert len(curves_from_table(table, phase="all").curves[0].tokens) == 100


def test_runs_without_a_curve_say_why() -> None:
    table = pl.DataFrame(
        {
            "run": ["short", "no tokens"],
            "step": [1, 1],
            "tokens": [100, None],
            "loss": [3.0, 3.0],
            "loss_kind": "interval_mean",
        }
    )
    found = curves_from_table(table)
    assert not found.curves
    reasons = {dropped.run: dropped.reason for dropped in found.dropped}
    assert "1 train losses" in reasons["short"]
    assert "no tokens" in reasons["no tokens"]


def test_a_changed_batch_is_no_constant_one() -> None:
    step = np.arange(1, 31)
    batch = np.where(step <= 10, 10, 20)
    table = pl.DataFrame(
        {
            "run": "grown",
            "step": step,
            "tokens": np.cumsum(batch),
            "batch_tokens": batch,
            "loss": 4 - 0.01 * step,
        }
    )
    found = curves_from_table(table)
    assert found.curves[0].batch_tokens is None
    assert not found.constant_batch()
    with pytest.raises(FitError, match="batch changed"):
        extract(found.curves, [3.9])


def test_of_several_kinds_of_loss_one_is_taken() -> None:
    table = run_table(TRUTH, (65536,), noise=0.0)
    smoothed = table.with_columns(loss=pl.col("loss") + 1, loss_kind=pl.lit("ema"))
    both = pl.concat([smoothed, table])
    (curve,) = curves_from_table(both).curves
    assert curve.loss_kind == "interval_mean"
    sets = [
        table.with_columns(loss_kind=pl.lit(f"validation:{name}"), loss=pl.col("loss") + shift)
        for name, shift in (("code", 0.5), ("web", 0.25))
    ]
    (named,) = curves_from_table(pl.concat([table, *sets]), loss="validation:web").curves
    assert named.loss_kind == "validation:web"
