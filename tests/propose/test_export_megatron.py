"""Schedules as Megatron arguments: read back, replayed, and put to Megatron's own calculator."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from megascale.errors import ScheduleError
from megascale.propose.export import export
from megascale.propose.export_megatron import CannotExport, check_divisible
from megascale.schedule.batch import BatchSchedule, build_batch_schedule
from megascale.schedule.lr import LRSchedule
from megascale.schedule.megatron import format_step_schedule, parse_rampup, parse_step_schedule
from megascale.schedule.points import BatchPoint, parse_table
from tests.schedule.strategies import Case, cases


def built(table: str, total: int, **changes: object) -> BatchSchedule:
    layout: dict[str, object] = {
        "sequence_length": 4096,
        "micro_batch_size": 1,
        "data_parallel": 128,
    }
    return build_batch_schedule(
        parse_table(table),
        total_tokens=total,
        **(layout | changes),  # type: ignore[arg-type]
    )


def flags(text: str) -> dict[str, str]:
    lines = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return dict(lines)


def whole(schedule: BatchSchedule) -> list[tuple[int, int, int]]:
    """(start, batch, steps) without the clipped last step."""
    segments = [(s.start_tokens, s.batch_tokens, s.steps) for s in schedule.segments]
    start, batch, _ = segments.pop()
    steps = (schedule.total_tokens - start) // batch
    return [*segments, (start, batch, steps)] if steps else segments


def growing(case: Case) -> BatchSchedule:
    points, largest = [], 0
    for point in case.points:
        largest = max(largest, point.batch_tokens)
        points.append(BatchPoint(point.start_tokens, largest))
    case = Case(
        tuple(points),
        case.total_tokens,
        case.sequence_length,
        case.micro_batch_size,
        case.data_parallel,
    )
    return case.build()


@given(cases())
def test_step_schedule_reads_back_to_the_same_segments(case: Case) -> None:
    schedule = growing(case)
    assume(whole(schedule))
    said = flags(export(schedule, "megatron"))
    sequence = case.sequence_length
    assert int(said["--seq-length"]) == sequence
    points = parse_step_schedule(said["--step-batch-size-schedule"], sequence_length=sequence)
    again = build_batch_schedule(
        points,
        total_tokens=int(said["--train-samples"]) * sequence,
        sequence_length=sequence,
        micro_batch_size=int(said["--micro-batch-size"]),
        data_parallel=case.data_parallel,
        rounding="exact",
    )
    assert [(s.start_tokens, s.batch_tokens, s.steps) for s in again.segments] == whole(schedule)
    assert all(s.end_tokens == s.start_tokens + s.steps * s.batch_tokens for s in again.segments)


@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(40, 5000),
    st.integers(1, 2000),
)
def test_what_came_from_a_ramp_goes_back_to_one(
    start: int, step: int, levels: int, ramp: int, rest: int
) -> None:
    final = start + levels * step
    points = parse_rampup(f"{start} {step} {ramp}", final, sequence_length=16)

    def lay_out(points: tuple[BatchPoint, ...], samples: int) -> BatchSchedule:
        return build_batch_schedule(
            points,
            total_tokens=samples * 16,
            sequence_length=16,
            micro_batch_size=1,
            data_parallel=1,
            rounding="exact",
            skip_passed=True,
        )

    schedule = lay_out(points, ramp + rest + 50 * final)
    if [s.batch_tokens // 16 for s in schedule.segments] != [*range(start, final + 1, step)]:
        return  # a level was skipped over: there is no even ramp to find
    said = flags(export(schedule, "megatron-rampup"))
    again = lay_out(
        parse_rampup(
            said["--rampup-batch-size"], int(said["--global-batch-size"]), sequence_length=16
        ),
        int(said["--train-samples"]),
    )
    assert whole(again) == whole(schedule)


WSD = LRSchedule(
    kind="wsd",
    peak=3e-4,
    total_tokens=500_000_000_000,
    warmup_tokens=2_000_000_000,
    decay_tokens=100_000_000_000,
    final=3e-5,
)


def megatron_wsd(said: dict[str, str], samples: int) -> float:
    """Megatron's learning rate after `samples` consumed samples, from its arguments."""
    peak, low = float(said["--lr"]), float(said["--min-lr"])
    warmup, end = int(said["--lr-warmup-samples"]), int(said["--lr-decay-samples"])
    decay = int(said["--lr-wsd-decay-samples"])
    if samples <= warmup:
        return peak * samples / warmup
    if samples <= end - decay:
        return peak
    return low + (peak - low) * (1 - (samples - (end - decay)) / decay)


