"""Windows and local parabolas: exact where the loss is simple, with the error of their noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from megascale.curves.smoothing import (
    LEAST_SCATTER,
    Window,
    joined_points,
    local_trend,
    scatter,
    smooth,
)
from megascale.errors import FitError


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
    assert np.isnan(error).all() if len(x) < LEAST_SCATTER else (error < 1e-4).all()


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


@given(
    st.floats(-2, 2),
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.integers(6, 60),
    st.floats(0.01, 0.3),
)
def test_a_parabola_in_log_tokens_is_kept_to_its_ends_and_beyond(
    level: float, slope: float, bend: float, count: int, step: float
) -> None:
    x = np.log(1e6) + step * np.arange(count)
    u = x - x[0]
    end = x[-1] + 0.05
    trend = local_trend(x, level + slope * u + bend * u**2, np.full(count, 0.01), end)
    v = trend.x - x[0]
    assert trend.loss == pytest.approx(level + slope * v + bend * v**2, abs=1e-6)
    assert trend.slope == pytest.approx(slope + 2 * bend * v, abs=1e-4)
    assert trend.x[-1] == end


def test_the_widest_local_fit_is_a_weighted_polynomial() -> None:
    """One knot against scipy's weighted least squares with the same tricube weights."""
    rng = np.random.default_rng(3)
    x = np.sort(rng.uniform(0, 3, 80))
    error = rng.uniform(0.01, 0.03, 80)
    y = 3 - 0.4 * x + error * rng.standard_normal(80)
    trend = local_trend(x, y, error)
    at, knot = 40, int(np.searchsorted(trend.x, x[40]))
    kernel = np.clip(1 - (np.abs(x - x[at]) / np.log(2)) ** 3, 0, None) ** 3
    near = kernel > 1e-6
    (level, slope, _), _ = curve_fit(
        lambda x_, a, b, c: a + b * x_ + c * x_**2,
        (x - x[at])[near],
        y[near],
        sigma=error[near] / np.sqrt(kernel[near]),
    )
    assert trend.loss[knot] == pytest.approx(level, abs=1e-6)
    assert trend.slope[knot] == pytest.approx(slope, abs=1e-5)


def test_the_reach_shrinks_around_a_kink_alone() -> None:
    x = np.log(1e6) + 0.05 * np.arange(100)
    u = x - x[60]
    truth = 3 - 0.2 * u - 1.5 * np.maximum(u, 0)
    misses, errors = [], []
    for seed in range(60):
        noise = 0.01 * np.random.default_rng(seed).standard_normal(100)
        trend = local_trend(x, truth + noise, np.full(100, 0.01))
        misses.append(trend.loss - truth)
        errors.append(trend.error)
    bias, spread = np.mean(misses, axis=0), np.std(misses, axis=0)
    assert np.abs(bias[:40]).max() < 0.003
    assert np.abs(bias).max() < 0.02
    assert spread[20:40].mean() < 0.005  # a factor of two either way
    assert np.mean(np.square(errors), axis=0)[20:40].mean() ** 0.5 == pytest.approx(
        spread[20:40].mean(), rel=0.2
    )


def test_scatter_is_the_noise_and_not_the_bend() -> None:
    x = np.log(np.arange(20, 400.0))
    weight = np.where(np.arange(380) < 190, 1.0, 4.0)
    noise = 0.02 * np.random.default_rng(1).standard_normal(380) / np.sqrt(weight)
    found = scatter(x, 2 + 3 * np.exp(-x / 2) + noise, weight, records=1000)
    assert np.sqrt(found) == pytest.approx(0.02 * np.ones(380), rel=0.1)
    assert scatter(x, 2 + x + x**2, weight) == pytest.approx(np.zeros(380), abs=1e-15)
    assert np.isnan(scatter(x[: LEAST_SCATTER - 1], x[: LEAST_SCATTER - 1], weight)).all()


def test_few_points_of_a_power_law_are_joined_near_it() -> None:
    """Straight lines between seven points over a factor of 64 would be off by 0.03."""
    x = np.log(1e8) + np.log(2) * np.arange(7)
    curve = joined_points(x, 2 + 40 * np.exp(-0.2 * x), np.full(7, np.nan))
    assert (np.diff(curve.x) < 0.11).all()
    assert curve.loss[np.isin(curve.x, x)] == pytest.approx(2 + 40 * np.exp(-0.2 * x))
    assert curve.loss == pytest.approx(2 + 40 * np.exp(-0.2 * curve.x), abs=2e-3)
    step = joined_points(x, np.array([4, 4, 4, 3, 3, 3, 3.0]), np.full(7, np.nan))
    assert step.loss.max() == 4
    assert step.loss.min() == 3
