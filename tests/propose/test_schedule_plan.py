"""A planned run: its history is its schedule's, step for step."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.propose.schedule_plan import SchedulePlan, batch_words
from megascale.propose.seen_ranges import SeenRanges
from megascale.schedule.batch import build_batch_schedule
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import BatchPoint

LR = LRSchedule("wsd", 5e-3, 1_000_000, warmup_tokens=50_000, decay_tokens=200_000, final=5e-4)
PLAN = SchedulePlan(((0, 256), (300_000, 512), (900_000, 1024)), LR)


@pytest.mark.parametrize("shape", ["linear", "1-sqrt", "cosine", "exponential"])
def test_the_history_has_the_learning_rate_of_every_token(shape) -> None:
    lr = LRSchedule("wsd", 5e-3, 1_000_000, 50_000, 0.0, 200_000, shape, 5e-4)
    history = SchedulePlan(PLAN.batches, lr).history()
    for tokens in np.linspace(1, 999_999, 777):
        i = int(np.searchsorted(history.tokens, tokens, side="right")) - 1
        begin, end = history.tokens[i], history.tokens[i + 1]
        rate = np.interp(tokens, [begin, end], [history.lr_start[i], history.lr_end[i]])
        # `1-sqrt` falls at once: within its first section a chord is far off.
        first = shape == "1-sqrt" and 800_000 < tokens < 810_000
        assert rate == pytest.approx(lr.at(tokens), rel=0.2 if first else 0.01)
        assert history.batch[i] == [b for s, b in PLAN.batches if s <= tokens][-1]


def test_steps_are_those_of_the_schedule() -> None:
    points = [BatchPoint(*segment) for segment in PLAN.batches]
    schedule = build_batch_schedule(
        points, total_tokens=10**6, sequence_length=32, micro_batch_size=4, data_parallel=1
    )
    plan = SchedulePlan.of_schedule(schedule, LR)
    assert plan.steps == pytest.approx(schedule.total_steps, abs=1)
    assert plan.history().steps == pytest.approx(plan.steps)
    assert sum(tokens for tokens, _ in plan.shares()) == 10**6


def test_coupled_rates_follow_the_batch() -> None:
    history = SchedulePlan(PLAN.batches, LR, "sqrt").history()
    assert history.peak == pytest.approx(5e-3 * 2**0.5)
    assert SchedulePlan(PLAN.batches, LR, "linear").peak == pytest.approx(5e-3 * 4)


def test_shortened_in_proportion() -> None:
    half = PLAN.scaled(0.5)
    assert half.total_tokens == 500_000
    assert half.batches == ((0, 256), (150_000, 512), (450_000, 1024))
    assert (half.lr.decay_tokens, half.lr.warmup_tokens) == (100_000, 50_000)
    assert half.decay_share == PLAN.decay_share


def test_in_words() -> None:
    assert batch_words(PLAN) == "256, 512 from 300K, 1.024K from 900K"
    assert batch_words(PLAN, 2) == "256, ... 1.024K from 900K"


def test_ranges_of_planned_runs_are_seen() -> None:
    constant = SchedulePlan(((0, 4096),), LRSchedule("constant", 8e-3, 500_000))
    seen = SeenRanges.of_histories([PLAN.history(), constant.history()])
    assert seen.batch == (256, 4096)
    assert seen.batch_decayed == (256, 1024)
    assert seen.peak == pytest.approx((5e-3, 8e-3))
    assert seen.decay_share == pytest.approx((0.2, 0.2))
    assert seen.final_ratio == pytest.approx((0.1, 0.1))
    assert SeenRanges.of_histories([constant.history()]).decay_share is None
    assert SeenRanges.of_histories([PLAN.history()]).warmup_tokens == 50_000
    assert seen.warmup_tokens == 25_000


def test_what_has_been_run_is_not_shortened() -> None:
    rest = PLAN.scaled(0.5, 400_000)
    assert rest.total_tokens == 700_000
    assert rest.batches == ((0, 256), (300_000, 512), (650_000, 1024))
    assert rest.lr.decay_tokens == 100_000
