"""Quantiles of Student's t without scipy, against scipy."""

from __future__ import annotations

from statistics import NormalDist

import pytest
from scipy import stats

from megascale.formats.student_t import beyond, student_reach


@pytest.mark.parametrize("freedom", [0.5, 1, 1.7, 2, 3, 4, 5.5, 9, 30, 200, 1e4, 1e6])
@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.683, 0.9, 0.95, 0.99, 0.9999])
def test_reach_is_the_quantile(freedom: float, confidence: float) -> None:
    expected = stats.t.ppf(0.5 + confidence / 2, freedom)
    assert student_reach(confidence, freedom) == pytest.approx(expected, rel=1e-6)
    assert beyond(expected, freedom) == pytest.approx(1 - confidence, rel=1e-6)


def test_known_errors_are_normal() -> None:
    assert student_reach(0.9) == pytest.approx(NormalDist().inv_cdf(0.95))
    assert student_reach(0.9, 1e9) == student_reach(0.9)
    assert student_reach(0.95, 1) == pytest.approx(12.7062047)


@pytest.mark.parametrize(("confidence", "freedom"), [(0, 3), (1, 3), (1.5, None), (0.9, 0)])
def test_what_is_no_confidence_or_freedom(confidence: float, freedom: float | None) -> None:
    with pytest.raises(ValueError, match=r"confidence|freedom"):
        student_reach(confidence, freedom)
