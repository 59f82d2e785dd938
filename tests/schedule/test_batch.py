"""The batch schedule: exact maps, rounding within its rule, refusals with the nearest legal."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ScheduleError
from megascale.schedule.batch import build_batch_schedule
from megascale.schedule.points import BatchPoint, format_table, parse_table
from tests.schedule.strategies import Case, cases

ONE = {"sequence_length": 4096, "micro_batch_size": 1, "data_parallel": 64}


@given(cases())
def test_windows_partition_the_run(case: Case) -> None:
    schedule = case.build()
    windows = [schedule.window(step) for step in range(schedule.total_steps)]
    assert windows[0][0] == 0
    assert windows[-1][1] == case.total_tokens
    assert all(left[1] == right[0] for left, right in pairwise(windows))
    assert all(stop > start for start, stop in windows)
    full = [
        stop - start == schedule.segment_at_tokens(start).batch_tokens for start, stop in windows
    ]
    assert all(full[:-1]), "only the last step may be clipped"


@given(cases())
def test_steps_and_tokens_are_inverse_on_every_boundary(case: Case) -> None:
    schedule = case.build()
    for step in range(schedule.total_steps + 1):
        tokens = schedule.tokens_at_step(step)
        assert schedule.step_at_tokens(tokens) == step
    for step in range(schedule.total_steps):
        start, stop = schedule.window(step)
        assert schedule.segment_at_step(step) is schedule.segment_at_tokens(stop - 1)
        assert schedule.step_containing(start) == schedule.step_containing(stop - 1) == step
        if stop - start > 1:
            with pytest.raises(ScheduleError, match="not a step boundary"):
                schedule.step_at_tokens(start + 1)


@given(cases())
def test_walking_step_by_step_gives_the_same_windows(case: Case) -> None:
    """Oracle: no segments, only `which batch holds at these tokens`, one step at a time."""
    schedule = case.build()
    unit = case.sequence_length * case.micro_batch_size * case.data_parallel
    tokens = step = 0
    while tokens < case.total_tokens:
        asked = [p.batch_tokens for p in case.points if p.start_tokens <= tokens][-1]
        batch = max(1, int(asked / unit + 0.5)) * unit
        assert schedule.window(step) == (tokens, min(tokens + batch, case.total_tokens))
        tokens, step = tokens + batch, step + 1
    assert schedule.total_steps == step


@given(cases(), st.data())
def test_rebuilt_at_any_boundary_the_rest_is_the_same(case: Case, data: st.DataObject) -> None:
    schedule = case.build(lr_coupling="sqrt")
    step = data.draw(st.integers(0, schedule.total_steps))
    tokens = schedule.tokens_at_step(step)
    resumed = case.build(lr_coupling="sqrt", start=(tokens, step))
    assert resumed.total_steps == schedule.total_steps
    assert (resumed.start_tokens, resumed.start_step) == (tokens, step)
    for later in range(step, schedule.total_steps):
        assert resumed.window(later) == schedule.window(later)
        before, after = schedule.segment_at_step(later), resumed.segment_at_step(later)
        assert (before.micro_batches, before.lr_scale) == (after.micro_batches, after.lr_scale)


@given(cases(), st.floats(0, 0.5))
def test_rounding_stays_within_its_rule_or_is_refused(case: Case, limit: float) -> None:
    unit = case.sequence_length * case.micro_batch_size * case.data_parallel
    off = [
        min(p.batch_tokens % unit, unit - p.batch_tokens % unit) / p.batch_tokens
        for p in case.points
    ]
    if max(off) > limit:
        with pytest.raises(ScheduleError, match="Nearest legal"):
            case.build(max_rounding=limit)
        return
    for segment in case.build(max_rounding=limit).segments:
        moved = abs(segment.batch_tokens - segment.requested_batch_tokens)
        assert moved <= limit * segment.requested_batch_tokens
        assert moved <= unit / 2
        assert segment.batch_tokens == segment.micro_batches * unit


@given(cases())
def test_segments_start_at_the_first_boundary_after_their_threshold(case: Case) -> None:
    schedule = case.build()
    for before, after in pairwise(schedule.segments):
        assert after.start_tokens >= after.requested_start_tokens
        assert after.start_tokens - before.batch_tokens < after.requested_start_tokens


def test_the_published_table() -> None:
    spec = parse_table("0: 2M, 125B: 4M, 250B: 5M, 375B: 6M")
    schedule = build_batch_schedule(spec, total_tokens=500 * 10**9, **ONE)
    assert [s.requested_batch_tokens for s in schedule.segments] == [
        2_000_000,
        4_000_000,
        5_000_000,
        6_000_000,
    ]
    unit = 64 * 4096
    assert [s.batch_tokens for s in schedule.segments] == [
        8 * unit,
        15 * unit,
        19 * unit,
        23 * unit,
    ]
    assert [s.lr_scale for s in schedule.segments] == [1.0] * 4
    assert schedule.window(schedule.total_steps - 1)[1] == 500 * 10**9


def test_shrinking_and_odd_ratios_are_fine() -> None:
    spec = parse_table({0: 6 * 4096 * 64, 10**9: 4096 * 64, "2B": 5 * 4096 * 64})
    schedule = build_batch_schedule(
        spec, total_tokens=3 * 10**9, rounding="exact", lr_coupling="linear", **ONE
    )
    assert [s.micro_batches for s in schedule.segments] == [6, 1, 5]
    assert [s.lr_scale for s in schedule.segments] == pytest.approx([1, 1 / 6, 5 / 6])


def test_every_illegal_segment_is_named_before_the_run() -> None:
    spec = parse_table("0: 512Ki, 1B: 300K, 2B: 512Ki, 3B: 700K")
    with pytest.raises(ScheduleError) as caught:
        build_batch_schedule(spec, total_tokens=4 * 10**9, **ONE)
    message = str(caught.value)
    assert "1B: 300K" in message
    assert "3B: 700K" in message
    assert "262_144 or 524_288" in message
    assert "data-parallel degree 64" in message


def test_exact_names_the_sizes_around() -> None:
    with pytest.raises(ScheduleError, match="Nearest legal: 1_835_008 or 2_097_152"):
        build_batch_schedule(parse_table("0: 2M"), total_tokens=10**9, rounding="exact", **ONE)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("1K: 262144", "must start at 0"),
        ("0: 262144, 10M: 524288, 5M: 262144", "starts must increase"),
        ("0: 262144, 1B: 524288", "at or after the end of the run"),
        ("0: 2B", "larger than the run"),
        ("0: 262144, 100: 524288, 200: 262144", "never takes effect"),
        ("0: 262144, 999_999_999: 524288", "never takes effect"),
    ],
)
def test_refused_tables(table: str, said: str) -> None:
    with pytest.raises(ScheduleError, match=said) as caught:
        build_batch_schedule(parse_table(table), total_tokens=10**9, **ONE)
    assert "Nearest legal" in str(caught.value)


def test_nearest_start_of_a_batch_that_never_runs_does_run() -> None:
    batch = 64 * 4096
    points = [BatchPoint(0, batch), BatchPoint(100 * batch + 1, 2 * batch)]
    total = 101 * batch
    with pytest.raises(ScheduleError, match=r"a start of 26_214_400 or less"):
        build_batch_schedule(points, total_tokens=total, **ONE)
    points[1] = BatchPoint(26_214_400, 2 * batch)
    schedule = build_batch_schedule(points, total_tokens=total, **ONE)
    assert schedule.segments[1].steps == 1


def test_passed_batches_can_be_skipped_where_the_grammar_says_so() -> None:
    points = parse_table("0: 262144, 100: 524288, 200: 786432")
    schedule = build_batch_schedule(points, total_tokens=10**9, skip_passed=True, **ONE)
    assert [s.micro_batches for s in schedule.segments] == [1, 3]


def test_the_past_need_not_fit_the_layout() -> None:
    spec = parse_table("0: 262144, 1B: 1Mi")
    wide = {"sequence_length": 4096, "micro_batch_size": 1, "data_parallel": 256}
    with pytest.raises(ScheduleError, match="0: 262_144"):
        build_batch_schedule(spec, total_tokens=2 * 10**9, **wide)
    narrow = build_batch_schedule(spec, total_tokens=2 * 10**9, **ONE)
    boundary = narrow.segments[1].start_tokens
    start = (boundary, narrow.step_at_tokens(boundary))
    schedule = build_batch_schedule(spec, total_tokens=2 * 10**9, start=start, **wide)
    assert schedule.total_steps == narrow.total_steps
    with pytest.raises(ScheduleError, match=r"batch\.reference_tokens"):
        build_batch_schedule(spec, total_tokens=2 * 10**9, start=start, lr_coupling="sqrt", **wide)
    coupled = build_batch_schedule(
        spec,
        total_tokens=2 * 10**9,
        start=start,
        lr_coupling="sqrt",
        reference_tokens=262144,
        **wide,
    )
    assert coupled.segments[0].lr_scale == 2.0


def test_growth_by_sequence_length_keeps_the_sequences() -> None:
    spec = parse_table("0: 1Mi, 100M: 1.5Mi")
    schedule = build_batch_schedule(
        spec, total_tokens=10**9, growth="sequence_length", lr_coupling="sqrt", **ONE
    )
    first, second = schedule.segments
    assert (first.sequence_length, second.sequence_length) == (4096, 6144)
    assert first.micro_batches == second.micro_batches == 4
    assert second.lr_scale == pytest.approx(1.5**0.5)
    with pytest.raises(ScheduleError, match="Nearest legal: 1_310_720"):
        build_batch_schedule(
            spec,
            total_tokens=10**9,
            growth="sequence_length",
            max_sequence_length=5120,
            **ONE,
        )
    with pytest.raises(ScheduleError, match="256 sequences x 4096"):
        build_batch_schedule(
            spec,
            total_tokens=10**9,
            growth="sequence_length",
            sequence_multiple=4096,
            rounding="exact",
            **ONE,
        )


def test_a_point_can_set_its_sequence_length() -> None:
    spec = parse_table("0: 262144, 100M: 1Mi @ 8192")
    schedule = build_batch_schedule(spec, total_tokens=10**9, **ONE)
    assert [(s.sequence_length, s.micro_batches) for s in schedule.segments] == [
        (4096, 1),
        (8192, 2),
    ]
    with pytest.raises(ScheduleError, match="derives the sequence length"):
        build_batch_schedule(spec, total_tokens=10**9, growth="sequence_length", **ONE)


def test_nothing_left() -> None:
    schedule = build_batch_schedule(
        parse_table("0: 262144"), total_tokens=10**9, start=(10**9, 3815), **ONE
    )
    assert schedule.segments == ()
    assert schedule.total_steps == 3815 == schedule.step_at_tokens(10**9)
    with pytest.raises(ScheduleError, match="nothing is left"):
        schedule.window(3815)
    with pytest.raises(ScheduleError, match="consumed tokens"):
        build_batch_schedule(
            parse_table("0: 262144"), total_tokens=10**9, start=(10**9 + 1, 3815), **ONE
        )


@given(cases())
def test_table_text_reads_back(case: Case) -> None:
    assert parse_table(format_table(case.points)) == case.points


@pytest.mark.parametrize("bad", ["0: 2M, 0: 3M", "0", "", "0: 2.00000001M", "0: 0", [], 7])
def test_table_grammar_is_strict(bad: object) -> None:
    with pytest.raises(ScheduleError, match=r"batch\.schedule"):
        parse_table(bad)


def test_thousands_of_segments_are_cheap() -> None:
    count = 20_000
    unit = 64 * 4096
    points = [BatchPoint(i * 10 * unit, (1 + i % 9) * unit) for i in range(count)]
    total = count * 10 * unit
    schedule = build_batch_schedule(points, total_tokens=total, **ONE)
    began = time.perf_counter()
    for tokens in range(0, total, total // 1000):
        schedule.window(schedule.step_containing(tokens))
    assert (time.perf_counter() - began) / 1000 < 1e-4


@given(cases(), st.integers(1, 40))
def test_joined_micro_batches_cut_the_same_batches(case: Case, most: int) -> None:
    """Nothing but the cut of a step changes, and it is the coarsest one within the bound."""
    alone, joined = case.build(), case.build(max_micro_batch_size=most)
    assert joined.total_steps == alone.total_steps
    for one, two in zip(alone.segments, joined.segments, strict=True):
        assert two.micro_batch_size % one.micro_batch_size == 0
        assert two.micro_batch_size <= max(most, one.micro_batch_size)
        passes = one.micro_batch_size * one.micro_batches
        assert two.micro_batch_size * two.micro_batches == passes
        coarser = [
            size
            for size in range(two.micro_batch_size + 1, min(most, passes) + 1)
            if passes % size == 0 and size % one.micro_batch_size == 0
        ]
        assert not coarser
        cut = {"micro_batch_size": one.micro_batch_size, "micro_batches": one.micro_batches}
        assert replace(two, **cut) == one