def test_learning_rate_stays_right_under_the_schedule() -> None:
    schedule = built("0:2M,125B:4M,250B:5M,375B:6M", WSD.total_tokens)
    said = flags(export(schedule, "megatron", lr=WSD))
    assert said["--lr-decay-style"] == "WSD"
    assert said["--lr-wsd-decay-style"] == "linear"
    assert said["--lr-decay-samples"] == said["--train-samples"]
    assert "--train-iters" not in said
    assert "--global-batch-size" not in said
    for tokens in (10**9, 3 * 10**9, 399 * 10**9, 450 * 10**9, 499 * 10**9):
        assert megatron_wsd(said, tokens // 4096) == pytest.approx(WSD.at(tokens), rel=1e-3)
    assert megatron_wsd(said, int(said["--train-samples"])) == pytest.approx(3e-5)


def test_a_partial_last_batch_is_told() -> None:
    text = export(built("0:2M", 10**9), "megatron")
    assert "998_244_352 of 1B tokens" in text
    assert int(flags(text)["--train-samples"]) * 4096 == 998_244_352


@pytest.mark.parametrize(
    ("table", "changes", "lr", "said"),
    [
        ("0:4M,1B:2M", {}, None, "does not decrease"),
        ("0:2M,1B:4M @ 8192", {}, None, "another sequence length"),
        ("0:2M,1B:4M", {"lr_coupling": "sqrt"}, None, "does not follow the batch"),
        ("0:2M", {}, LRSchedule("power", 1e-2, 4 * 10**9), "no exact twin"),
        (
            "0:2M",
            {},
            LRSchedule("wsd", 1e-3, 4 * 10**9, 0, 0.0, 10**9, "exponential", 1e-4),
            "another curve",
        ),
    ],
)
def test_what_megatron_cannot_do_is_refused(
    table: str, changes: dict[str, object], lr: LRSchedule | None, said: str
) -> None:
    with pytest.raises(CannotExport, match=said) as caught:
        export(built(table, 4 * 10**9, **changes), "megatron", lr=lr)
    assert caught.value.exit_code == 2


def test_an_assertion_days_later_is_refused_now() -> None:
    points = parse_step_schedule("0:512 125B:1024 250B:1216 375B:1472", sequence_length=4096)
    with pytest.raises(ScheduleError) as caught:
        check_divisible(points, sequence_length=4096, samples=128, key="--megatron-steps")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert re.search(
        r"1216: Megatron asserts at .*128 samples. Nearest legal: 1152 or 1280", lines[0]
    )
    check_divisible(
        points[:2], sequence_length=4096, samples=1024, consumed_tokens=126 * 10**9, key="x"
    )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("0:2Mi,10B:4Mi,20B:5Mi", "one increment"),
        ("0:2Mi,10B:4Mi,90B:6Mi", "even distances"),
    ],
)
def test_ramps_that_are_none(table: str, said: str) -> None:
    with pytest.raises(CannotExport, match=said):
        export(built(table, 10**11), "megatron-rampup")


def test_suffixes_that_lose_a_token_in_floats_are_not_written() -> None:
    assert int(float("16.06") * 10**6) == 16_059_999  # what Megatron makes of 16.06M
    points = (BatchPoint(0, 10), BatchPoint(16_060_000, 20))
    assert format_step_schedule(points, sequence_length=1) == "0:10 16060000:20"
    assert parse_step_schedule("0:10 16.06M:20", sequence_length=1)[1].start_tokens == 16_059_999


@pytest.fixture(scope="session")
def calculator() -> ModuleType:
    """Megatron-core's calculator module: from a file, or from the installed package."""
    named = os.environ.get("MEGASCALE_MEGATRON_CALCULATOR")
    if named is None:
        return pytest.importorskip("megatron.core.num_microbatches_calculator")
    spec = importlib.util.spec_from_file_location("megatron_calculator", Path(named))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(cases())
def test_megatrons_own_calculator_takes_the_same_steps(calculator: ModuleType, case: Case) -> None:
    if not hasattr(calculator, "StepBatchsizeNumMicroBatchesCalculator"):
        pytest.skip("this Megatron core has no --step-batch-size-schedule")
    schedule = growing(case)
    assume(whole(schedule))
    said = flags(export(schedule, "megatron"))
    theirs = calculator.StepBatchsizeNumMicroBatchesCalculator(
        micro_batch_size=case.micro_batch_size,
        data_parallel_size=case.data_parallel,
        decrease_batch_size_if_needed=False,
        rank=1,
        schedule=said["--step-batch-size-schedule"],
        seq_length=case.sequence_length,
    )
    consumed, found = 0, []
    while consumed < int(said["--train-samples"]):
        theirs.update(consumed, consistency_check=True)
        batch = theirs.get_current_running_global_batch_size()
        found.append((consumed * case.sequence_length, batch * case.sequence_length))
        consumed += batch
    expected = [
        (start + k * batch, batch) for start, batch, steps in whole(schedule) for k in range(steps)
    ]
    assert found == expected
    assert consumed == int(said["--train-samples"])


def test_megatrons_own_ramp_takes_the_same_steps(calculator: ModuleType) -> None:
    if not hasattr(calculator, "RampupBatchsizeNumMicroBatchesCalculator"):
        pytest.skip("this Megatron core has no --rampup-batch-size")
    schedule = built("0:2Mi,10B:4Mi,20B:6Mi", 5 * 10**10)
    said = flags(export(schedule, "megatron-rampup"))
    start, increment, samples = map(int, said["--rampup-batch-size"].split())
    theirs = calculator.RampupBatchsizeNumMicroBatchesCalculator(
        int(said["--global-batch-size"]), 1, 128, False, 1, start, increment, samples
    )
    consumed, found = 0, []
    while consumed < int(said["--train-samples"]):
        theirs.update(consumed, consistency_check=True)
        batch = theirs.get_current_running_global_batch_size()
        found.append((consumed * 4096, batch * 4096))
        consumed += batch
    assert found == [
        (begin + k * batch, batch) for begin, batch, steps in whole(schedule) for k in range(steps)
    ]
