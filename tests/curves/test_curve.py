"""Curves, crossings and (S, E) points against runs whose loss is known in closed form."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from megascale.curves.crossing import find_crossings
from megascale.curves.curve import Curve, mean_curve
from megascale.curves.smoothing import Window, smooth
from megascale.curves.table import curves_from_table
from megascale.errors import FitError
from megascale.laws.batch.points import choose_targets, extract, first_crossing
from tests.curves.simulated import Truth, run_table

TRUTH = Truth()


@given(
    st.lists(st.floats(1.0, 1e12), min_size=1, max_size=60, unique=True),
    st.sampled_from(
        [Window("log", 0.05), Window("log", 1.0), Window("tokens", 1e6), Window("none")]
    ),
    st.floats(-5, 5),
    st.floats(0.1, 5),
)
def test_smoothing_keeps_a_straight_line_in_log_tokens(
    tokens: list[float], window: Window, slope: float, offset: float
) -> None:
    x = np.sort(np.array(tokens))
    where, loss, error = smooth(x, offset + slope * np.log(x), window)
    assert np.allclose(loss, offset + slope * np.log(where), atol=1e-6)
    assert (np.diff(where) > 0).all()
    assert np.isnan(error).all() if len(x) < 3 else (error < 1e-4).all()


def test_smoothing_windows_and_their_errors() -> None:
    rng = np.random.default_rng(1)
    tokens = np.arange(1, 20_001) * 1000.0
    misses = []
    for _ in range(20):
        noisy = 3.0 + 0.1 * rng.standard_normal(len(tokens))
        where, loss, error = smooth(tokens, noisy, Window("tokens", 1e6))
        assert len(where) == 21
        misses.append((loss - 3.0) / error)
    assert np.std(np.concatenate(misses)) == pytest.approx(1.0, abs=0.15)


def test_smoothing_weighs_by_interval() -> None:
    _, loss, _ = smooth([1.0, 1.01, 1.02], [1.0, 2.0, 4.0], Window("log", 1.0), [1, 1, 2])
    assert loss == pytest.approx([11 / 4])


@pytest.mark.parametrize(
    ("tokens", "loss", "said"),
    [
        ([1.0, 1.0], [2.0, 2.0], "rise"),
        ([1.0, 2.0], [2.0, float("nan")], "finite"),
        ([1.0], [2.0, 1.0], "as many"),
    ],
)
def test_smoothing_refuses(tokens: list[float], loss: list[float], said: str) -> None:
    with pytest.raises(FitError, match=said):
        smooth(tokens, loss)


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


def lead_of_the_small_batch(log_tokens: float, small: float, large: float) -> float:
    tokens = np.exp(log_tokens)
    return float(TRUTH.loss(tokens / small, small) - TRUTH.loss(tokens / large, large))


def test_crossings_lie_where_the_curves_cross() -> None:
    curves = curves_from_table(run_table(TRUTH, seed=3)).curves
    crossings = find_crossings(curves)
    assert [c.batch_small for c in crossings] == [16384, 32768, 65536]
    for found in crossings:
        small, large = found.batch_small, found.batch_large
        place = brentq(lead_of_the_small_batch, np.log(1e6), np.log(1e12), (small, large))
        assert abs(np.log(found.tokens) - place) < 4 * found.log_error
        assert found.log_error < 0.1
        assert found.loss == pytest.approx(TRUTH.loss(np.exp(place) / small, small), abs=0.02)
    assert len(find_crossings(curves, all_pairs=True)) > len(crossings)


def test_curves_that_keep_their_order_do_not_cross() -> None:
    tokens = np.geomspace(1e6, 1e9, 60)
    error = np.full(60, 0.01)
    small = Curve("a", tokens, 3 + tokens**-0.1, error, 1e4)
    large = Curve("b", tokens, 3.2 + tokens**-0.1, error, 2e4)
    assert find_crossings([small, large]) == []


@pytest.mark.parametrize(("method", "accuracy"), [("local", 0.02), ("first", 0.06)])
def test_extracted_tokens_are_the_true_ones(method: str, accuracy: float) -> None:
    curves = curves_from_table(run_table(TRUTH, seed=5)).curves
    found = extract(curves, choose_targets(curves), method=method)
    truth = np.array(
        [
            TRUTH.tokens_to(target, batch)
            for target, batch in found.points.select("target_loss", "batch_tokens").iter_rows()
        ]
    )
    miss = np.log(found.points["tokens"].to_numpy() / truth)
    assert len(miss) > 40
    assert np.sqrt(np.mean(miss**2)) < accuracy
    if method == "local":
        z = miss / found.points["log_error"].to_numpy()
        assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5
        assert (found.points["method"] == "local").mean() > 0.9
    # E = B S to the last bit.
    points = found.points
    assert (points["steps"] == points["tokens"] / points["batch_tokens"]).all()
    # What is missing was not reached by the run, and nothing is extrapolated.
    assert found.missed["reason"].str.contains("not reached").all()


def test_first_crossing_in_words() -> None:
    curve = Curve("a", np.array([1e3, 1e4]), np.array([4.0, 3.0]), np.array([0.1, 0.1]), 10)
    assert "not reached" in str(first_crossing(curve, 2.0))
    assert "starts below" in str(first_crossing(curve, 5.0))
    found = first_crossing(curve, 3.5)
    assert not isinstance(found, str)
    assert found[0] == pytest.approx(np.sqrt(1e7))


def test_targets_enclose_a_best_batch() -> None:
    curves = curves_from_table(run_table(TRUTH, noise=0.003)).curves
    targets = choose_targets(curves, 6)
    assert targets == sorted(targets, reverse=True)
    best = [TRUTH.best_batch(target) for target in targets]
    assert min(best) > 16384
    with pytest.raises(FitError, match="at least 12"):
        choose_targets(curves, min_batches=12)


def test_seeds_average_with_their_own_spread() -> None:
    curves = curves_from_table(run_table(TRUTH, (65536,), seeds=8, noise=0.05)).curves
    mean = mean_curve(curves)
    truth = TRUTH.loss(mean.tokens / 65536, 65536)
    z = (mean.loss - truth) / mean.error
    assert np.abs(np.mean(z)) < 0.5
    assert 0.6 < np.std(z) < 1.8
