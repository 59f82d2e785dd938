"""Bounds of a plan: whole layouts, room for changes, and what was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ScheduleError
from megascale.propose.plan_bounds import PlanBounds, checked_bounds, clip_to_seen, outside_seen
from megascale.propose.plan_moves import lattice, neighbours, rates
from megascale.propose.seen_ranges import SeenRanges

BOUNDS = PlanBounds(
    1_000_000,
    256,
    (256, 4096),
    (2e-3, 8e-3),
    min_gap=50_000,
    warmup_tokens=50_000,
    decay_tokens=(100_000, 400_000),
    final_ratio=(0.0, 0.2),
)
SEEN = SeenRanges(1e6, (256, 4096), (256, 1024), (5e-3, 5e-3), (0.2, 0.3), (0.05, 0.1))


@given(low=st.integers(1, 5000), high=st.integers(1, 20_000), unit=st.integers(1, 3000))
def test_batches_are_whole_units_or_refused(low, high, unit) -> None:
    bounds = replace(BOUNDS, unit_tokens=unit, batch=(low, high))
    if -(-low // unit) * unit > high // unit * unit:
        with pytest.raises(ScheduleError, match="multiple of"):
            checked_bounds(bounds)
        return
    checked = checked_bounds(bounds)
    for size in checked.ladder(1.3):
        assert size % unit == 0
        assert low <= size <= high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": (300, 500)}, "Nearest legal: 256 or 512"),
        ({"batch": (256, 2_000_000)}, "larger than the run"),
        ({"peak": (5e-3, 1e-3)}, "--lr = 0.005:0.001"),
        ({"decay_tokens": (0, 960_000)}, "--decay"),
        ({"final_ratio": (0.1, 1.5)}, "--final-ratio"),
        ({"min_gap": 600_000}, "--min-gap = 600000: .* Nearest legal: 50K"),
    ],
)
def test_bounds_that_no_plan_can_meet_are_refused(change, said) -> None:
    with pytest.raises(ScheduleError, match=said):
        checked_bounds(replace(BOUNDS, **change))


def test_clipped_to_what_was_seen() -> None:
    inside, said = clip_to_seen(BOUNDS, SEEN)
    assert inside.batch == (256, 1024)  # of the runs with a decay
    assert inside.peak == (5e-3, 5e-3)
    assert inside.decay_tokens == (200_000, 300_000)
    assert inside.final_ratio == (0.05, 0.1)
    assert len(said) == 4
    constant = replace(BOUNDS, decay_tokens=(0, 0), peak=(5e-3, 5e-3))
    assert clip_to_seen(constant, SEEN)[0].batch == (256, 4096)
    again, nothing = clip_to_seen(inside, SEEN)
    assert again == inside
    assert nothing == ()


def test_a_decay_that_no_run_has_is_refused() -> None:
    none = replace(SEEN, batch_decayed=None, decay_share=None, final_ratio=None)
    with pytest.raises(ScheduleError, match="no run behind the law has a decay"):
        clip_to_seen(BOUNDS, none)


@given(data=st.data())
def test_moves_keep_the_bounds(data) -> None:
    direction = data.draw(st.sampled_from(["up", "any"]))
    bounds = replace(BOUNDS, direction=direction, shapes=("linear", "1-sqrt"))
    lr = data.draw(st.sampled_from(rates(bounds, 3)))
    plan = data.draw(st.sampled_from(lattice(bounds, lr, most=200)))
    assert bounds.allows(plan)
    for other in neighbours(plan, bounds, data.draw(st.sampled_from([1.0, 0.25, 0.01]))):
        assert other != plan
        assert bounds.allows(other)
        assert bounds.peak[0] <= other.lr.peak <= bounds.peak[1]
        assert bounds.decay_tokens[0] <= other.lr.decay_tokens <= bounds.decay_tokens[1]
        assert -1e-12 <= other.final_ratio <= bounds.final_ratio[1] * (1 + 1e-12)
        assert all(size % bounds.unit_tokens == 0 for _, size in other.batches)


def test_what_of_a_plan_is_unseen() -> None:
    lr = BOUNDS.lr(8e-3, 400_000, 0.02, "linear")
    said = outside_seen(BOUNDS.plan(((0, 128), (500_000, 2048)), lr), SEEN)
    assert [words.split()[1] for words in said] == ["batch", "batch", "peak", "decay", "last"]
    seen_lr = BOUNDS.lr(5e-3, 200_000, 0.1, "linear")
    assert outside_seen(BOUNDS.plan(((0, 256),), seen_lr), SEEN) == ()


def test_a_cosine_that_no_run_has_is_refused() -> None:
    with pytest.raises(ScheduleError, match="--lr-kind = cosine"):
        clip_to_seen(replace(BOUNDS, lr_kind="cosine", decay_tokens=(0, 0)), SEEN)
    seen = replace(SEEN, decay_share=(0.9, 1.0))
    inside, _ = clip_to_seen(replace(BOUNDS, lr_kind="cosine", decay_tokens=(0, 0)), seen)
    [lr, *_] = rates(inside, 2)
    assert lr.decay_tokens == 950_000
