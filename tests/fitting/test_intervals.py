"""Bootstrap percentiles of few points against Student's t."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from megascale import fitting
from megascale.fitting.intervals import stretch, stretched_percentiles


@pytest.mark.parametrize(("points", "parameters"), [(6, 4), (8, 2), (30, 5)])
def test_normal_replicates_stretch_to_student_t(points: int, parameters: int) -> None:
    draws = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[None] * 2.0 - 50.0
    factor, freedom = stretch("parametric", 0.9, points, parameters)
    assert freedom == points - parameters
    low, high = stretched_percentiles(draws, 0.9, factor)
    reach = 2.0 * stats.t.ppf(0.95, points - parameters)
    assert (low[0], high[0]) == pytest.approx((-50 - reach, -50 + reach), rel=1e-3)


def test_resamples_make_up_for_residuals_that_were_fitted() -> None:
    plain, _ = stretch("parametric", 0.9, 8, 2)
    for kind in ("pairs", "runs"):
        assert stretch(kind, 0.9, 8, 2)[0] == pytest.approx(plain * np.sqrt(8 / 6))


def test_positive_quantities_stretch_in_the_logarithm_and_failures_are_left_out() -> None:
    draws = np.exp(np.linspace(-1, 1, 201))[None]
    low, high = stretched_percentiles(draws, 0.9, 2.0)
    assert (low[0], high[0]) == pytest.approx((np.exp(-1.8), np.exp(1.8)))
    with_failures = np.concatenate([draws, np.full((1, 50), np.nan)], axis=1)
    assert stretched_percentiles(with_failures, 0.9, 2.0)[:, 0] == pytest.approx([low[0], high[0]])
    nothing = stretched_percentiles(np.full((1, 5), np.nan), 0.9, 2.0)
    assert np.isnan(nothing).all()


def test_a_power_laws_bootstrap_is_its_least_squares_interval() -> None:
    rng = np.random.default_rng(4)
    x = np.geomspace(1e8, 1e11, 6)
    y = 3 * x**0.4 * np.exp(0.1 * rng.standard_normal(6))
    boot = fitting.fit("power_law", x, y, bootstrap="parametric", replicates=20_000)
    exact = fitting.fit("power_law", x, y)
    for name in ("coefficient", "exponent_1"):
        low, high = boot.interval(name)
        expected = exact.interval(name)
        assert np.log(high / low) == pytest.approx(np.log(expected[1] / expected[0]), rel=0.03)


def test_runs_are_the_units_of_a_bootstrap_over_runs() -> None:
    rng = np.random.default_rng(5)
    runs = np.repeat(np.arange(8), 20)
    d = np.tile(np.geomspace(1e8, 1e10, 20), 8)
    y = (2 + 30 * d**-0.2) * np.exp(0.01 * rng.standard_normal(8)[runs])
    result = fitting.fit("loss_curve", d, y, bootstrap="runs", runs=runs, replicates=50)
    assert result.resample == "runs"
    assert result.drawn_runs.tolist() == [8]
    factor, _ = stretch("runs", 0.9, 8, 3)
    expected = stretched_percentiles(result.replicates("L0"), 0.9, factor)
    assert np.array(result.interval("L0")) == pytest.approx(expected)


def test_change_points_get_the_wider_of_both_intervals() -> None:
    from tests.fitting.synthetic import wsd_points

    s, e, _ = wsd_points(5, 12, 0.01, 3)
    boot = fitting.fit("wsd", s, e, bootstrap="parametric", replicates=100)
    exact = fitting.fit("wsd", s, e)
    low, high = boot.interval("S_1")
    assert (low <= exact.interval("S_1")[0]).all()
    assert (high >= exact.interval("S_1")[1]).all()
