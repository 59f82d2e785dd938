"""A run that is under way, and how its losses so far stand against a law's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.laws.schedule.discrepancy import LawDiscrepancy
from megascale.laws.schedule.histories import runs_of_table, until
from megascale.propose.loss_draws import FitDraws
from megascale.propose.loss_interval import IntervalRule
from megascale.propose.schedule_law import ScheduleLaw
from megascale.runs.table import RunTable

RECENT = 1 / 3
"""Share of the tokens so far whose losses are held against the law."""
LEAST = 3
"""Losses that it takes."""


@dataclass(frozen=True, slots=True)
class MeasuredSoFar:
    """Losses of a run against what was predicted for it.

    Attributes:
        tokens: consumed so far.
        offset: mean of measured minus predicted losses over the last third of them, nats.
        losses: how many.
        finished: whether the run has come to the end of its plan.
        at, measured: token counts and losses of that third.
        past: the run's schedule until `tokens`.
    """

    tokens: float
    offset: float
    losses: int
    finished: bool
    at: Array
    measured: Array
    past: History

    def offsets(self, draws: FitDraws) -> Array:
        """Mean of measured minus predicted losses by each draw, (draws,)."""
        return np.asarray((self.measured - draws.curves(self.past, self.at)).mean(axis=1))

    @property
    def offset_error(self) -> float:
        """Standard error of the offset by the jitter of the losses."""
        slope = np.polyfit(self.at, self.measured, 1) if len(self.at) > 2 else None
        left = self.measured - (
            self.measured.mean() if slope is None else np.polyval(slope, self.at)
        )
        return float(np.std(left, ddof=1) / np.sqrt(len(left)))


def measured_so_far(law: ScheduleLaw, table: RunTable, plan: History) -> MeasuredSoFar | None:
    """Hold a run's losses against the law; None where it has too few where the law holds.

    Args:
        law: fitted.
        table: of the one run.
        plan: its whole schedule.
    """
    try:
        (run,) = runs_of_table(table, loss=law.loss, from_tokens=law.from_tokens)
    except (FitError, ValueError):
        return None
    last = float(run.tokens.max())
    recent = run.tokens >= max((1 - RECENT) * last, law.from_tokens)
    inside = recent & (run.tokens <= plan.total_tokens)
    if inside.sum() < LEAST:
        return None
    tokens, loss = run.tokens[inside], run.loss[inside]
    draws = law.draws()
    said = IntervalRule.of_all(draws, 0.9).values(draws.curves(plan, tokens))
    return MeasuredSoFar(
        tokens=last,
        offset=float(np.mean(loss - said)),
        losses=int(inside.sum()),
        finished=last >= 0.99 * plan.total_tokens,
        at=tokens,
        measured=loss,
        past=until(plan, min(last, plan.total_tokens)),
    )


@dataclass(frozen=True, slots=True)
class RemainingError:
    """What is not known of the ends of runs, some of which are under way.

    Attributes:
        weights: by how much of a run's offset its end is moved; zero where nothing is measured.
        shared: covariance of the law's errors that are left, (runs, runs), nats squared.
        alone: variances that only a level has, (runs,), nats squared.
    """

    weights: Array
    shared: Array
    alone: Array


def remaining_errors(
    discrepancy: LawDiscrepancy,
    histories: Sequence[History],
    so_far: Sequence[MeasuredSoFar | None],
    ends: Array,
    offsets: Sequence[Array | None],
) -> RemainingError:
    """What the losses so far leave open, by the best linear prediction.

    The offset of a run tells of its end as far as the two go together: among the draws, in the
    law's own error at the run's past and at its whole schedule, and in what only this run has (its
    seed, its settings), which is taken to stay and to be as large as the offset asks for.

    Args:
        discrepancy: the law's own error.
        histories: of whole runs.
        so_far: what each has measured.
        ends: end losses by draw, (draws, runs).
        offsets: measured minus predicted losses of each by draw, (draws,).
    """
    pasts = [one.past for one in so_far if one is not None]
    whole = discrepancy.covariance([*histories, *pasts])
    count, known = len(histories), iter(range(len(histories), len(histories) + len(pasts)))
    change, weights = np.eye(count, len(whole)), np.zeros(count)
    alone = np.full(count, discrepancy.jitter)
    for i, (one, offset) in enumerate(zip(so_far, offsets, strict=True)):
        if one is None or offset is None:
            continue
        past = next(known)
        end, before = _steady(ends[:, i]), -_steady(offset)
        known_spread = np.mean(before**2) + whole[past, past] + one.offset_error**2
        own = max(discrepancy.jitter, float(np.median(offset)) ** 2 - known_spread)
        together = np.mean(end * before) + whole[i, past] + own
        weight = float(np.clip(together / (known_spread + own), 0.0, 1.0)) if own > 0 else 1.0
        change[i, past], weights[i] = -weight, weight
        alone[i] = (1 - weight) ** 2 * own + (weight * one.offset_error) ** 2
    return RemainingError(weights, change @ whole @ change.T, alone)


def _steady(draws: Array) -> Array:
    """Draws less their middle, wild ones pulled in."""
    low, high = np.quantile(draws, [0.05, 0.95])
    inside = np.clip(draws, low, high)
    return np.asarray(inside - inside.mean())
