"""Limits of a curve and of new points cover what they state."""

from __future__ import annotations

import numpy as np
import pytest

from megascale import fitting
from megascale.errors import FitError
from tests.fitting.synthetic import power_law_studies, twelve_batches, within_nominal


@pytest.mark.parametrize("bootstrap", [None, "parametric"])
@pytest.mark.parametrize("new_points", [False, True])
def test_limits_of_a_curve_cover(bootstrap: str | None, new_points: bool) -> None:
    x, y = power_law_studies(800, 6, 16)
    result = fitting.fit("power_law", x, y, bootstrap=bootstrap, replicates=299)
    at = np.array([3.0, 300.0])
    low, high = result.predict_interval(at, new_points=new_points)
    truth = np.broadcast_to(3 * at**-0.5, low.shape)
    if new_points:
        rng = np.random.default_rng(17)
        truth = truth * np.exp(0.05 * rng.standard_normal(low.shape))
    shares = ((low <= truth) & (truth <= high)).mean(axis=0)
    assert low.shape == (800, 2)
    assert all(within_nominal(share, 800) for share in shares)


def test_limits_of_a_curve_refuse_what_they_cannot_say() -> None:
    s, e, *_ = twelve_batches(1, 18)
    result = fitting.fit("classic", s[0], e[0])
    assert result.predict_interval(2e4)[0] < result.predict(2e4)
    with pytest.raises(FitError, match="ray noise"):
        result.predict_interval(2e4, new_points=True)
    with pytest.raises(FitError, match="is of new points"):
        result.predict_interval(2e4, sigma=1.0)
    with pytest.raises(FitError, match="needs a fit with bootstrap="):
        result.predict_interval(2e4, kind="percentile")
