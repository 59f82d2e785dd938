"""Batches that follow a law: the recursion, its bounds, and its way through the config."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ScheduleError
from megascale.schedule.law_driven import law_driven_points


def test_momentum_one_is_the_law() -> None:
    points = law_driven_points(
        lambda tokens: 3.0 * tokens**0.5,
        interval_tokens=10_000,
        momentum=1.0,
        initial_tokens=200,
        total_tokens=40_000,
    )
    assert [p.start_tokens for p in points] == [0, 10_000, 20_000, 30_000]
    assert [p.batch_tokens for p in points] == [200, 300, 424, 520]


@given(st.floats(0.01, 1), st.integers(1, 10**9), st.integers(1, 10**9), st.integers(2, 60))
def test_a_constant_law_is_approached_geometrically(
    momentum: float, initial: int, target: int, looks: int
) -> None:
    points = law_driven_points(
        lambda tokens: target,
        interval_tokens=1000,
        momentum=momentum,
        initial_tokens=initial,
        total_tokens=1000 * looks,
    )
    assert len(points) == looks
    for k, point in enumerate(points):
        exact = target + (initial - target) * (1 - momentum) ** k
        assert point.batch_tokens == pytest.approx(exact, abs=0.51, rel=1e-9)


def test_small_momentum_is_not_lost_to_rounding() -> None:
    points = law_driven_points(
        lambda tokens: 200,
        interval_tokens=1,
        momentum=0.001,
        initial_tokens=100,
        total_tokens=10_000,
    )
    assert points[-1].batch_tokens == 200


def test_bounds_hold() -> None:
    points = law_driven_points(
        lambda tokens: 10.0 if tokens < 5000 else 1e9,
        interval_tokens=1000,
        momentum=0.7,
        initial_tokens=500,
        total_tokens=20_000,
        min_tokens=400,
        max_tokens=800,
    )
    sizes = [p.batch_tokens for p in points]
    assert min(sizes) >= 400
    assert max(sizes) == 800


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"momentum": 0.0}, r"batch\.law\.momentum"),
        ({"momentum": 1.1}, r"batch\.law\.momentum"),
        ({"min_tokens": 900, "max_tokens": 800}, r"batch\.law\.min_tokens"),
        ({"min_tokens": 600}, r"initial_tokens = 500.*Nearest legal: 600"),
        ({"max_tokens": 400}, r"initial_tokens = 500.*Nearest legal: 400"),
    ],
)
def test_conflicts_are_refused(changes: dict[str, float], said: str) -> None:
    arguments = {
        "interval_tokens": 1000,
        "momentum": 0.5,
        "initial_tokens": 500,
        "total_tokens": 10_000,
    }
    with pytest.raises(ScheduleError, match=said):
        law_driven_points(lambda tokens: 500, **(arguments | changes))  # type: ignore[arg-type]
