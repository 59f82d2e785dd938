"""The answer of a planner in sentences: what is recommended, and what these runs cannot show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from megascale.propose.best_schedule import BestSchedule
from megascale.propose.loss_interval import Estimated
from megascale.propose.plan_outcome import PlanOutcome
from megascale.propose.schedule_plan import SchedulePlan, batch_words
from megascale.units import short_count

LEAST_SAVING = 0.01
"""Share of the cost below which a saving is none."""

Kind = Literal["gain", "saving", "nothing", "unseen"]


@dataclass(frozen=True, slots=True)
class PlanVerdict:
    """What the planner answers.

    Attributes:
        kind: `gain`: a lower loss for sure; `saving`: a lower cost at no worse loss; `nothing`:
            the best fixed batch; `unseen`: the plan lies outside what the runs have shown.
        chosen: the plan that is recommended: the fixed batch where there is nothing better.
        sentences: the answer, the verdict first.
    """

    kind: Kind
    chosen: PlanOutcome
    sentences: tuple[str, ...]

    @property
    def recommended(self) -> bool:
        """Whether a plan other than the fixed batch is recommended."""
        return self.kind in ("gain", "saving")


def plan_verdict(found: BestSchedule) -> PlanVerdict:
    """The answer to what was found.

    A lower loss is claimed only where the whole interval of the paired difference lies below
    zero, a saving only where none of it lies above what counts as no worse.
    """
    opponent, best, cheap = found.opponent, found.proposal, found.least_cost
    against = f"the best fixed batch, {plan_words(opponent.plan)}"
    saved = saving_words(found, cheap)
    saves = (cheap_saving(found, cheap) or 0) >= LEAST_SAVING
    holds = cheap.difference.high <= found.most_loss
    no_worse = "no worse loss"
    if found.most_loss:
        no_worse = f"a loss at most {found.most_loss:g} nats higher"
    said: list[str] = []
    kind: Kind = "nothing"
    chosen = opponent
    if found.objective == "tokens" and best.difference.high < 0:
        kind, chosen = "gain", best
        tokens = best.token_saving
        less = f"{percent(tokens)} fewer tokens to the same loss"
        said.append(
            f"{plan_words(best.plan)}: ends {interval(best.difference)} nats from {against}; "
            f"{less}, {saving_words(found, best)}."
        )
    elif holds and saves:
        kind, chosen = "saving", cheap
        first = (
            f"no gain in tokens that these runs can show; {saved}"
            if found.objective == "tokens"
            else saved
        )
        said.append(
            f"{first} at {no_worse} with {plan_words(cheap.plan)}: ends "
            f"{interval(cheap.difference)} nats from {against}."
        )
    else:
        what = "tokens" if found.objective == "tokens" else _unit(found)
        said.append(
            f"no gain in {what} that these runs can show: stay with {against}, which ends at "
            f"{opponent.loss.value:.4f} ({opponent.loss.low:.4f} to {opponent.loss.high:.4f}) nats."
        )
    tuned = found.tuned_opponent
    if tuned is not None and tuned.difference.value < chosen.difference.value - 1e-3:
        said.append(
            f"a fixed batch whose learning rate is tuned within what was seen, "
            f"{plan_words(tuned.plan)}, ends {interval(tuned.difference)} nats from the same: plan "
            "the learning rate too."
        )
    if found.outside:
        kind, chosen = "unseen", opponent
        said.insert(
            0,
            f"no recommendation: the plan lies outside what the law's runs have shown "
            f"({'; '.join(found.outside)}).",
        )
    return PlanVerdict(kind, chosen, tuple(_capital(one) for one in said))


def cheap_saving(found: BestSchedule, outcome: PlanOutcome) -> float | None:
    """Share of the objective's cost that a plan saves against the opponent."""
    if found.objective == "time":
        return outcome.time_saving
    return outcome.cost_saving if found.objective == "cost" else outcome.step_saving


