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
