"""Student's t without scipy: what a band needs where nothing is fitted."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

MOST_FREEDOM = 1e7
"""Beyond it the normal quantile differs by less than a tenth of a millionth."""


@lru_cache(maxsize=256)
def student_reach(confidence: float, freedom: float | None = None) -> float:
    """Standard errors that an interval extends to either side.

    Args:
        confidence: of the interval, between 0 and 1.
        freedom: degrees of freedom of the standard error; None for one that is known.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} does not lie between 0 and 1")
    if freedom is None or freedom > MOST_FREEDOM:
        return NormalDist().inv_cdf(0.5 + confidence / 2)
    if not freedom > 0:
        raise ValueError(f"degrees of freedom {freedom} are not positive")
    low, high = 0.0, 1.0
    while beyond(high, freedom) > 1 - confidence:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        inside = beyond(middle, freedom) > 1 - confidence
        low, high = (middle, high) if inside else (low, middle)
    return (low + high) / 2


def beyond(t: float, freedom: float) -> float:
    """Probability that |T| exceeds t > 0: I(freedom / (freedom + t^2); freedom/2, 1/2)."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function by its continued fraction (DLMF 8.17.22)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log_front + a * math.log(x) + b * math.log1p(-x)) / a
    # Lentz's method.
    c, d = 1.0, 1.0 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return front * value


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
