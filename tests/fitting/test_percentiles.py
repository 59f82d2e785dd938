"""Bootstrap percentiles of few points against Student's t."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from megascale.fitting.percentiles import row_percentiles, stretch, stretched_percentiles


@pytest.mark.parametrize(("points", "parameters"), [(6, 4), (8, 2), (30, 5)])
def test_normal_replicates_stretch_to_student_t(points: int, parameters: int) -> None:
    draws = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[None] * 2.0 - 50.0
    factor, freedom = stretch("errors", 0.9, points, parameters)
    assert freedom == points - parameters
    low, high = stretched_percentiles(draws, 0.9, factor)
    reach = 2.0 * stats.t.ppf(0.95, points - parameters)
    assert (low[0], high[0]) == pytest.approx((-50 - reach, -50 + reach), rel=1e-3)


def test_wild_limits_make_up_for_residuals_that_were_fitted() -> None:
    plain, _ = stretch("errors", 0.9, 8, 2)
    for kind in ("wild", "wild_runs"):
        assert stretch(kind, 0.9, 8, 2)[0] == pytest.approx(plain * np.sqrt(8 / 6))
    for kind in ("pairs", "runs"):
        assert stretch(kind, 0.9, 8, 2)[0] == plain


def test_positive_quantities_stretch_in_the_logarithm_and_failures_are_left_out() -> None:
    draws = np.exp(np.linspace(-1, 1, 201))[None]
    low, high = stretched_percentiles(draws, 0.9, 2.0)
    assert (low[0], high[0]) == pytest.approx((np.exp(-1.8), np.exp(1.8)))
    with_failures = np.concatenate([draws, np.full((1, 50), np.nan)], axis=1)
    assert stretched_percentiles(with_failures, 0.9, 2.0)[:, 0] == pytest.approx([low[0], high[0]])
    nothing = stretched_percentiles(np.full((1, 5), np.nan), 0.9, 2.0)
    assert np.isnan(nothing).all()


def test_row_percentiles_are_those_of_numpy() -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((3, 41))
    values[1, :7] = np.nan
    found = row_percentiles(values, [0.05, 0.3, 0.95])
    for i, row in enumerate(values):
        expected = np.quantile(row[np.isfinite(row)], [0.05, 0.3, 0.95])
        assert found[:, i] == pytest.approx(expected, rel=1e-12)
