"""Promised and true gain on a model that is solved exactly: they agree, and the proposal wins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import FORMS
from megascale.propose.best_schedule import BestSchedule, best_schedule
from megascale.propose.loss_draws import FitDraws
from megascale.propose.plan_bounds import PlanBounds
from megascale.propose.plan_moves import rates
from megascale.propose.seen_ranges import SeenRanges
from tests.propose.noisy_quadratic import (
    FLOOR,
    PEAK,
    TOKENS,
    fitted_runs,
    quadratic_loss,
    quadratic_run,
)

BOUNDS = PlanBounds(TOKENS, 8, (16, 256), (PEAK, PEAK), min_gap=10_000)
DECAYS = {"constant": (0, 0), "short decay": (40_000, 40_000), "joint": (20_000, 80_000)}


@pytest.fixture(scope="module")
def law() -> FitDraws:
    """Two forms of plain gradient descent, whose progress is the sum of rates."""
    runs = fitted_runs()
    forms = [FORMS[name].holding(r=0.0) for name in ("power", "two_exponentials")]
    fits = [fit_history(form, runs, starts=16, bootstrap=60) for form in forms]
    return FitDraws(fits, SeenRanges.of_histories([run.history for run in runs]))


@pytest.fixture(scope="module", params=DECAYS)
def found(request: pytest.FixtureRequest, law: FitDraws) -> BestSchedule:
    return best_schedule(law, replace(BOUNDS, decay_tokens=DECAYS[request.param]))


def true_best_fixed(bounds: PlanBounds) -> float:
    """The lowest true loss of a fixed batch: every batch, and a fine grid of decays."""
    low, high = bounds.batch
    return min(
        quadratic_loss(bounds.plan(((0, size),), lr))
        for size in range(low, high + 1, bounds.unit_tokens)
        for lr in rates(bounds, 9)
    )


def test_the_closed_form_is_the_recursion(found: BestSchedule) -> None:
    plan = found.proposal.plan
    assert quadratic_loss(plan) == pytest.approx(quadratic_run(plan).loss[-1], abs=3e-4)


def test_promised_and_true_gain_agree(found: BestSchedule) -> None:
    promised = found.proposal.difference
    true = quadratic_loss(found.proposal.plan) - quadratic_loss(found.opponent.plan)
    assert promised.high < 0
    assert promised.value == pytest.approx(true, rel=0.15)
    assert promised.low < true < promised.high


def test_the_proposal_beats_the_truly_best_fixed_batch(found: BestSchedule) -> None:
    best = true_best_fixed(found.bounds)
    opponent = quadratic_loss(found.opponent.plan)
    assert opponent - FLOOR < 1.06 * (best - FLOOR)  # the opponent is tuned, too
    assert quadratic_loss(found.proposal.plan) < best


def test_fewer_steps_at_no_worse_loss_are_true(found: BestSchedule) -> None:
    cheap, opponent = found.least_cost, found.opponent
    assert cheap.difference.high <= 0
    assert cheap.steps <= opponent.steps
    assert quadratic_loss(cheap.plan) <= quadratic_loss(opponent.plan) + 1e-4


def test_the_front_falls(found: BestSchedule) -> None:
    losses = [one.difference.value for one in found.front]
    steps = [one.steps for one in found.front]
    assert losses == sorted(losses)
    assert steps == sorted(steps, reverse=True)
    assert len(found.front) >= 3
