"""What the runs behind a law have shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megascale.fitting.history import History
from megascale.propose.seen_ranges import SeenRanges, decay_shape, unseen_by_runs
from tests.propose.known_law import known_plan


@pytest.mark.parametrize("shape", ["linear", "1-sqrt", "cosine", "exponential"])
def test_the_shape_of_a_decay_is_known_from_its_history(shape) -> None:
    plan = known_plan(((0, 256),), 300_000)
    history = replace(plan, lr=replace(plan.lr, decay_shape=shape)).history()
    assert decay_shape(history) == shape
    assert SeenRanges.of_histories([history]).shapes == (shape,)


def test_no_decay_and_a_strange_one_have_no_shape() -> None:
    assert decay_shape(known_plan(((0, 256),), 0).history()) is None
    steps = History.of_sections([0, 4e5, 7e5, 1e6], 256, [5e-3, 2e-3, 1e-3])
    assert decay_shape(steps) is None


def test_what_was_not_shown_is_said() -> None:
    seen = SeenRanges.of_histories([known_plan(((0, 256),), 200_000).history()])
    assert unseen_by_runs(known_plan(((0, 256),), 200_000).history(), seen) == ()
    words = unseen_by_runs(known_plan(((0, 256), (500_000, 512)), 400_000).history(), seen)
    assert words == (
        "a batch of 512, runs with a decay have 256",
        "a decay over 0.4 of the run, runs have 0.2",
    )
