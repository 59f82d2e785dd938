"""Which further runs would pin a law of whole schedules down most for the tokens they take.

The draws of the law (forms and their parameters) say how a run's losses and the ends of the target
schedules vary together; what a run would leave of the targets' variance is that of a linear
Gaussian update by its curve (Bayesian D- and A-optimality after Chaloner and Verdinelli 1995, the
covariances from the ensemble as in Evensen 1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.propose.loss_draws import FitDraws
from megascale.propose.schedule_law import DRAWS, ScheduleLaw
from megascale.propose.schedule_plan import SchedulePlan, batch_words
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import BatchPoint, format_table

MEASURED = 6
"""Points of a run's curve, even over its later three quarters, that an update takes."""
TAIL = 0.025
"""Draws beyond these quantiles count as the quantile: a bootstrap of few runs has wild ones."""


@dataclass(frozen=True, slots=True)
class DesignedRun:
    """A run that could be made next.

    Attributes:
        name: what it is.
        plan: its batches and learning rate.
        spread: root mean square standard deviation of the targets' ends after it, nats.
        reduction: share of the targets' variance that it is expected to take away.
        per_budget: that share for each whole budget of tokens spent.
    """

    name: str
    plan: SchedulePlan
    spread: float
    reduction: float
    per_budget: float

    @property
    def config(self) -> dict[str, Any]:
        """Its sections of a config."""
        lr, points = self.plan.lr, [BatchPoint(start, size) for start, size in self.plan.batches]
        section: dict[str, Any] = {
            "kind": lr.kind,
            "peak": lr.peak,
            "warmup_tokens": lr.warmup_tokens,
        }
        if lr.decay_tokens:
            section |= {"decay_tokens": lr.decay_tokens, "final_lr": lr.final}
        return {
            "train": {"total_tokens": lr.total_tokens},
            "batch": {"schedule": format_table(points)},
            "lr": section,
        }


@dataclass(frozen=True, slots=True)
class ScheduleDesign:
    """What further runs are worth.

    Attributes:
        targets: schedules whose ends are to be known.
        spread: root mean square standard deviation of their ends now, nats.
        ranked: candidates, the most reduction a token first.
        second: candidates after the first of `ranked` has been run, ranked alike.
    """

    targets: list[SchedulePlan]
    spread: float
    ranked: list[DesignedRun]
    second: list[DesignedRun]


def design_runs(
    law: ScheduleLaw,
    *,
    total_tokens: int,
    unit_tokens: int = 1,
    n_params: float | None = None,
    candidates: dict[str, SchedulePlan] | None = None,
    targets: Sequence[SchedulePlan] | None = None,
) -> ScheduleDesign:
    """Rank further runs by what they would tell about the targets' ends, per token.

    Args:
        law: as fitted so far.
        total_tokens: budget of the targets and of the longest candidate.
        unit_tokens: batches are multiples of it.
        n_params: size of the model, for a law over several sizes; candidates and targets have it.
        candidates: by name; default `default_candidates`.
        targets: default `default_targets`.

    Raises:
        FitError: the law has no replicates, or nothing is to be chosen from.
    """
    if all(len(fit.bootstrap) < 2 for fit in law.fits):
        raise FitError.of("law file", "no draws", "a design needs replicates: --bootstrap 60")
    plans = default_candidates(law, total_tokens, unit_tokens) if candidates is None else candidates
    aims = list(default_targets(law, total_tokens, unit_tokens) if targets is None else targets)
    if not plans or not aims:
        raise FitError.of("design", len(plans), "needs a candidate and a target", 1)
    plans = {name: replace(plan, n_params=n_params) for name, plan in plans.items()}
    aims = [replace(plan, n_params=n_params) for plan in aims]
    draws = FitDraws(law.fits, law.seen, each=DRAWS)
    ends = _steady(draws.end_losses([plan.history() for plan in aims]))
    seen = {name: _steady(_measured(draws, plan)) for name, plan in plans.items()}
    jitter = float(np.mean([fit.rms for fit in law.fits]))
    noise = np.full((MEASURED, MEASURED), law.level_error**2) + jitter**2 * np.eye(MEASURED)

    def ranked(done: Sequence[str]) -> list[DesignedRun]:
        before = _left(ends, [seen[name] for name in done], noise)
        found = []
        for name, plan in plans.items():
            after = _left(ends, [seen[one] for one in (*done, name)], noise)
            gain = 1 - after / before if before > 0 else 0.0
            per = gain * total_tokens / plan.total_tokens
            found.append(DesignedRun(name, plan, float(np.sqrt(after)), gain, per))
        return sorted(found, key=lambda one: -one.per_budget)

    first = ranked(())
    return ScheduleDesign(aims, float(np.sqrt(_left(ends, [], noise))), first,
                          ranked([first[0].name]))  # fmt: skip


