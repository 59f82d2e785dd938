"""The best schedule under a law against the best fixed batch, and the front between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from megascale.errors import ScheduleError
from megascale.propose.loss_draws import LossDraws, draws_of_each
from megascale.propose.plan_bounds import PlanBounds, checked_bounds, clip_to_seen, outside_seen
from megascale.propose.plan_outcome import PlanOutcome, outcome_of
from megascale.propose.plan_search import Goal, Judge, best_fixed, best_plan, refine
from megascale.propose.schedule_plan import SchedulePlan
from megascale.propose.step_times import StepTimes

Objective = Literal["tokens", "steps", "time", "cost"]
OBJECTIVES: tuple[Objective, ...] = ("tokens", "steps", "time", "cost")

SCREEN_DRAWS, SEARCH_DRAWS = 2, 10
"""Draws a form that judge the lattice and the moves; the last moves and the answer take all."""

LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Costs of the front as shares of the opponent's."""


@dataclass(frozen=True, slots=True)
class BestSchedule:
    """What the planner found.

    Attributes:
        objective: what was to be small.
        confidence: of every interval, over forms and parameters.
        most_loss: largest difference in loss (nats) that counts as no worse.
        bounds: of all plans, clipped to what was seen.
        clipped: what was cut off the bounds, in words.
        forms: of the law.
        law_error: the law's own, in the interval of the proposal's difference, nats.
        opponent: the best fixed batch within the bounds.
        tuned_opponent: the best fixed batch whose learning rate is tuned within what the law has
            seen, where the bounds hold it fixed; else None.
        proposal: the plan for the objective.
        least_cost: the plan of the fewest steps (seconds, money) at no worse loss.
        front: from the lowest loss to the least cost.
        rivals: rules and plans of the user's, by name.
        outside: what of the proposal no run has shown, in words.
    """

    objective: Objective
    confidence: float
    most_loss: float
    bounds: PlanBounds
    clipped: tuple[str, ...]
    forms: tuple[str, ...]
    law_error: float
    opponent: PlanOutcome
    tuned_opponent: PlanOutcome | None
    proposal: PlanOutcome
    least_cost: PlanOutcome
    front: tuple[PlanOutcome, ...]
    rivals: Mapping[str, PlanOutcome]
    outside: tuple[str, ...]


