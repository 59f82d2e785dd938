"""The search for the best plan under a law: all of a coarse lattice, then moves that get smaller.

Everything is deterministic. A plan is judged by the paired difference to an opponent in each draw
of the law, and by what it costs; `Goal` says which of the two is to be small under which limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from megascale.propose.loss_draws import LossDraws
from megascale.propose.loss_interval import IntervalRule
from megascale.propose.plan_bounds import PlanBounds
from megascale.propose.plan_moves import lattice, neighbours, pairs_of_moves, rates
from megascale.propose.schedule_plan import SchedulePlan

Array = np.ndarray
Cost = Callable[[SchedulePlan], float]

SCALES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
"""Sizes of the moves, each until none helps."""
ROUNDS = 60
"""Most moves of one size."""
GAIN = 1e-6
"""Least relative improvement that is a move."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a plan should be.

    Attributes:
        small: `loss`: the difference to the opponent; `cost`: the cost.
        most_loss: limit of the difference where the cost is to be small, nats.
        most_cost: limit of the cost where the loss is to be small.
    """

    small: str = "loss"
    most_loss: float = 0.0
    most_cost: float = float("inf")

    def key(self, loss: float, cost: float) -> tuple[int, float, float]:
        """Smaller is better; a plan beyond the limit comes after all within it."""
        if self.small == "cost":
            return (0, cost, loss) if loss <= self.most_loss else (1, loss, cost)
        return (0, loss, cost) if cost <= self.most_cost else (1, cost, loss)


def better(new: tuple[int, float, float], old: tuple[int, float, float]) -> bool:
    """Whether a key is smaller by more than rounding."""
    if new[0] != old[0]:
        return new[0] < old[0]
    return new[1] < old[1] - GAIN * max(abs(old[1]), 1e-3)


@dataclass(slots=True)
class Judge:
    """Losses and costs of plans, each worked out once.

    Attributes:
        law: its draws.
        rows: the draws that are asked.
        cost: of a plan, in steps, seconds or money.
        confidence: of the interval whose upper end a difference is judged by; None for the value.
        opponent: what plans are compared with; None while it is sought.
        losses: of the plans seen, in those draws.
        errors: the law's own, of the plans' differences to the opponent.
    """

    law: LossDraws
    rows: Array
    cost: Cost
    confidence: float | None = None
    opponent: SchedulePlan | None = None
    losses: dict[SchedulePlan, Array] = field(default_factory=dict)
    errors: dict[SchedulePlan, float] = field(default_factory=dict)

    def judged(self, plans: Sequence[SchedulePlan]) -> list[tuple[float, float]]:
        """(difference, cost) of each plan."""
        whole = plans if self.opponent is None else [*plans, self.opponent]
        self._ask([plan for plan in dict.fromkeys(whole) if plan not in self.losses])
        table = np.array([self.losses[plan] for plan in plans])
        if self.opponent is not None:
            table = table - self.losses[self.opponent]
        rule = IntervalRule(self.law, self.confidence or 0.0, self.rows)
        worth = rule.values(table.T)
        if self.confidence is not None:
            worth = worth + rule.halves(table.T, np.array([self.errors[plan] for plan in plans]))
        return [(float(w), self.cost(p)) for w, p in zip(worth, plans, strict=True)]

    def _ask(self, plans: Sequence[SchedulePlan]) -> None:
        for at in range(0, len(plans), 500):
            some = plans[at : at + 500]
            histories = [plan.history() for plan in some]
            found = self.law.end_losses(histories, self.rows)
            self.losses.update(zip(some, found.T, strict=True))
            if self.opponent is not None and self.confidence is not None:
                errors = self.law.discrepancy.differences(histories, self.opponent.history())
                self.errors.update(zip(some, errors.tolist(), strict=True))

    def best(
        self, plans: Sequence[SchedulePlan], goal: Goal, count: int = 1
    ) -> list[tuple[SchedulePlan, tuple[int, float, float]]]:
        """The best plans with their keys, the best first."""
        keys = [goal.key(*found) for found in self.judged(plans)]
        order = sorted(range(len(plans)), key=lambda i: (keys[i], i))
        return [(plans[i], keys[i]) for i in order[:count]]


def refine(
    plan: SchedulePlan,
    goal: Goal,
    bounds: PlanBounds,
    judge: Judge,
    *,
    scales: Sequence[float] = SCALES,
) -> SchedulePlan:
    """The best plan that moves from `plan` reach, the largest moves first."""
    [(plan, key)] = judge.best([plan], goal)
    for scale in scales:
        for _ in range(ROUNDS):
            for tried in (neighbours, pairs_of_moves):
                moves = tried(plan, bounds, scale)
                if moves:
                    [(other, other_key)] = judge.best(moves, goal)
                    if better(other_key, key):
                        plan, key = other, other_key
                        break
            else:
                break
    return plan


def best_fixed(bounds: PlanBounds, judge: Judge, *, grid: int = 4) -> SchedulePlan:
    """The fixed batch and learning rate of the lowest loss: the opponent.

    It has the same bounds as a plan, and is sought on the whole grid of batches and rates before
    it is refined. For a running run it is the batch that runs on, or one change now.

    Args:
        bounds: of plans.
        judge: of losses, without an opponent.
        grid: values of each thing of the learning rate that is planned.
    """
    still = replace(bounds, max_changes=1 if bounds.past else 0)
    begin = bounds.start_tokens
    sizes = [((begin, size),) for size in bounds.ladder(2**0.5)] + [()] * bool(bounds.past)
    tried = [bounds.plan((*bounds.past, *size), lr) for lr in rates(bounds, grid) for size in sizes]
    fixed = [plan for plan in tried if still.allows(plan)]
    still = replace(still, min_gap=bounds.total_tokens - begin)
    starts = judge.best(fixed, Goal(), 3)
    ends = [refine(plan, Goal(), still, judge) for plan, _ in starts]
    return judge.best(ends, Goal())[0][0]


def best_plan(
    goal: Goal,
    bounds: PlanBounds,
    screen: Judge,
    judge: Judge,
    opponent: SchedulePlan,
    *,
    extra: Sequence[SchedulePlan] = (),
    rate_count: int = 3,
    starts: int = 4,
) -> SchedulePlan:
    """The best plan for a goal.

    Args:
        goal: what is to be small.
        bounds: of plans.
        screen: judges the lattices, by few draws.
        judge: judges the moves.
        opponent: the best fixed batch; its learning rate is one of those tried.
        extra: further plans to begin from.
        rate_count: values of each thing of the learning rate in the lattice.
        starts: plans of the lattice that are refined.
    """
    tried = dict.fromkeys([opponent.lr, *(rates(bounds, rate_count) if bounds.plans_lr else ())])
    best_rates = list(tried)
    if len(tried) > 2:
        few = [p for lr in tried for p in lattice(bounds, lr, max_changes=1, most=120)]
        ranked = dict.fromkeys(plan.lr for plan, _ in screen.best(few, goal, 40))
        best_rates = list(dict.fromkeys([opponent.lr, *list(ranked)[:3]]))
    coarse = [p for lr in best_rates for p in lattice(bounds, lr)]
    found = [plan for plan, _ in screen.best(coarse, goal, starts)]
    chosen = found[:starts]
    for many in sorted({plan.changes for plan in coarse}):
        own = [plan for plan in coarse if plan.changes == many]
        chosen += [plan for plan, _ in screen.best(own, goal, max(1, starts // 2))]
    begins = dict.fromkeys([*chosen, opponent, *extra])
    ends = [refine(plan, goal, bounds, judge) for plan in begins]
    return judge.best(ends, goal)[0][0]
