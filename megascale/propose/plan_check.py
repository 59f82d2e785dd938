"""A schedule that is given, judged under a law of whole schedules against the best fixed batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megascale.propose.loss_draws import LossDraws, draws_of_each
from megascale.propose.plan_bounds import PlanBounds, checked_bounds, clip_to_seen, outside_seen
from megascale.propose.plan_outcome import PlanOutcome, outcome_of
from megascale.propose.plan_search import Judge, best_fixed
from megascale.propose.plan_verdict import interval, outcome_dict, percent, plan_words


@dataclass(frozen=True, slots=True)
class JudgedPlan:
    """What a law says of a given schedule.

    Attributes:
        outcome: of the schedule, against the opponent.
        opponent: the best fixed batch within the bounds.
        outside: what of the schedule no run behind the law has shown, in words.
        confidence: of the intervals.
    """

    outcome: PlanOutcome
    opponent: PlanOutcome
    outside: tuple[str, ...]
    confidence: float

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer, the verdict first."""
        gap, steps = self.outcome.difference, self.outcome.step_saving
        if gap.high < 0:
            verdict = "better than"
        else:
            verdict = "worse than" if gap.low > 0 else "not to be told apart from"
        fewer = f"{abs(steps):.0%} {'fewer' if steps >= 0 else 'more'} steps"
        said = [
            f"By the law this schedule is {verdict} the best fixed batch, "
            f"{plan_words(self.opponent.plan)}: it ends {interval(gap)} nats from it, with "
            f"{percent(self.outcome.token_saving)} fewer tokens to the same loss and {fewer}."
        ]
        if self.outside:
            said.append(
                f"The law's runs have not shown {'; '.join(self.outside)}: no recommendation."
            )
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "verdict": list(self.sentences),
            "confidence": self.confidence,
            "schedule": outcome_dict(self.outcome),
            "opponent": outcome_dict(self.opponent),
            "outside_seen": list(self.outside),
        }


def judge_schedule(
    law: LossDraws,
    bounds: PlanBounds,
    batches: Sequence[tuple[int, int]],
    *,
    confidence: float = 0.9,
    beyond_data: bool = False,
) -> JudgedPlan:
    """Judge a schedule of batches; a learning rate that the bounds leave open is the opponent's.

    Args:
        law: draws over forms and parameters.
        bounds: of the opponent.
        batches: (start_tokens, batch_tokens) of each segment, realised.
        confidence: of the intervals.
        beyond_data: let the opponent outside what the law has seen.

    Raises:
        ScheduleError: the bounds are empty, or lie outside what the law has seen.
    """
    inside = checked_bounds(bounds)
    if not beyond_data:
        inside, _ = clip_to_seen(inside, law.seen)
    fixed = best_fixed(inside, Judge(law, draws_of_each(law, 10), lambda plan: plan.steps))
    plan = bounds.plan(tuple(batches), fixed.lr)

    def outcome(one: Any) -> PlanOutcome:
        return outcome_of(law, one, fixed, confidence=confidence)

    return JudgedPlan(outcome(plan), outcome(fixed), outside_seen(plan, law.seen), confidence)
