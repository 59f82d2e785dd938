"""What the planner answers, and when it recommends nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megascale.propose.best_schedule import BestSchedule
from megascale.propose.loss_interval import Estimated
from megascale.propose.plan_bounds import PlanBounds
from megascale.propose.plan_outcome import PlanOutcome, outcome_of
from megascale.propose.plan_verdict import best_schedule_dict, plan_verdict
from megascale.propose.step_times import parse_step_seconds
from tests.propose.known_law import KnownLaw, known_plan

FIXED = known_plan(((0, 512),), 200_000)
GROWING = known_plan(((0, 512), (600_000, 1024)), 200_000)
BOUNDS = PlanBounds(10**6, 256, (256, 2048), (5e-3, 5e-3), decay_tokens=(200_000, 200_000))


def outcome(plan, low: float, value: float, high: float) -> PlanOutcome:
    made = outcome_of(KnownLaw(3), plan, FIXED, confidence=0.9)
    return replace(made, difference=Estimated(value, low, high))


def found(objective: str = "tokens", **changes) -> BestSchedule:
    own = outcome(FIXED, 0, 0, 0)
    made = BestSchedule(
        objective=objective,  # type: ignore[arg-type]
        confidence=0.9,
        most_loss=0.0,
        bounds=BOUNDS,
        clipped=(),
        forms=("power",),
        law_error=0.0,
        opponent=own,
        tuned_opponent=None,
        proposal=own,
        least_cost=own,
        front=(own,),
        rivals={},
        outside=(),
    )
    return replace(made, **changes)


def test_a_gain_is_claimed_where_the_interval_excludes_a_loss() -> None:
    best = outcome(GROWING, -0.03, -0.02, -0.001)
    answer = plan_verdict(found(proposal=best))
    assert (answer.kind, answer.recommended, answer.chosen) == ("gain", True, best)
    assert "ends -0.0200 (-0.0300 to -0.0010) nats" in answer.sentences[0]
    unsure = outcome(GROWING, -0.03, -0.02, 0.001)
    answer = plan_verdict(found(proposal=unsure))
    assert (answer.kind, answer.recommended) == ("nothing", False)
    assert answer.chosen.plan == FIXED
    assert answer.sentences[0].startswith("No gain in tokens that these runs can show: stay with")


def test_fewer_steps_at_no_worse_loss_are_an_answer() -> None:
    cheap = outcome(GROWING, -0.01, -0.005, 0.0)
    unsure = outcome(GROWING, -0.03, -0.02, 0.001)
    answer = plan_verdict(found(proposal=unsure, least_cost=cheap))
    assert (answer.kind, answer.chosen) == ("saving", cheap)
    said = answer.sentences[0]
    assert said.startswith(
        "No gain in tokens that these runs can show; 20% fewer steps at no worse"
    )
    answer = plan_verdict(found("steps", proposal=cheap, least_cost=cheap))
    assert answer.sentences[0].startswith("20% fewer steps at no worse loss with batch 512, 1.024K")
    worse = outcome(GROWING, -0.01, 0.0, 0.004)
    assert plan_verdict(found("steps", proposal=worse, least_cost=worse)).kind == "nothing"
    allowed = plan_verdict(found("steps", proposal=worse, least_cost=worse, most_loss=0.005))
    assert allowed.kind == "saving"
    assert "at a loss at most 0.005 nats higher" in allowed.sentences[0]


def test_a_better_tuned_fixed_batch_is_named() -> None:
    best = outcome(GROWING, -0.03, -0.02, -0.001)
    tuned = outcome(known_plan(((0, 256),), 400_000), -0.06, -0.05, -0.04)
    said = plan_verdict(found(proposal=best, tuned_opponent=tuned)).sentences
    assert len(said) == 2
    assert "decay over 400K" in said[1]
    worse = outcome(known_plan(((0, 256),), 400_000), -0.02, 0.0, 0.02)
    assert len(plan_verdict(found(proposal=best, tuned_opponent=worse)).sentences) == 1


def test_an_unseen_plan_is_never_recommended() -> None:
    best = outcome(GROWING, -0.03, -0.02, -0.01)
    answer = plan_verdict(found(proposal=best, outside=("a batch of 64, runs have 256",)))
    assert (answer.kind, answer.recommended) == ("unseen", False)
    assert answer.chosen.plan == FIXED
    assert answer.sentences[0].startswith("No recommendation: ")


def test_time_and_money() -> None:
    times = parse_step_seconds("256:0.1,2Ki:0.4")
    made = outcome_of(KnownLaw(3), GROWING, FIXED, confidence=0.9, times=times, price_per_hour=7.2)
    assert made.seconds == pytest.approx(times.run_seconds(GROWING))
    assert made.cost == pytest.approx(made.seconds * 7.2 / 3600)
    assert made.time_saving == made.cost_saving
    assert 0 < made.time_saving < made.step_saving


def test_tokens_saved_are_those_of_the_shortened_plan() -> None:
    made = outcome_of(KnownLaw(3), GROWING, FIXED, confidence=0.9)
    law = KnownLaw(1)
    shorter = GROWING.scaled(1 - made.token_saving.value)
    ends = law.end_losses([shorter.history(), FIXED.history()])[0]
    assert ends[0] == pytest.approx(ends[1], abs=2e-3)
    same = outcome_of(KnownLaw(3), FIXED, FIXED, confidence=0.9)
    assert same.token_saving.value == pytest.approx(0, abs=1e-3)


def test_everything_is_in_the_dictionary() -> None:
    content = best_schedule_dict(found())
    assert content["recommended"] is False
    assert content["opponent"]["batches"] == [{"start_tokens": 0, "batch_tokens": 512}]
    assert content["opponent"]["lr"]["final_lr"] == pytest.approx(5e-4)
