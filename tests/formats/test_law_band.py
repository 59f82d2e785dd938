"""The band of a law file at (N, D): covariance, intervals, tables, and its confidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from megascale.errors import ConfigError
from megascale.formats.law_band import law_band
from megascale.formats.law_file import LawFile
from megascale.laws.law_files import Naming, power_law_file
from megascale.laws.power import fit_power
from tests.formats.test_law_file import power

MATRIX = [[0.04, 0.0, -0.001], [0.0, 0.0, 0.0], [-0.001, 0.0, 0.0001]]


def law_file(**changes: Any) -> LawFile:
    return LawFile.model_validate(power(**changes))


def test_covariance_and_freedom_give_student_t() -> None:
    law = law_file(covariance={"matrix": MATRIX}, confidence=0.9, degrees_of_freedom=3)
    band = law_band(law, 1.0, math.e**20)
    assert band is not None
    assert band.confidence == 0.9
    error = math.sqrt(0.04 - 2 * 20 * 0.001 + 400 * 0.0001)
    expected = 2 * stats.t.ppf(0.95, 3) * error
    assert math.log(band.high / band.low) == pytest.approx(expected)
    wider = law_band(law, 1.0, math.e**20, confidence=0.95)
    assert wider is not None
    assert wider.confidence == 0.95
    assert math.log(wider.high / wider.low) == pytest.approx(2 * stats.t.ppf(0.975, 3) * error)


def test_a_covariance_without_freedom_is_normal_and_ninety_per_cent() -> None:
    law = law_file(covariance={"matrix": MATRIX})
    band = law_band(law, 1.0, math.e**20)
    assert band is not None
    assert band.confidence == 0.9
    assert math.log(band.high / band.low) == pytest.approx(2 * 1.6448536 * math.sqrt(0.04))


def test_a_law_and_its_file_have_one_band() -> None:
    """What was printed by `fit` is what `schedule` and `recommend` read."""
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform([[18], [21]], [[21], [25]], (2, 9)))
    law = fit_power(3 * n**-0.4 * d**0.3 * np.exp(0.1 * rng.standard_normal(9)), d, n)
    for confidence in (0.5, 0.9, 0.95):
        file = power_law_file(law, "peak_lr", Naming("x"), d_kind="horizon", confidence=confidence)
        assert file.degrees_of_freedom == 6
        for place in ((2e9, 1e10), (1e8, 3e12)):
            low, high = law.band(*place, confidence)
            band = law_band(file, *place)
            assert band is not None
            assert (band.low, band.high) == pytest.approx((float(low), float(high)), rel=1e-9)
            assert file.evaluate(*place) == pytest.approx(float(law.at(*place)), rel=1e-12)
            assert band.confidence == confidence


def test_intervals_without_a_covariance_turn_about_the_middle_of_the_range() -> None:
    law = law_file(
        parameters={
            "coef": {"value": 2.0},
            "a": {"value": 0.5, "low": 0.4, "high": 0.6},
            "b": {"value": 0.25, "low": 0.2, "high": 0.3},
        },
        range={"n": [1e6, 1e8], "d": [1e8, 1e10]},
    )
    at_middle = law_band(law, 1e7, 1e9)
    assert at_middle is not None
    assert at_middle.low == pytest.approx(at_middle.high)
    assert at_middle.confidence is None
    band = law_band(law, 1e9, 1e9)
    assert band is not None
    assert band.high / band.low == pytest.approx(100 ** (2 * 0.1))


def test_band_of_the_origin_shrinks_to_the_middle() -> None:
    """A line's intercept error at the origin is mostly its slope's: at the middle it is small."""
    h_b, middle = 0.02, math.log(1e9)
    h_c = math.hypot(0.1, h_b * middle)
    law = law_file(
        parameters={
            "coef": {"value": 2.0, "low": 2 * math.exp(-h_c), "high": 2 * math.exp(h_c)},
            "a": {"value": 0.0},
            "b": {"value": 0.25, "low": 0.23, "high": 0.27},
        },
        range={"n": None, "d": [1e8, 1e10]},
    )
    band = law_band(law, 1.0, 1e9)
    assert band is not None
    assert math.log(band.high / band.low) == pytest.approx(0.2)


def test_a_table_has_its_knots_band_at_any_confidence() -> None:
    table = {"d": [1e9, 1e11], "value": [1e6, 4e6], "low": [5e5, 2e6], "high": [2e6, 8e6]}
    law = law_file(
        form="loglog_table", parameters={}, table=table, confidence=0.9, degrees_of_freedom=4
    )
    band = law_band(law, 1.0, 1e10)
    assert band is not None
    assert (band.low, band.high, band.confidence) == pytest.approx((1e6, 4e6, 0.9))
    ratio = stats.t.ppf(0.75, 4) / stats.t.ppf(0.95, 4)
    half = law_band(law, 1.0, 1e10, confidence=0.5)
    assert half is not None
    assert (half.low, half.high) == pytest.approx((2e6 * 0.5**ratio, 2e6 * 2**ratio))


def test_no_interval_no_band() -> None:
    assert law_band(law_file(), 1e9, 1e9) is None
    assert law_band(law_file(), 1e9, 1e9, confidence=0.95) is None


def test_a_confidence_that_cannot_be_given() -> None:
    unstated = {
        "coef": {"value": 2.0, "low": 1.0, "high": 4.0}, "a": {"value": 0.5}, "b": {"value": 0.25}
    }  # fmt: skip
    assert law_band(law_file(parameters=unstated), 1e9, 1e9) is not None
    with pytest.raises(ConfigError, match="does not say what confidence"):
        law_band(law_file(parameters=unstated), 1e9, 1e9, confidence=0.95)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        law_band(law_file(covariance={"matrix": MATRIX}), 1e9, 1e9, confidence=90.0)
    stated = law_file(parameters=unstated, confidence=0.683)
    wide = law_band(stated, 1.0, 1.0, confidence=0.9)
    assert wide is not None
    ratio = stats.norm.ppf(0.95) / stats.norm.ppf(0.5 + 0.683 / 2)
    assert wide.high == pytest.approx(2.0 * 2.0**ratio)
