"""Profile-likelihood limits against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from megascale import fitting
from megascale.errors import FitError
from tests.fitting.synthetic import power_law_studies, twelve_batches


def test_a_held_coefficient_of_a_power_law() -> None:
    x, y = power_law_studies(2, 9, 20)
    free = fitting.fit("power_law", x, y)
    low, high = free.interval("coefficient", kind="profile")
    error = free.errors["coefficient"] / free["coefficient"]
    reach = np.exp(stats.t.ppf(0.95, 7) * error)
    assert high == pytest.approx(free["coefficient"] * reach, rel=1e-5)
    assert low == pytest.approx(free["coefficient"] / reach, rel=1e-5)


def test_profile_is_the_f_region() -> None:
    """On a linear law the profile is Student's t, and its limits lie where the F-test says."""
    x, y = power_law_studies(3, 9, 8)
    result = fitting.fit("power_law", x, y)
    low, high = result.interval("exponent_1", kind="profile")
    reach = stats.t.ppf(0.95, 7) * result.errors["exponent_1"]
    assert high - result["exponent_1"] == pytest.approx(reach, rel=1e-5)
    assert result["exponent_1"] - low == pytest.approx(reach, rel=1e-5)


def test_profile_of_a_bent_law_against_scipy() -> None:
    rng = np.random.default_rng(9)
    d = np.geomspace(1e8, 1e11, 9)
    y = (2 + 1500 * d**-0.35) * np.exp(0.003 * rng.standard_normal(9))
    result = fitting.fit("loss_curve", d, y, residual="relative")
    low, high = result.interval("gamma", kind="profile")

    def least(gamma: float) -> float:
        design = np.stack([np.ones(9), d**-gamma], axis=1) / y[:, None]
        _, left, *_ = np.linalg.lstsq(design, np.ones(9), rcond=None)
        return float(left[0])

    best = optimize.minimize_scalar(least, bounds=(0.2, 0.6), method="bounded").fun
    limit = best * (1 + stats.t.ppf(0.95, 6) ** 2 / 6)
    want_low = optimize.brentq(lambda g: least(g) - limit, 0.1, result["gamma"][0])
    want_high = optimize.brentq(lambda g: least(g) - limit, result["gamma"][0], 0.9)
    assert (low[0], high[0]) == pytest.approx((want_low, want_high), rel=1e-4)


def test_profile_says_where_a_side_is_open() -> None:
    """Points far from the floor of a loss curve cannot say that there is one."""
    rng = np.random.default_rng(10)
    d = np.geomspace(1e8, 1e9, 8)
    y = 1500 * d**-0.35 * np.exp(0.003 * rng.standard_normal(8))
    result = fitting.fit("loss_curve", d, y)
    low, high = result.interval("L0", kind="profile")
    assert low[0] <= 1e-6
    assert 0 < high[0] < y.min()
    with pytest.raises(FitError, match="a profile is of a parameter"):
        fitting.fit("classic", *twelve_batches(1, 1)[:2]).interval("B_crit", kind="profile")


def test_tables_show_profiles_where_errors_say_nothing() -> None:
    """A floor whose error exceeds it: its Wald limits reach from nothing to a million losses."""
    rng = np.random.default_rng(10)
    d = np.geomspace(1e8, 1e9, 8)
    y = 1500 * d**-0.35 * np.exp(0.003 * rng.standard_normal((3, 8)))
    result = fitting.fit("loss_curve", np.broadcast_to(d, (3, 8)), y)
    shown = result.profiled("L0")
    assert shown[0]
    assert not result.profiled("gamma").any()
    low, high = result.limits("L0")
    profile = result.interval("L0", kind="profile")
    assert np.array_equal(low[shown], profile[0][shown])
    assert np.array_equal(high[shown], profile[1][shown])
    assert (high[shown] < y.min()).all()
    cells = result.problem(0)["params"]
    assert (cells["L0"]["kind"], cells["gamma"]["kind"]) == ("profile", "wald")
    assert cells["L0"]["high"] == high[0]
    assert result.to_polars()["profiled"][0] == "L0"
    assert "profile limits" in fitting.fit("loss_curve", d, y[0]).summary()


def test_shown_limits_cover_where_wald_does_not() -> None:
    rng = np.random.default_rng(11)
    d = np.broadcast_to(np.geomspace(1e8, 1e9, 8), (300, 8))
    y = (0.05 + 1500 * d**-0.35) * np.exp(0.003 * rng.standard_normal((300, 8)))
    result = fitting.fit("loss_curve", d, y)
    low, high = result.limits("L0")
    assert 0.85 <= ((low <= 0.05) & (high >= 0.05)).mean() <= 0.95
    bounded = fitting.fit("loss_curve", d[0], y[0], bounds={"gamma": (0.2, 0.3)})
    assert np.isnan(bounded.errors["gamma"][0])
    low, high = bounded.limits("gamma")
    assert 0.2 <= low[0] <= high[0] == pytest.approx(0.3)
    held = fitting.fit("loss_curve", d[0], y[0], fixed={"L0": 0.05})
    assert not held.profiled("L0").any()


def test_exponents_of_any_sign_have_no_logarithm() -> None:
    """An exponent near 0 has the interval of a straight line in logarithms, on both its sides."""
    x = np.geomspace(1, 100, 8)
    y = 3 * x**0.02 * np.exp(0.05 * np.array([1, -1, 1, 1, -1, 1, -1, -1.0]))
    result = fitting.fit("power_law", x, y)
    expected = stats.linregress(np.log(x), np.log(y))
    reach = stats.t.ppf(0.95, 6) * expected.stderr
    for kind in ("wald", "profile"):
        low, high = result.interval("exponent_1", kind=kind)
        assert low[0] == pytest.approx(expected.slope - reach, rel=1e-4)
        assert high[0] == pytest.approx(expected.slope + reach, rel=1e-4)