def best_schedule(
    law: LossDraws,
    bounds: PlanBounds,
    objective: Objective = "tokens",
    *,
    times: StepTimes | None = None,
    price_per_hour: float | None = None,
    confidence: float = 0.9,
    most_loss: float = 0.0,
    beyond_data: bool = False,
    rivals: Callable[[SchedulePlan, PlanBounds], Mapping[str, Sequence[SchedulePlan]]]
    | None = None,
    progress: Callable[[str], None] | None = None,
) -> BestSchedule:
    """Search the best schedule and its opponent, and compare them.

    The opponent is the fixed batch (and, within the same bounds, the learning rate) of the lowest
    loss. For `tokens` a plan is judged by the upper end of the interval of its paired
    difference to it, so the surest gain is proposed; for `steps`, `time` and `cost` it is the
    cheapest plan whose upper end is at most `most_loss`.

    Args:
        law: draws over forms and parameters.
        bounds: of plans and opponent.
        objective: what is to be small.
        times: seconds of a step, for time and cost; batches outside them are not planned.
        price_per_hour: of the whole machine, for cost.
        confidence: of the intervals.
        most_loss: largest difference in nats that counts as no worse.
        beyond_data: plan outside what the law has seen.
        rivals: plans to compare, by name, given the opponent and the bounds; the best of each
            name by mean loss is shown.
        progress: told what is being done.

    Raises:
        ScheduleError: the bounds are empty, or lie outside what the law has seen.
    """
    said = progress or (lambda _: None)
    for option, value in (("--price", price_per_hour), ("--no-worse", most_loss)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ScheduleError.of(option, value, "must be finite and not negative", 0.0)
    bounds = checked_bounds(bounds)
    if objective in ("time", "cost") and times is None:
        raise ScheduleError.of("--step-seconds", None, f"{objective} needs step times", "2M:1.7")
    if objective == "cost" and not price_per_hour:
        raise ScheduleError.of("--price", price_per_hour, "cost needs a price an hour", 98.0)
    clipped: tuple[str, ...] = ()
    if not beyond_data:
        bounds, clipped = clip_to_seen(bounds, law.seen)
    if times is not None:
        bounds, more = _within_times(bounds, times)
        clipped += more
    cost = _cost(objective, times, price_per_hour)
    rows = np.arange(len(law.forms))
    mean = Judge(law, draws_of_each(law, SEARCH_DRAWS), cost)
    said("the best fixed batch")
    fixed = best_fixed(bounds, mean)
    if not bounds.past:
        still, whole = replace(bounds, max_changes=0), Judge(law, rows, cost)
        fixed = refine(fixed, Goal(), still, whole, scales=(0.0625,))
    judges = [
        Judge(law, own, cost, confidence, fixed)
        for own in (draws_of_each(law, SCREEN_DRAWS), draws_of_each(law, SEARCH_DRAWS), rows)
    ]
    screen, judge, whole = judges

    def search(goal: Goal, *extra: SchedulePlan) -> SchedulePlan:
        found = best_plan(goal, bounds, screen, judge, fixed, extra=extra)
        best = [_on_steps(plan, bounds) for plan in (found, fixed)]
        ends = [refine(plan, goal, bounds, whole, scales=(0.125, 0.0625)) for plan in best]
        return whole.best([_on_steps(plan, bounds) for plan in ends] + [fixed], goal)[0][0]

    said("the lowest loss")
    lowest = search(Goal("loss"))
    said("the least cost at no worse loss")
    cheapest = search(Goal("cost", most_loss=most_loss), lowest)
    said("the front between them")
    base = cost(fixed)
    between = []
    for share in LEVELS:
        goal = Goal("loss", most_cost=share * base)
        near = judge.best(list(judge.losses), goal, 2)
        ends = [refine(plan, goal, bounds, judge, scales=(0.25, 0.0625)) for plan, _ in near]
        plan, key = whole.best([_on_steps(end, bounds) for end in ends], goal)[0]
        if key[0] == 0 or cost(plan) <= share * base * 1.005:
            between.append(plan)
    tuned = None if bounds.plans_lr else _tuned_opponent(law, bounds, mean)

    def outcome(plan: SchedulePlan) -> PlanOutcome:
        return outcome_of(
            law,
            plan,
            fixed,
            confidence=confidence,
            times=times,
            price_per_hour=price_per_hour,
            start_tokens=bounds.start_tokens,
        )

    found = {}
    if rivals is not None:
        said("the rules")
        for name, plans in rivals(fixed, bounds).items():
            if plans:
                found[name] = outcome(mean.best(list(plans), Goal())[0][0])
    proposal = lowest if objective == "tokens" else cheapest
    return BestSchedule(
        objective=objective,
        confidence=confidence,
        most_loss=most_loss,
        bounds=bounds,
        clipped=clipped,
        forms=tuple(dict.fromkeys(law.forms)),
        law_error=float(law.discrepancy.differences([proposal.history()], fixed.history())[0]),
        opponent=outcome(fixed),
        tuned_opponent=None if tuned is None else outcome(tuned),
        proposal=outcome(proposal),
        least_cost=outcome(cheapest),
        front=_front(
            [outcome(plan) for plan in dict.fromkeys([lowest, *between, cheapest, fixed])], cost
        ),
        rivals=found,
        outside=outside_seen(proposal, law.seen),
    )


def _cost(
    objective: Objective, times: StepTimes | None, price_per_hour: float | None
) -> Callable[[SchedulePlan], float]:
    if objective in ("time", "cost"):
        assert times is not None
        factor = (price_per_hour or 1.0) / 3600 if objective == "cost" else 1.0
        return lambda plan: factor * times.run_seconds(plan)
    return lambda plan: plan.steps


def _within_times(bounds: PlanBounds, times: StepTimes) -> tuple[PlanBounds, tuple[str, ...]]:
    low, high = times.batch[0], times.batch[-1]
    inner = max(bounds.batch[0], low), min(bounds.batch[1], high)
    if inner == bounds.batch:
        return bounds, ()
    said = f"batch: {bounds.batch[0]} to {bounds.batch[1]}, step times known {low} to {high}"
    return checked_bounds(replace(bounds, batch=inner)), (said,)


def _tuned_opponent(law: LossDraws, bounds: PlanBounds, mean: Judge) -> SchedulePlan | None:
    """The best fixed batch with its learning rate tuned within what was seen; None where the
    law has seen nothing to tune it by."""
    seen = law.seen
    if bounds.lr_kind == "cosine" or seen.decay_share is None or seen.final_ratio is None:
        return None
    room = bounds.total_tokens - bounds.warmup_tokens
    lengths = [min(round(share * bounds.total_tokens), room) for share in seen.decay_share]
    batch = seen.batch_decayed or seen.batch
    wider = replace(
        bounds,
        lr_kind="wsd",
        batch=(min(bounds.batch[0], round(batch[0])), max(bounds.batch[1], round(batch[1]))),
        peak=seen.peak,
        decay_tokens=(lengths[0], lengths[1]),
        final_ratio=seen.final_ratio,
        shapes=tuple(dict.fromkeys((*bounds.shapes, *(seen.shapes or ("linear",))))),
    )
    return best_fixed(checked_bounds(wider), mean)


def _on_steps(plan: SchedulePlan, bounds: PlanBounds) -> SchedulePlan:
    """The plan with its switches at the steps at which they can happen."""
    batches = list(bounds.past) or [plan.batches[0]]
    begin, before = max(batches[-1][0], bounds.start_tokens), batches[-1][1]
    for start, size in plan.batches[len(batches) :]:
        begin += -(-(start - begin) // before) * before
        batches.append((begin, size))
        before = size
    return replace(plan, batches=tuple(batches))


def _front(
    outcomes: Sequence[PlanOutcome], cost: Callable[[SchedulePlan], float]
) -> tuple[PlanOutcome, ...]:
    """Those that no other beats in both mean difference and cost, by rising difference."""
    ranked = sorted(outcomes, key=lambda one: (one.difference.value, cost(one.plan)))
    kept: list[PlanOutcome] = []
    for one in ranked:
        if not kept or cost(one.plan) < cost(kept[-1].plan) * (1 - 1e-9):
            kept.append(one)
    return tuple(kept)
