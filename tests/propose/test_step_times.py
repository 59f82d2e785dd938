"""Seconds of a step: linear between known batches, never beyond them."""

from __future__ import annotations

import pytest

from megascale.errors import ScheduleError
from megascale.propose.schedule_plan import SchedulePlan
from megascale.propose.step_times import StepTimes, logged_step_times, parse_step_seconds
from megascale.runs.table import load_runs
from megascale.schedule.lr import LRSchedule

LR = LRSchedule("constant", 1e-3, 1_000_000)


def test_between_known_batches() -> None:
    times = parse_step_seconds("1Ki:0.1, 4Ki:0.3")
    assert times.at(1024) == 0.1
    assert times.at(2048) == pytest.approx(0.1 + 0.2 / 3)
    plan = SchedulePlan(((0, 1024), (500_000, 4096)), LR)
    assert times.run_seconds(plan) == pytest.approx(5e5 / 1024 * 0.1 + 5e5 / 4096 * 0.3)


@pytest.mark.parametrize(("batch", "nearest"), [(512, "1_024"), (8192, "4_096")])
def test_beyond_them_is_refused(batch, nearest) -> None:
    with pytest.raises(ScheduleError, match=f"not extrapolated. Nearest legal: {nearest}"):
        parse_step_seconds("1Ki:0.1,4Ki:0.3").at(batch)


@pytest.mark.parametrize("text", ["1Ki", "1Ki:x", "1.5:2", "1Ki:-1", "1Ki:inf", "", "0:1"])
def test_bad_tables_are_refused(text) -> None:
    with pytest.raises(ScheduleError, match="--step-seconds"):
        parse_step_seconds(text)


def test_medians_of_logged_steps() -> None:
    steps = [(256, 0.2), (256, 0.1), (256, 9.0), (512, 0.3), (512, 0.3), (64, 0.1), (64, -1.0)]
    times = StepTimes.of_steps([*steps, (64, float("nan"))], "a log")
    assert times.batch == (256, 512)
    assert times.seconds == (0.2, 0.3)
    with pytest.raises(ScheduleError, match="seconds of no step"):
        StepTimes.of_steps([(256, 0.2)], "a log")


def test_times_of_logged_rows(tmp_path) -> None:
    lines = ["step,tokens,batch_tokens,loss,seconds"]
    tokens = 0
    for step in range(10, 210, 10):
        batch = 256 if step <= 100 else 512
        tokens += 10 * batch
        lines.append(f"{step},{tokens},{batch},3.0,{10 * (0.1 if batch == 256 else 0.15)}")
    path = tmp_path / "run.csv"
    path.write_text("\n".join(lines))
    times = logged_step_times(load_runs([path], cache=False))
    assert times.batch == (256, 512)
    assert times.seconds == pytest.approx((0.1, 0.15))
