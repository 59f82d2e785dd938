"""When a loss is reached: the true place, with the error that it has."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from megascale.curves.curve import Curve
from megascale.curves.reach import Reach, reach
from megascale.curves.records import VALIDATION
from megascale.curves.table import curves_from_table
from tests.curves.simulated import Truth, run_table

TRUTH = Truth()


def place(curve: Curve, loss: float) -> Reach:
    found = reach(curve, loss)
    assert isinstance(found, Reach)
    return found


def test_in_words_where_it_is_not_reached() -> None:
    curve = Curve("a", np.array([1e3, 1e4]), np.array([4.0, 3.0]), np.array([0.1, 0.1]), 10)
    assert reach(curve, 2.0) == "not reached: the lowest loss is 3.0000"
    assert reach(curve, 5.0) == "the curve starts below it, at 4.0000"
    assert place(curve, 3.5).tokens == pytest.approx(np.sqrt(1e7))
    assert place(curve, 3.0).tokens == pytest.approx(1e4)


def test_the_place_and_its_error_are_true() -> None:
    batch, losses = 65536, (2.5, 2.35, 2.28)
    misses, z = [], []
    for seed in range(60):
        (curve,) = curves_from_table(run_table(TRUTH, (batch,), noise=0.02, seed=seed)).curves
        for loss in losses:
            found = place(curve, loss)
            misses.append(np.log(found.tokens / TRUTH.tokens_to(loss, batch)))
            z.append(misses[-1] / found.log_error)
    assert abs(np.mean(misses)) < 3 * np.std(misses) / np.sqrt(len(misses))
    assert np.std(z) == pytest.approx(1.0, abs=0.2)


def test_a_loss_that_one_evaluation_has_is_reached() -> None:
    rng = np.random.default_rng(4)
    tokens = np.arange(1, 31) * 1e7
    loss = 3 + 20 * tokens**-0.25 + 0.01 * rng.standard_normal(30)
    loss[-1] -= 0.03  # the run stopped because of it
    curve = Curve("a", tokens, loss, np.full(30, 0.01), loss_kind=VALIDATION)
    assert curve.trend.loss.min() > loss[-1]
    assert tokens[-2] < place(curve, float(loss[-1])).tokens <= tokens[-1]
    assert curve.lowest == loss[-1]
    assert isinstance(reach(curve, curve.lowest - 1e-6), str)


def test_in_a_stretch_only_what_happens_there_counts() -> None:
    (curve,) = curves_from_table(run_table(TRUTH, (65536,))).curves
    part = curve.stretch(1e8, 1e9)
    inside = float(curve.at(5e8))
    assert place(part, inside) == place(curve, inside)
    assert "starts below" in str(reach(part, float(curve.at(5e7))))
    assert "not reached" in str(reach(part, float(curve.at(2e9))))


def test_a_growing_batch_and_a_decay_do_not_move_it() -> None:
    """A decay in the last fifth brings the loss down by 0.15; 1e9 tokens in all."""
    tokens = np.arange(1, 401) * 1e7 / 4
    truth = 2 + 30 * tokens**-0.2 - 0.15 * np.clip((tokens / 1e9 - 0.8) / 0.2, 0, 1)
    wanted = float(np.interp(0.9e9, tokens, truth))
    misses = []
    for seed in range(40):
        noise = 0.01 * np.random.default_rng(seed).standard_normal(400)
        table = pl.DataFrame({"run": "a", "tokens": tokens, "loss": truth + noise})
        table = table.with_columns(loss_kind=pl.lit("instantaneous"))
        (curve,) = curves_from_table(table).curves
        misses.append(np.log(place(curve, wanted).tokens / 0.9e9))
    assert abs(np.mean(misses)) < 0.004
    assert np.std(misses) < 0.006
