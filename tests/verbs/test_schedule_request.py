"""Bounds of a plan from options and what the law's runs have shown."""

from __future__ import annotations

from dataclasses import replace

from megascale.propose.seen_ranges import SeenRanges
from megascale.verbs.schedule_request import PlanRequest, bounds_of
from tests.propose.known_law import known_plan


def test_shapes_of_the_decay_are_those_that_were_shown() -> None:
    plan = known_plan(((0, 256),), 200_000)
    bent = replace(plan, lr=replace(plan.lr, decay_shape="1-sqrt"))
    request = PlanRequest(total=1_000_000, sequence=32)
    straight = SeenRanges.of_histories([plan.history()])
    both = SeenRanges.of_histories([plan.history(), bent.history()])
    assert bounds_of(request, straight).shapes == ("linear",)
    assert bounds_of(request, both).shapes == ("linear", "1-sqrt")
    assert bounds_of(replace(request, decay_shape="cosine"), both).shapes == ("cosine",)
    assert bounds_of(request, replace(straight, shapes=())).shapes == ("linear",)
