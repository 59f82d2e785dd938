"""A run that is under way, and how its losses so far stand against a law's prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.laws.schedule.histories import runs_of_table
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
    """

    tokens: float
    offset: float
    losses: int
    finished: bool


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
    said = np.mean([fit.predict(plan, tokens).loss for fit in law.fits], axis=0)
    return MeasuredSoFar(
        tokens=last,
        offset=float(np.mean(loss - said)),
        losses=int(inside.sum()),
        finished=last >= 0.99 * plan.total_tokens,
    )
