"""What a law says of a plan against its opponent: losses, tokens, steps, time, money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megascale.propose.loss_draws import LossDraws
from megascale.propose.loss_interval import Estimated, IntervalRule
from megascale.propose.schedule_plan import SchedulePlan
from megascale.propose.step_times import StepTimes

Array = np.ndarray

SHARES = tuple(round(0.5 + 0.05 * i, 2) for i in range(15))
"""Budgets, over the opponent's, at which the tokens to its loss are looked for."""


@dataclass(frozen=True, slots=True)
class PlanOutcome:
    """A plan in numbers; savings are shares of the opponent's, negative where it takes more.

    Attributes:
        plan: the run.
        loss: at its end, after any decay, in nats.
        difference: of that loss to the opponent's, paired draw by draw.
        by_form: that difference by the best parameters of each form.
        steps: optimiser steps.
        seconds, cost: where step times and a price are known.
        step_saving, time_saving, cost_saving: against the opponent.
        token_saving: tokens that the plan, shortened in proportion, needs less to the opponent's
            loss; within `SHARES`.
    """

    plan: SchedulePlan
    loss: Estimated
    difference: Estimated
    by_form: Mapping[str, float]
    steps: float
    seconds: float | None
    cost: float | None
    step_saving: float
    time_saving: float | None
    cost_saving: float | None
    token_saving: Estimated


def outcome_of(
    law: LossDraws,
    plan: SchedulePlan,
    opponent: SchedulePlan,
    *,
    confidence: float,
    times: StepTimes | None = None,
    price_per_hour: float | None = None,
    start_tokens: int = 0,
) -> PlanOutcome:
    """A plan in numbers.

    Args:
        law: draws over forms and parameters.
        plan: the run.
        opponent: the run it is compared with.
        confidence: of the intervals.
        times: seconds of a step; None where they are not known.
        price_per_hour: of the whole machine.
        start_tokens: where a running run stands; what lies before is not shortened.

    Raises:
        ScheduleError: a batch lies outside the step times.
    """
    shortened = [plan.scaled(share, start_tokens) for share in SHARES]
    scaled = [one for one in shortened if one.lr.decay_tokens >= 0]
    against_history, own_history = opponent.history(), plan.history()
    losses = law.end_losses([against_history, own_history, *(one.history() for one in scaled)])
    against, own = losses[:, 0], losses[:, 1]
    forms = np.array(law.forms)
    firsts = {name: int(np.flatnonzero(forms == name)[0]) for name in dict.fromkeys(law.forms)}
    rule = IntervalRule.of_all(law, confidence)
    error = float(law.discrepancy.differences([own_history], against_history)[0])
    tokens = np.array([one.total_tokens for one in scaled])

    def saving(off: float) -> Array:
        """Of the opponent's tokens, where the plan's losses lie `off` higher."""
        return 1 - _needed(losses[:, 2:] + off, against, tokens) / opponent.total_tokens

    saved_error = 0.5 * abs(float(np.subtract(*(rule.values(saving(o)) for o in (-error, error)))))
    seconds = other = None
    if times is not None:
        seconds, other = times.run_seconds(plan), times.run_seconds(opponent)
    saved = None if seconds is None or other is None else 1 - seconds / other
    priced = seconds is not None and price_per_hour is not None
    return PlanOutcome(
        plan=plan,
        loss=rule.estimated(own, float(law.discrepancy.levels([own_history])[0])),
        difference=rule.estimated(own - against, error),
        by_form={name: float(own[row] - against[row]) for name, row in firsts.items()},
        steps=plan.steps,
        seconds=seconds,
        cost=seconds / 3600 * price_per_hour if priced and seconds and price_per_hour else None,
        step_saving=1 - plan.steps / opponent.steps,
        time_saving=saved,
        cost_saving=saved if priced else None,
        token_saving=rule.estimated(saving(0.0), saved_error),
    )


def _needed(losses: Array, goal: Array, tokens: Array) -> Array:
    """Tokens at which each draw's loss (draws, budgets) comes down to its goal, within the
    budgets."""
    falling = np.minimum.accumulate(losses, axis=1)
    out = np.empty(len(goal))
    for i, row in enumerate(falling):
        out[i] = np.interp(goal[i], row[::-1], tokens[::-1])
    return out