def default_candidates(
    law: ScheduleLaw, total_tokens: int, unit_tokens: int = 1
) -> dict[str, SchedulePlan]:
    """One change a run, each at the whole budget and at half of it: a switch up, a switch down, a
    decay, another peak, the smallest and the largest batch, a batch below the smallest."""
    low, middle, high = _sizes(law, unit_tokens)
    peak = law.seen.peak[1]
    below = max(unit_tokens, low // 2 // unit_tokens * unit_tokens)
    out: dict[str, SchedulePlan] = {}
    for share in (1.0, 0.5):
        total = round(total_tokens * share)
        kinds = {
            "switch up": _plan(law, total, ((0, low), (total // 2, high)), peak),
            "switch down": _plan(law, total, ((0, high), (total // 2, low)), peak),
            "late switch up": _plan(law, total, ((0, low), (total * 17 // 20, high)), peak),
            "short decay": _plan(law, total, ((0, middle),), peak, 0.2),
            "long decay": _plan(law, total, ((0, low),), peak, 0.4, 0.02),
            "higher peak": _plan(law, total, ((0, middle),), 1.6 * peak),
            "lower peak": _plan(law, total, ((0, middle),), 0.6 * peak),
            "smallest batch": _plan(law, total, ((0, low),), peak),
            "largest batch": _plan(law, total, ((0, high),), peak),
            "half the smallest batch": _plan(law, total, ((0, below),), peak),
        }
        length = "" if share == 1 else ", half the tokens"
        out |= {name + length: plan for name, plan in kinds.items()}
    return out


def default_targets(
    law: ScheduleLaw, total_tokens: int, unit_tokens: int = 1
) -> list[SchedulePlan]:
    """Fixed small and middle batches and two growing ones, each at a constant learning rate and
    under a decay of a fifth of the run."""
    low, middle, high = _sizes(law, unit_tokens)
    peak, total = law.seen.peak[1], total_tokens
    batches = (
        ((0, low),),
        ((0, middle),),
        ((0, low), (total // 2, middle)),
        ((0, low), (total * 7 // 10, high)),
    )
    return [_plan(law, total, one, peak, decay) for decay in (0.0, 0.2) for one in batches]


def _sizes(law: ScheduleLaw, unit: int) -> tuple[int, int, int]:
    low, high = (max(unit, round(size / unit) * unit) for size in law.seen.batch)
    middle = max(unit, round(float(np.sqrt(low * high)) / unit) * unit)
    return low, middle, high


def _plan(
    law: ScheduleLaw,
    total: int,
    batches: tuple[tuple[int, int], ...],
    peak: float,
    decay: float = 0.0,
    final: float = 0.1,
) -> SchedulePlan:
    warmup = min(round(law.seen.warmup_tokens), total // 4)
    lr = LRSchedule("wsd", peak, total, warmup, 0.0, round(total * decay), "linear", peak * final)
    kept = tuple(one for i, one in enumerate(batches) if i == 0 or one[1] != batches[i - 1][1])
    return SchedulePlan(kept, lr, weight_decay=law.weight_decay or 0.0)


def _measured(draws: FitDraws, plan: SchedulePlan) -> Array:
    tokens = np.linspace(0.25, 1.0, MEASURED) * plan.total_tokens
    return draws.curves(plan.history(), tokens)


def _steady(losses: Array) -> Array:
    """Draws less their mean, wild ones pulled in."""
    low, high = np.quantile(losses, [TAIL, 1 - TAIL], axis=0)
    inside = np.clip(losses, low, high)
    return np.asarray(inside - inside.mean(axis=0))


def _left(ends: Array, runs: Sequence[Array], noise: Array) -> float:
    """Mean variance of the targets' ends that is left after measuring runs."""
    count = len(ends) - 1
    now = float((ends**2).sum(axis=0).mean() / count)
    if not runs:
        return now
    seen = np.hstack(runs)
    errors = np.kron(np.eye(len(runs)), noise)
    cross = seen.T @ ends / count
    told = cross * np.linalg.solve(seen.T @ seen / count + errors, cross)
    return max(now - float(told.sum(axis=0).mean()), 0.0)


def batches_of(plan: SchedulePlan) -> str:
    """A plan's batches, peak and decay in a few words."""
    lr = plan.lr
    decay = f", decay {lr.decay_tokens / lr.total_tokens:.0%}" if lr.decay_tokens else ""
    return f"{batch_words(plan)}; peak {lr.peak:.3g}{decay}"
