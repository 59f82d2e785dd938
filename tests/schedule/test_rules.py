"""Schedules by rule: the staircase of 1 / (tokens left), and a late switch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ScheduleError
from megascale.schedule.points import BatchPoint, point_problems
from megascale.schedule.rules import late_points, remaining_points


@given(
    initial=st.integers(100, 10**6),
    many=st.integers(5000, 10**6),
    share=st.floats(0.05, 0.6),
    ratio=st.floats(1.1, 8.0),
)
def test_the_staircase_stays_within_half_a_stair_of_the_rule(initial, many, share, ratio):
    total = initial * many
    decay = int(share * total)
    points = remaining_points(initial, total_tokens=total, decay_tokens=decay, ratio=ratio)
    assert not point_problems(points, total)
    ends = [p.start_tokens for p in points[1:]] + [total - decay]
    for point, end in zip(points, ends, strict=True):
        for at in (point.start_tokens, (point.start_tokens + end) // 2, end - 1):
            asked = initial * total / (total - at)
            assert abs(asked / point.batch_tokens) ** 2 <= ratio * 1.01 * (1 + 1 / initial)
            assert abs(point.batch_tokens / asked) ** 2 <= ratio * 1.01 * (1 + 1 / initial)
    assert points[-1].start_tokens <= total - decay  # constant in the decay


def test_a_stable_half_trillion_before_a_decay_of_a_fifth_of_it():
    """500B stable and 100B of decay: from 1M to 6M at the start of the decay."""
    points = remaining_points(
        1_000_000, total_tokens=600 * 10**9, decay_tokens=100 * 10**9, ratio=1.5
    )
    first = {point.batch_tokens: point.start_tokens / 600e9 for point in points}
    assert list(first) == [1_000_000, 1_500_000, 2_250_000, 3_375_000, 5_062_500]
    assert first[1_500_000] == pytest.approx(1 - 1.5**-0.5)
    assert first[5_062_500] < 5 / 6


def test_bounds_and_units():
    points = remaining_points(256, total_tokens=10**6, max_tokens=2048, unit_tokens=256)
    assert [p.batch_tokens for p in points] == [256, 512, 1024, 2048]
    close = remaining_points(256, total_tokens=10**6, max_tokens=700, ratio=1.1, unit_tokens=256)
    assert [p.batch_tokens for p in close] == [256, 512]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": 1.0, "decay_tokens": 10}, "ratio = 1.0"),
        ({"decay_tokens": 2000}, "longer than the run"),
        ({}, "grows without bound"),
        ({"max_tokens": 2}, "below initial_tokens"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(ScheduleError, match=said):
        remaining_points(4, total_tokens=1000, **options)


def test_a_late_switch():
    points = late_points(256, 1024, total_tokens=1000)
    assert points == (BatchPoint(0, 256), BatchPoint(750, 1024))
    with pytest.raises(ScheduleError, match="within the run"):
        late_points(256, 1024, total_tokens=1000, start_tokens=1000)
