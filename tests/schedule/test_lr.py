"""Learning rate and weight decay: continuous, bounded, and blind to the batch schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.config.rates import build_lr_schedule, build_weight_decay_schedule
from megascale.config.schedule_sections import LRConfig, WeightDecayConfig
from megascale.errors import ScheduleError
from megascale.schedule.lr import LRSchedule, decayed
from tests.schedule.strategies import Case, cases

TOTAL = 1_000_000
SHAPES = ("linear", "1-sqrt", "cosine", "exponential")


@st.composite
def schedules(draw: st.DrawFn) -> LRSchedule:
    """Every kind with every decay that suits it."""
    kind = draw(st.sampled_from(["wsd", "cosine", "constant", "inverse_sqrt", "power"]))
    keys: dict[str, Any] = {
        "kind": kind,
        "peak": draw(st.floats(1e-6, 1.0)),
        "warmup_tokens": draw(st.integers(1, TOTAL // 2)),
        "start_ratio": draw(st.floats(0, 1)),
        "final_ratio": draw(st.floats(1e-9, 1e-4)),
    }
    if kind in ("wsd", "inverse_sqrt", "power"):
        keys["decay_tokens"] = draw(st.integers(0, TOTAL // 2))
        keys["decay_shape"] = draw(st.sampled_from(SHAPES))
    if kind == "power":
        keys["power_coefficient"] = keys["peak"] * draw(st.floats(0.5, 1000))
        keys["power_exponent"] = draw(st.floats(-0.6, 0))
    return build_lr_schedule(LRConfig(**keys), TOTAL)


@given(schedules(), st.floats(0, TOTAL))
def test_never_above_the_peak_and_never_below_zero(schedule: LRSchedule, tokens: float) -> None:
    assert 0 <= schedule.at(tokens) <= schedule.peak * (1 + 1e-12)


@given(schedules(), st.data())
def test_continuous_everywhere(schedule: LRSchedule, data: st.DataObject) -> None:
    marks = [tokens for _, tokens in schedule.landmarks()]
    here = data.draw(st.sampled_from(marks) | st.integers(1, TOTAL - 1))
    for gap in (1e-3, 1e-6):
        left, right = max(here - gap, 0), min(here + gap, TOTAL)
        # the steepest legal pieces: a warmup of 1 token, sqrt(progress) at the start of a decay
        steepest = 2 * gap + math.sqrt(2 * gap / max(schedule.decay_tokens, 1))
        bound = schedule.peak * (steepest + 2 * gap * 100)
        assert abs(schedule.at(right) - schedule.at(left)) <= bound


@given(schedules())
def test_decay_ends_exactly_at_the_last_token(schedule: LRSchedule) -> None:
    if schedule.decay_tokens:
        assert schedule.at(TOTAL) == schedule.final
        assert schedule.phase(TOTAL) == "decay"
        assert schedule.at(TOTAL - 1) >= schedule.final


@given(schedules())
def test_landmarks_increase_and_lie_inside(schedule: LRSchedule) -> None:
    marks = [tokens for _, tokens in schedule.landmarks()]
    assert marks[0] == 0
    assert marks[-1] == TOTAL
    assert marks == sorted(marks)


@given(cases(), cases(), st.data())
def test_midpoints_integrate_linear_pieces_exactly(
    one: Case, other: Case, data: st.DataObject
) -> None:
    """On each linear piece the sum over steps of LR x window is the same for any batches."""
    total = min(one.total_tokens, other.total_tokens)
    low = data.draw(st.integers(0, total - 1))
    high = data.draw(st.integers(low + 1, total))
    config = LRConfig(peak=1.0, warmup_tokens=0, decay_tokens=total, final_ratio=0.25)
    schedule = build_lr_schedule(config, total)

    def integral(case: Case) -> float:
        steps = case.build()
        summed = 0.0
        for step in range(steps.step_containing(low), steps.step_containing(high - 1) + 1):
            start, stop = steps.window(step)
            start, stop = max(start, low), min(stop, high)
            summed += schedule.at((start + stop) / 2) * (stop - start)
        return summed

    exact = (high - low) * (1 - 0.75 * (low + high) / 2 / total)
    assert integral(one) == pytest.approx(exact, rel=1e-9)
    assert integral(other) == pytest.approx(exact, rel=1e-9)


def test_first_and_last_steps_move_the_weights() -> None:
    config = LRConfig(peak=1e-3, warmup_tokens=1000, decay_tokens=1000, final_ratio=0.0)
    schedule = build_lr_schedule(config, TOTAL)
    assert schedule.at(0) == schedule.at(TOTAL) == 0
    assert schedule.at((0 + 100) / 2) == pytest.approx(5e-5)
    assert schedule.at((TOTAL - 100 + TOTAL) / 2) == pytest.approx(5e-5)


def test_wsd_by_hand() -> None:
    config = LRConfig(
        peak=6e-4, warmup_tokens=100_000, start_ratio=0.1, decay_tokens=200_000, final_lr=6e-5
    )
    schedule = build_lr_schedule(config, TOTAL)
    assert schedule.at(0) == pytest.approx(6e-5)
    assert schedule.at(50_000) == pytest.approx(3.3e-4)
    assert schedule.at(100_000) == schedule.at(800_000) == 6e-4
    assert schedule.at(900_000) == pytest.approx(3.3e-4)
    assert schedule.at(1_000_000) == 6e-5
    assert [schedule.phase(t) for t in (0, 99_999, 100_000, 799_999, 800_000)] == [
        "warmup",
        "warmup",
        "stable",
        "stable",
        "decay",
    ]


@pytest.mark.parametrize(
    ("shape", "middle"),
    [
        ("linear", 0.55),
        ("1-sqrt", 1 - 0.9 * math.sqrt(0.5)),
        ("cosine", 0.55),
        ("exponential", math.sqrt(0.1)),
    ],
)
def test_decay_shapes(shape: Any, middle: float) -> None:
    assert decayed(1.0, 0.1, 0.0, shape) == 1.0
    assert decayed(1.0, 0.1, 0.5, shape) == pytest.approx(middle)
    assert decayed(1.0, 0.1, 1.0, shape) == 0.1


def test_other_kinds_by_hand() -> None:
    cosine = build_lr_schedule(LRConfig(kind="cosine", peak=1.0, warmup_tokens=0), TOTAL)
    assert cosine.at(TOTAL / 4) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    root = build_lr_schedule(
        LRConfig(kind="inverse_sqrt", peak=1.0, warmup_tokens=10_000, decay_tokens=100_000), TOTAL
    )
    assert root.at(40_000) == pytest.approx(0.5)
    assert root.at(TOTAL) == pytest.approx(0.1)
    power = build_lr_schedule(
        LRConfig(
            kind="power",
            peak=0.02,
            warmup_tokens=100,
            power_coefficient=4.0,
            power_exponent=-0.51,
        ),
        TOTAL,
    )
    assert power.at(1000) == 0.02
    assert power.at(500_000) == pytest.approx(4.0 * 500_000**-0.51)
    constant = build_lr_schedule(LRConfig(kind="constant", peak=0.5, warmup_tokens=0), TOTAL)
    assert constant.at(0) == constant.at(TOTAL) == 0.5
    assert constant.phase(TOTAL) == "stable"


def test_a_decay_may_not_rise() -> None:
    config = LRConfig(
        kind="inverse_sqrt", peak=1.0, warmup_tokens=100, decay_tokens=1000, final_ratio=0.5
    )
    with pytest.raises(ScheduleError, match=r"lr\.final_ratio = 0\.5.*0\.0100"):
        build_lr_schedule(config, TOTAL)


def test_outside_the_run_is_refused() -> None:
    schedule = build_lr_schedule(LRConfig(peak=1.0, warmup_tokens=0), TOTAL)
    for tokens in (-1, TOTAL + 1, math.nan):
        with pytest.raises(ScheduleError, match="outside the run"):
            schedule.at(tokens)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_weight_decay(kind: Any) -> None:
    end = None if kind == "constant" else 0.01
    config = WeightDecayConfig(value=0.1, schedule=kind, end_value=end)
    schedule = build_weight_decay_schedule(config, TOTAL)
    assert schedule.at(0) == 0.1
    assert schedule.at(TOTAL) == pytest.approx(0.1 if end is None else 0.01)
    assert schedule.at(TOTAL / 2) == pytest.approx(0.1 if end is None else 0.055)
    quarter = {"constant": 0.1, "linear": 0.0775, "cosine": 0.1 - 0.09 * (1 - math.sqrt(0.5)) / 2}
    assert schedule.at(TOTAL / 4) == pytest.approx(quarter[kind])
    with pytest.raises(ScheduleError, match="outside the run"):
        schedule.at(TOTAL + 1)
