"""Time to go under a growing batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.train.telemetry.timing import StepTimeModel, eta_seconds


@dataclass
class Segment:
    start_tokens: int
    end_tokens: int
    batch_tokens: int


@dataclass
class Schedule:
    segments: list[Segment]


GROWING = Schedule([Segment(0, 1000, 100), Segment(1000, 3000, 200), Segment(3000, 7050, 400)])


def test_nothing_is_known_before_the_first_interval():
    assert eta_seconds(GROWING, 0, StepTimeModel()) is None


@given(a=st.floats(0, 5), b=st.floats(1e-4, 0.1), consumed=st.sampled_from([0, 500, 2000, 3000]))
def test_affine_step_times_are_recovered_and_summed_over_segments(a, b, consumed):
    model = StepTimeModel()
    for batch in (100, 200, 300):
        model.add(batch_tokens=batch, steps=4, seconds=4 * (a + b * batch))
    expected = sum(
        math.ceil((s.end_tokens - max(s.start_tokens, consumed)) / s.batch_tokens)
        * (a + b * s.batch_tokens)
        for s in GROWING.segments
        if s.end_tokens > consumed
    )
    assert eta_seconds(GROWING, consumed, model) == pytest.approx(expected, rel=1e-6)


def test_one_batch_size_means_time_goes_with_tokens():
    model = StepTimeModel()
    model.add(batch_tokens=100, steps=1, seconds=2.0)
    assert model.step_seconds(400) == pytest.approx(8.0)
    # 20 + 20 + 22.5 * ... : 0.02 s per token, the last step rounded up to a whole batch
    assert eta_seconds(GROWING, 0, model) == pytest.approx(0.02 * (1000 + 2000 + 11 * 400))


def test_a_slow_interval_does_not_move_the_estimate():
    model = StepTimeModel()
    for seconds in (1.0, 1.0, 90.0, 1.0, 1.0):
        model.add(batch_tokens=100, steps=1, seconds=seconds)
    assert model.step_seconds(100) == 1.0


def test_noise_never_gives_a_negative_time():
    model = StepTimeModel()
    model.add(batch_tokens=400, steps=1, seconds=1.0)
    model.add(batch_tokens=100, steps=1, seconds=3.0)
    assert model.step_seconds(100) == 3.0
    assert all(model.step_seconds(batch) > 0 for batch in (1, 50, 400, 10_000))


def test_the_end_is_zero_seconds_away():
    model = StepTimeModel()
    model.add(batch_tokens=100, steps=1, seconds=2.0)
    assert eta_seconds(GROWING, 7050, model) == 0.0
