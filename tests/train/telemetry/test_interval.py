"""Interval sums: re-averageable, unmoved by skips, continued across a restart."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.formats.run_log import REQUIRED_KEYS
from megascale.train.telemetry.interval import IntervalAccumulator, StepResult, expert_load


def result(step: int, **changes) -> StepResult:
    values = {
        "step": step,
        "tokens": step * 100,
        "samples": step * 10,
        "batch_tokens": 100,
        "micro_batches": 1,
        "sequence_length": 10,
        "loss_sum": 200.0 + step,
        "loss_tokens": 90,
        "lr": 0.01,
        "weight_decay": 0.1,
        "grad_norm": float(step),
        "seconds": 0.5,
        "window_tokens": 100,
        "flops": 1e9,
    }
    return StepResult(**(values | changes))


def test_record_has_what_the_log_requires_and_the_sums():
    accumulator = IntervalAccumulator(peak_flops=8e9)
    accumulator.add(result(1))
    accumulator.add(result(2, loss_tokens=30))
    record = accumulator.record()
    assert record.keys() >= set(REQUIRED_KEYS)
    assert record["loss_sum"] == 201.0 + 202.0
    assert record["loss_tokens"] == 120
    assert record["loss"] == record["loss_sum"] / 120  # not the mean of two means
    assert record["grad_norm"] == 1.5
    assert record["grad_norm_max"] == 2.0
    assert (record["step"], record["tokens"], record["interval_tokens"]) == (2, 200, 200)
    assert record["tokens_per_second"] == 200.0
    assert record["mfu"] == pytest.approx(2e9 / 8e9)


def test_skipped_steps_count_but_do_not_poison():
    accumulator = IntervalAccumulator()
    accumulator.add(result(1))
    accumulator.add(result(2, skipped=True, loss_sum=math.nan, grad_norm=math.inf))
    record = accumulator.record()
    assert (record["steps"], record["skipped"], record["interval_tokens"]) == (2, 1, 200)
    assert record["loss"] == 201.0 / 90
    assert record["grad_norm_max"] == 1.0


def test_interval_of_skips_alone_has_no_loss():
    accumulator = IntervalAccumulator()
    accumulator.add(result(1, skipped=True, loss_sum=math.nan))
    record = accumulator.record()
    assert record["loss"] is None
    assert record["grad_norm"] is None
    with pytest.raises(ValueError, match="without steps"):
        accumulator.record()


@given(
    st.lists(st.floats(0, 1e6), min_size=2, max_size=12),
    st.data(),
)
def test_a_restart_inside_an_interval_leaves_no_trace(sums, data):
    cut = data.draw(st.integers(0, len(sums) - 1))
    steps = [
        result(n, loss_sum=loss, expert_counts=[[n, 0], [1, n]], router_entropy_sum=[0.1, loss])
        for n, loss in enumerate(sums, start=1)
    ]
    whole = IntervalAccumulator()
    before, after = IntervalAccumulator(), IntervalAccumulator()
    for number, step in enumerate(steps):
        whole.add(step)
        (before if number < cut else after).add(step)
        if number + 1 == cut:
            after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.record() == whole.record()


def test_expert_load_closed_forms():
    assert expert_load([5, 5, 5, 5]) == {"max_over_mean": 1.0, "entropy": 1.0, "dead": 0}
    collapsed = expert_load([0, 12, 0])
    assert collapsed == {"max_over_mean": 3.0, "entropy": 0.0, "dead": 2}
    half = expert_load([1, 1, 0, 0])
    assert half["entropy"] == pytest.approx(0.5)  # ln 2 / ln 4
    assert expert_load([0, 0])["dead"] == 2


def test_expert_summary_is_over_the_interval_not_a_mean_of_steps():
    accumulator = IntervalAccumulator()
    accumulator.add(result(1, expert_counts=[[4, 0]], router_entropy_sum=[30.0]))
    accumulator.add(result(2, expert_counts=[[0, 4]], router_entropy_sum=[50.0]))
    record = accumulator.record()
    assert record["dead_experts"] == [0]
    assert record["expert_load_max_over_mean"] == [1.0]
    assert record["router_entropy"] == [0.4]
