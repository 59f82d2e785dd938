"""Curves: what is read between points, means of seeds, stretches."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from megascale.curves.curve import RecordCounts, mean_curve
from megascale.curves.table import curves_from_table
from tests.curves.simulated import Truth, run_table

TRUTH = Truth()


def test_seeds_average_with_their_own_spread() -> None:
    curves = curves_from_table(run_table(TRUTH, (65536,), seeds=8, noise=0.05)).curves
    mean = mean_curve(curves)
    truth = TRUTH.loss(mean.tokens / 65536, 65536)
    z = (mean.loss - truth) / mean.error
    assert np.abs(np.mean(z)) < 0.5
    assert 0.6 < np.std(z) < 1.8


def test_a_curve_goes_on_to_the_end_of_the_run() -> None:
    (curve,) = curves_from_table(run_table(TRUTH, (65536,), noise=0.0)).curves
    assert curve.last == pytest.approx(4e9, rel=1e-4)
    assert curve.tokens[-1] < curve.last
    assert curve.final == pytest.approx(float(TRUTH.loss(curve.last / 65536, 65536)), abs=1e-4)
    assert np.isnan(curve.at([curve.tokens[0] * 0.99, curve.last * 1.01])).all()


def test_evaluations_are_read_as_they_are() -> None:
    table = run_table(TRUTH, (65536,), records=60).with_columns(loss_kind=pl.lit("validation"))
    (curve,) = curves_from_table(table).curves
    assert (curve.at(table["tokens"]) == table["loss"].to_numpy()).all()
    assert curve.final == table["loss"][-1]
    middle = float(curve.at(np.sqrt(curve.tokens[20] * curve.tokens[21])))
    assert min(curve.loss[20:22]) <= middle <= max(curve.loss[20:22])
    assert curve.lowest <= table["loss"].min()


def test_a_stretch_has_the_losses_of_the_whole() -> None:
    (curve,) = curves_from_table(run_table(TRUTH, (65536,))).curves
    part = curve.stretch(1e8, 1e9)
    inside = np.geomspace(1.2e8, 0.9e9, 7)
    assert (part.at(inside) == curve.at(inside)).all()
    assert (part.error_at(inside) == curve.error_at(inside)).all()
    assert np.isnan(part.at([0.9e8, 1.1e9])).all()
    assert part.lowest > curve.lowest
    assert part.tokens[0] >= 1e8
    assert part.last == 1e9


def test_the_clock_runs_from_zero_between_records() -> None:
    clock = RecordCounts(
        *(np.array(v) for v in ([10.0, 30.0], [1.0, 2.0], [4.0, 8.0], [10.0, 20.0]))
    )
    assert clock.steps_at(20) == 1.5
    assert clock.seconds_at(5) == 2
    unknown = RecordCounts(clock.tokens, np.array([np.nan, 2.0]), clock.seconds, clock.batch)
    assert unknown.steps_at(20) is None