def saving_words(found: BestSchedule, outcome: PlanOutcome) -> str:
    """`20 % fewer steps`, or how many more."""
    saving = cheap_saving(found, outcome) or 0.0
    less = {"time": ("less", "more"), "cost": ("less", "more")}
    fewer, more = less.get(found.objective, ("fewer", "more"))
    return f"{abs(saving):.0%} {fewer if saving >= 0 else more} {_unit(found)}"


def plan_words(plan: SchedulePlan) -> str:
    """Batches and learning rate of a plan in a few words."""
    lr = plan.lr
    rate = f"LR {lr.peak:.3g}"
    if lr.kind == "cosine":
        rate += f" cosine to {plan.final_ratio:.2g}"
    elif lr.decay_tokens:
        shape = "" if lr.decay_shape == "linear" else f"{lr.decay_shape} "
        rate += f", {shape}decay over {short_count(lr.decay_tokens)} to {plan.final_ratio:.2g}"
    return f"batch {batch_words(plan)} ({rate})"


def interval(one: Estimated) -> str:
    """`-0.0123 (-0.0150 to -0.0090)`."""
    return f"{one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})"


def percent(one: Estimated) -> str:
    """`12 % (8 to 15 %)`."""
    return f"{one.value:.0%} ({one.low:.0%} to {one.high:.0%})"


def _unit(found: BestSchedule) -> str:
    return {"time": "time", "cost": "cost"}.get(found.objective, "steps")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def best_schedule_dict(found: BestSchedule) -> dict[str, Any]:
    """Everything that was found, as plain JSON types."""
    verdict = plan_verdict(found)
    bounds = found.bounds
    return {
        "objective": found.objective,
        "verdict": list(verdict.sentences),
        "kind": verdict.kind,
        "recommended": verdict.recommended,
        "confidence": found.confidence,
        "no_worse_nats": found.most_loss,
        "forms": list(found.forms),
        "law_error": found.law_error,
        "bounds": {
            "total_tokens": bounds.total_tokens,
            "unit_tokens": bounds.unit_tokens,
            "batch_tokens": list(bounds.batch),
            "max_changes": bounds.max_changes,
            "min_gap_tokens": bounds.min_gap,
            "direction": bounds.direction,
            "peak_lr": list(bounds.peak),
            "decay_tokens": list(bounds.decay_tokens),
            "final_ratio": list(bounds.final_ratio),
        },
        "clipped_to_seen": list(found.clipped),
        "outside_seen": list(found.outside),
        "opponent": outcome_dict(found.opponent),
        "tuned_opponent": _maybe(found.tuned_opponent),
        "proposal": outcome_dict(found.proposal),
        "least_cost": outcome_dict(found.least_cost),
        "chosen": outcome_dict(verdict.chosen),
        "front": [outcome_dict(one) for one in found.front],
        "rules": {name: outcome_dict(one) for name, one in found.rivals.items()},
    }


def _maybe(outcome: PlanOutcome | None) -> dict[str, Any] | None:
    return None if outcome is None else outcome_dict(outcome)


def outcome_dict(outcome: PlanOutcome) -> dict[str, Any]:
    """A plan's numbers, as plain JSON types."""
    lr = outcome.plan.lr

    def three(one: Estimated) -> dict[str, float]:
        return {"value": one.value, "low": one.low, "high": one.high}

    return {
        "batches": [{"start_tokens": s, "batch_tokens": b} for s, b in outcome.plan.batches],
        "lr": {
            "kind": lr.kind,
            "peak": lr.peak,
            "warmup_tokens": lr.warmup_tokens,
            "decay_tokens": lr.decay_tokens,
            "decay_shape": lr.decay_shape,
            "final_lr": lr.final if lr.decay_tokens else lr.peak,
        },
        "loss": three(outcome.loss),
        "difference": three(outcome.difference),
        "difference_by_form": dict(outcome.by_form),
        "token_saving": three(outcome.token_saving),
        "steps": outcome.steps,
        "step_saving": outcome.step_saving,
        "seconds": outcome.seconds,
        "time_saving": outcome.time_saving,
        "cost": outcome.cost,
        "cost_saving": outcome.cost_saving,
    }
