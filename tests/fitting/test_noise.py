"""Known standard deviations against scipy's curve_fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from megascale import fitting
from megascale.errors import FitError
from tests.fitting.synthetic import power_law_studies, within_nominal


@pytest.mark.parametrize("absolute", [True, False])
def test_sigma_is_that_of_curve_fit(absolute: bool) -> None:
    rng = np.random.default_rng(14)
    d = np.geomspace(1e8, 1e11, 12)
    sigma = np.linspace(0.01, 0.05, 12)
    y = 2 + 1500 * d**-0.35 + sigma * rng.standard_normal(12)
    mine = fitting.fit(
        "loss_curve", d, y, residual="absolute", sigma=sigma, absolute_sigma=absolute
    )
    theirs, covariance = optimize.curve_fit(
        lambda x, a, b, g: a + b * (x / 1e9) ** -g,
        d, y, [2, 1.0, 0.35], sigma=sigma, absolute_sigma=absolute, ftol=1e-14, xtol=1e-14,
    )  # fmt: skip
    assert mine["gamma"][0] == pytest.approx(theirs[2], rel=1e-5)
    errors = (mine.errors["L0"][0], mine.errors["gamma"][0])
    assert errors == pytest.approx(np.sqrt(covariance[[0, 2], [0, 2]]), rel=1e-3)
    left = (y - mine.predict(d)) / sigma
    if absolute:
        assert mine.chi_squared[0] == pytest.approx((left**2).sum())
        assert mine.p_value[0] == pytest.approx(stats.chi2.sf((left**2).sum(), 9))
    else:
        with pytest.raises(FitError, match="chi-squared needs sigma="):
            _ = mine.chi_squared


def test_known_noise_of_a_relative_residual() -> None:
    """p-values are uniform where the deviations are right, and the bootstrap draws just these."""
    x, y = power_law_studies(400, 6, 15)
    result = fitting.fit(
        "power_law", x, y, sigma=0.05 * y, absolute_sigma=True, bootstrap="parametric",
        replicates=299,
    )  # fmt: skip
    assert stats.kstest(result.p_value, "uniform").pvalue > 0.01
    design = np.stack([np.ones(6), np.log(x[0])], axis=1)
    exact = 0.05 * np.sqrt(np.linalg.inv(design.T @ design)[1, 1])
    assert result.errors["exponent_1"] == pytest.approx(exact)
    assert result.replicates("exponent_1").std(axis=1).mean() == pytest.approx(exact, rel=0.02)
    for kind in ("wald", "percentile"):
        low, high = result.interval("exponent_1", kind=kind)
        assert within_nominal(((low <= -0.5) & (high >= -0.5)).mean(), 400)
    for wrong in ({"absolute_sigma": True}, {"sigma": 1.0, "weights": y}, {"sigma": -1.0}):
        with pytest.raises(FitError):
            fitting.fit("power_law", x, y, **wrong)
