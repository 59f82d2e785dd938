"""Schedules by rule as rivals of a planned one: each with its own numbers tuned under the law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from megascale.errors import ScheduleError
from megascale.propose.loss_draws import LossDraws, draws_of_each
from megascale.propose.plan_bounds import PlanBounds
from megascale.propose.schedule_plan import SchedulePlan
from megascale.schedule.points import BatchPoint
from megascale.schedule.rules import late_points, remaining_points

LATE = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the budget at which a late switch is tried."""
LOOKS = 10
"""Looks at the best fixed batch so far, of the rule `follow`."""


def rule_rivals(
    law: LossDraws, opponent: SchedulePlan, bounds: PlanBounds
) -> Mapping[str, Sequence[SchedulePlan]]:
    """Plans of each rule under the opponent's learning rate, within the bounds on batches.

    `remaining` with every first batch; `late` with every pair of batches and several switches;
    `follow`, the batch that is best for a fixed-batch run of so many tokens (arXiv 2601.05034).

    Args:
        law: that `follow` asks.
        opponent: the best fixed batch.
        bounds: of all plans.
    """
    sizes = bounds.ladder(2**0.5)
    total, lr = bounds.total_tokens, opponent.lr
    found: dict[str, list[SchedulePlan]] = {"remaining": [], "late": [], "follow": []}

    def add(name: str, points: Sequence[BatchPoint]) -> None:
        batches = tuple((point.start_tokens, point.batch_tokens) for point in points)
        if all(bounds.batch[0] <= size <= bounds.batch[1] for _, size in batches):
            found[name].append(bounds.plan(batches, lr))

    for first in sizes:
        if lr.kind != "cosine":
            try:
                points = remaining_points(
                    first,
                    total_tokens=total,
                    decay_tokens=lr.decay_tokens,
                    max_tokens=bounds.batch[1],
                    unit_tokens=bounds.unit_tokens,
                )
            except ScheduleError:
                continue
            add("remaining", points)
        for second in sizes:
            for share in LATE if second > first else ():
                start = round(share * total)
                add("late", late_points(first, second, total_tokens=total, start_tokens=start))
    add("follow", followed(law, opponent, bounds))
    return found


def followed(law: LossDraws, opponent: SchedulePlan, bounds: PlanBounds) -> tuple[BatchPoint, ...]:
    """At every tenth of the budget the batch that is best for a fixed-batch run up to there, at a
    rate that does not decay: the route of arXiv 2601.05034 under a law of whole schedules.

    Args:
        law: asked for the mean loss over its draws.
        opponent: whose warmup and peak the runs have.
        bounds: batches to choose from.
    """
    sizes = bounds.ladder(2**0.25)
    ends = [bounds.total_tokens * look // LOOKS for look in range(1, LOOKS)]
    ends = [end for end in ends if end > opponent.lr.warmup_tokens]
    points: list[BatchPoint] = []
    for end in ends:
        lr = replace(opponent.lr, kind="constant", total_tokens=end, decay_tokens=0)
        runs = [replace(opponent, batches=((0, size),), lr=lr).history() for size in sizes]
        mean = law.end_losses(runs, draws_of_each(law, 10)).mean(axis=0)
        best = sizes[int(np.argmin(mean))]
        if not points or best != points[-1].batch_tokens:
            points.append(BatchPoint(end if points else 0, best))
    return tuple(points)
