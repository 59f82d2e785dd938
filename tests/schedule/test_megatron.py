"""Megatron's grammars against a step-by-step replay of their rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ScheduleError
from megascale.schedule.batch import build_batch_schedule
from megascale.schedule.megatron import (
    format_step_schedule,
    parse_rampup,
    parse_step_schedule,
    rampup_points,
)
from megascale.schedule.points import BatchPoint, format_table

SEQUENCE = 16


def replay(batch_at: object, total_samples: int) -> list[tuple[int, int]]:
    """(consumed samples, batch) of each step: the batch is looked up before every step."""
    steps, consumed = [], 0
    while consumed < total_samples:
        batch = batch_at(consumed)  # type: ignore[operator]
        steps.append((consumed, batch))
        consumed += batch
    return steps


def built(points: tuple[BatchPoint, ...], total_samples: int) -> list[tuple[int, int]]:
    schedule = build_batch_schedule(
        points,
        total_tokens=total_samples * SEQUENCE,
        sequence_length=SEQUENCE,
        micro_batch_size=1,
        data_parallel=1,
        rounding="exact",
        skip_passed=True,
    )
    return [
        (
            schedule.tokens_at_step(step) // SEQUENCE,
            schedule.segment_at_step(step).batch_tokens // SEQUENCE,
        )
        for step in range(schedule.total_steps)
    ]


@given(
    st.integers(1, 20),
    st.integers(1, 12),
    st.integers(0, 15),
    st.integers(1, 3000),
    st.integers(300, 2000),
)
def test_rampup_is_megatrons(start: int, step: int, levels: int, ramp: int, rest: int) -> None:
    final = start + levels * step
    per_level = ramp / levels if levels else 0.0

    def batch_at(consumed: int) -> int:
        if consumed > ramp or not levels:
            return final
        return start + int(consumed / per_level) * step

    total = ramp + rest
    points = rampup_points(start, step, ramp, final, sequence_length=SEQUENCE)
    assert built(points, total) == replay(batch_at, total)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 40)), min_size=1, max_size=6))
def test_step_schedule_is_megatrons(entries: list[tuple[int, int]]) -> None:
    thresholds = [0]
    for gap, _ in entries[1:]:
        thresholds.append(thresholds[-1] + gap + SEQUENCE)
    text = " ".join(f"{t}:{size}" for t, (_, size) in zip(thresholds, entries, strict=True))
    in_samples = [t // SEQUENCE for t in thresholds]

    def batch_at(consumed: int) -> int:
        reached = [size for t, (_, size) in zip(in_samples, entries, strict=True) if consumed >= t]
        return reached[-1]

    total = in_samples[-1] + 200
    points = parse_step_schedule(text, sequence_length=SEQUENCE)
    assert built(points, total) == replay(batch_at, total)
    assert parse_step_schedule(text.replace(" ", ","), sequence_length=SEQUENCE) == points


def test_a_published_schedule() -> None:
    points = parse_step_schedule("0:384 200B:768 400B:1152", sequence_length=4096)
    assert [p.batch_tokens for p in points] == [1_572_864, 3_145_728, 4_718_592]
    assert points[1].start_tokens == 200_000_000_000 // 4096 * 4096


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_written_step_schedule_reads_back(sizes: list[int]) -> None:
    points = tuple(
        BatchPoint(i * 1_000_000 * SEQUENCE, size * SEQUENCE) for i, size in enumerate(sizes)
    )
    text = format_step_schedule(points, sequence_length=SEQUENCE)
    assert parse_step_schedule(text, sequence_length=SEQUENCE) == points


def test_what_megatron_cannot_say_is_refused() -> None:
    with pytest.raises(ScheduleError, match="Nearest legal: 4096 or 8192"):
        format_step_schedule([BatchPoint(0, 5000)], sequence_length=4096)
    with pytest.raises(ScheduleError, match="one sequence length"):
        format_step_schedule([BatchPoint(0, 4096, 2048)], sequence_length=4096)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0:2M", r"0:488 if 2M tokens are meant"),
        ("768", "THRESHOLD:SIZE"),
        ("", "THRESHOLD:SIZE"),
        ("0:0", "at least one sample"),
        ("0:x", "whole number"),
    ],
)
def test_bad_step_schedules(text: str, said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        parse_step_schedule(text, sequence_length=4096)


@pytest.mark.parametrize(
    ("text", "final", "said"),
    [
        ("32 32", 256, "START INCREMENT SAMPLES"),
        ("32 33 1000", 256, "Nearest legal: 32 or 56"),
        ("512 32 1000", 256, "must not exceed"),
        ("32 32 0", 256, "at least 1"),
        ("32 x 1000", 256, "whole number"),
    ],
)
def test_bad_rampups(text: str, final: int, said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        parse_rampup(text, final, sequence_length=4096)


def test_rampup_text() -> None:
    points = parse_rampup("64 64 1000", 192, sequence_length=1)
    assert format_table(points) == "0: 64, 500: 128, 1K: 192"
