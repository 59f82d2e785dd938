"""MLPerf logs, and what their counters count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.runs.readers import mlperf
from megascale.runs.readers.mlperf_axis import (
    SAMPLES,
    STEPS,
    TOKENS,
    Evidence,
    shift_of,
    unit_of,
)
from tests.runs.readers.helpers import kinds, read_as
from tests.runs.readers.test_tabular import mllog

BATCH, SEQ = 48, 1024


def header(benchmark: str = "llama31_8b", batch: int = BATCH) -> str:
    return (
        mllog("submission_benchmark", benchmark)
        + mllog("global_batch_size", batch)
        + mllog("max_sequence_length", SEQ)
        + mllog("opt_base_learning_rate", 8e-4)
        + mllog("run_start", None)
    )


def train(count: int, loss: float = 9.0, **metadata: int) -> str:
    return mllog("tracked_stats", {"train_loss": loss}, step=count, **metadata)


def places(text: str) -> list[tuple]:
    return read_as(mlperf, text).table.select("step", "samples", "tokens", "loss_kind").rows()


@pytest.mark.parametrize("size", [1, BATCH, BATCH * SEQ])
def test_a_step_counter_is_read_by_the_evaluations(size):
    text = header() + "".join(train(n * 960 * size, 9 - n) for n in (1, 2, 3))
    text += mllog("eval_accuracy", 8.0, samples_count=2880 * BATCH)
    found = read_as(mlperf, text)
    kinds_of = ["instantaneous"] * 3 + ["validation"]
    counted = [(n * 960, n * 960 * BATCH, n * 960 * BATCH * SEQ) for n in (1, 2, 3, 3)]
    assert places(text) == [(*row, kind) for row, kind in zip(counted, kinds_of, strict=True)]
    assert ("derived" in kinds(found)) is True  # the rate, and the unit where it is no step
    assert set(found.table["lr"]) == {8e-4}


def test_a_counter_that_nothing_explains_is_refused():
    """Batches of 20 samples: every 20th step, or every step in samples?"""
    text = header(batch=20) + train(20) + train(40)
    found = read_as(mlperf, text)
    assert found.table["tokens"].null_count() == found.table.height == 2
    (note,) = [note for note in found.notes if note.kind == "unknown_unit"]
    assert "may be steps or samples" in note.message
    planned = read_as(mlperf, text + mllog("max_steps", 30))
    assert planned.table["step"].to_list() == [1, 2]


def test_epochs_of_gpt3_are_tokens():
    text = header("gpt3") + mllog("eval_accuracy", 2.5, epoch_num=BATCH * SEQ * 7)
    assert places(text) == [(7, 7 * BATCH, 7 * BATCH * SEQ, "validation")]
    found = read_as(mlperf, header() + mllog("eval_accuracy", 2.5, epoch_num=3))
    assert "whose unit is not known" in found.malformed[0].reason


def test_counts_from_zero_are_raised_by_a_batch():
    low = "".join(mllog("eval_accuracy", 5 - n, samples_count=480 * n - BATCH) for n in (1, 2))
    found = read_as(mlperf, header() + low)
    assert found.table["samples"].to_list() == [480, 960]
    assert places(header() + train(0) + train(1))[0][:2] == (1, BATCH)
    assert [row[0] for row in places(header() + train(9) + train(19) + train(29))] == [10, 20, 30]


def test_a_run_after_the_end_of_another_is_another():
    end = mllog("run_stop", None, status="success")
    second = header(batch=96) + mllog("eval_accuracy", 4.0, samples_count=960)
    text = header() + mllog("eval_accuracy", 5.0, samples_count=480) + end + second + end
    found = read_as(mlperf, text)
    columns = ("run", "samples", "batch_samples", "loss")
    assert found.table.select(columns).rows() == [("run-1", 480, 48, 5), ("run-2", 960, 96, 4)]
    assert "separate_runs" in kinds(found)


def test_runs_that_share_a_log_are_a_problem():
    text = header() + "".join(
        mllog("eval_accuracy", loss, samples_count=480 * n) for n in (1, 2) for loss in (5.0, 4.0)
    )
    assert "mixed_runs" in kinds(read_as(mlperf, text))
    several = header() + mllog("global_batch_size", 96) + train(1)
    assert read_as(mlperf, several).table["samples"].to_list() == [None]


@given(st.integers(2, 4096), st.integers(2, 8192), st.lists(st.integers(1, 10**5), min_size=1))
def test_evaluations_tell_units_apart(batch, seq, steps):
    """Whatever is logged, the unit under which training ends at the last evaluation is taken."""
    evidence = Evidence(batch, seq, evaluated=max(steps) * batch)
    for unit, size in ((STEPS, 1), (SAMPLES, batch), (TOKENS, batch * seq)):
        assert unit_of([step * size for step in steps], evidence) == unit


def test_time_tells_units_apart():
    evidence = Evidence(BATCH, SEQ, steps_passed=[1.2, 0.9])
    assert unit_of([BATCH, 2 * BATCH, 3 * BATCH], evidence) == SAMPLES
    evidence = Evidence(20, SEQ, steps_passed=[20.5, 19.0])
    assert unit_of([20, 40, 60], evidence) == STEPS


@pytest.mark.parametrize(
    ("counts", "size", "trained", "right"),
    [
        ([0, 1, 2], 1, True, 1),
        ([0, 64, 128], 64, True, 64),
        ([1, 2, 3], 1, True, 0),
        ([10, 20, 30], 1, True, 0),
        ([9, 19, 29], 1, True, 1),
        ([0, 480, 960], 48, False, 0),
        ([432, 912], 48, False, 48),
        ([480, 960], 48, False, 0),
        ([432], 48, False, 0),
        ([], 48, False, 0),
    ],
)
def test_what_is_missing_of_counts_from_zero(counts, size, trained, right):
    assert shift_of(counts, size, trained) == right
