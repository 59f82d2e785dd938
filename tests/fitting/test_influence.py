"""Fits without a point or a run against fits of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from megascale import fitting
from megascale.errors import FitError
from tests.fitting.synthetic import power_law_studies, twelve_batches


def test_influence_is_each_fit_without_a_point() -> None:
    x, y = power_law_studies(1, 8, 12)
    y = y[0].copy()
    y[6] *= 1.5
    result = fitting.fit("power_law", x[0], y)
    found = result.influence()
    assert found.most("exponent_1") == 6
    for i in range(8):
        rest = np.arange(8) != i
        slope = np.polyfit(np.log(x[0][rest]), np.log(y[rest]), 1)[0]
        assert found.values["exponent_1"][i] == pytest.approx(slope, rel=1e-9)
    mean = found.values["exponent_1"].mean()
    wanted = np.sqrt(7 / 8 * ((found.values["exponent_1"] - mean) ** 2).sum())
    assert found.errors["exponent_1"] == pytest.approx(wanted)


def test_influence_of_runs_and_of_what_cannot_be_missed() -> None:
    s, e, *_ = twelve_batches(2, 13)
    runs = np.tile(np.repeat(["a", "b", "c"], 4), 2)
    result = fitting.fit("classic", s, e, runs=runs)
    found = result.influence(problem=1)
    assert found.left_out == ["a", "b", "c"]
    without_a = fitting.fit("classic", s[1, 4:], e[1, 4:])
    assert found.values["B_crit"][0] == pytest.approx(without_a["B_crit"][0], rel=1e-9)
    with pytest.raises(FitError, match="must name one of 2 problems"):
        result.influence()
    two = fitting.fit("classic", s[0, :2], e[0, :2]).influence()
    assert np.isnan(two.values["S_min"]).all()
