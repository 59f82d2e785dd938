"""What a law of whole schedules says of schedules side by side, and how sure it is.

The parameters and the form are drawn for all schedules at once, so that what they have in common
leaves their difference; the law's own error is shared by schedules that are alike
(`LawDiscrepancy`), and leaves it too. `loss_interval` has the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.propose.loss_interval import Estimated, IntervalRule
from megascale.propose.run_standing import MeasuredSoFar, remaining_errors
from megascale.propose.schedule_law import ScheduleLaw

POINTS = 48
"""Token counts at which a curve is predicted."""
IMAGINED = 4_000
"""Draws of the order of schedules."""
WIDENED = 2.0
"""Factor on the law's own error outside what its runs have shown."""


@dataclass(frozen=True)
class PredictedSchedule:
    """One schedule.

    Attributes:
        name: of the schedule.
        history: batch and learning rate by tokens.
        end: predicted loss at its last token.
        tokens, loss, low, high: its curve, from the law's first token on.
        steps: optimiser steps.
        against_first: difference of the end to the first schedule's; None for that itself, and
            where the two have other total tokens.
        best: probability that its end is the lowest.
        outside: what of it no run behind the law has shown, in words.
    """

    name: str
    history: History
    end: Estimated
    tokens: Array
    loss: Array
    low: Array
    high: Array
    steps: float
    against_first: Estimated | None
    best: float
    outside: tuple[str, ...]


def predict_schedules(
    law: ScheduleLaw,
    histories: Sequence[History],
    outside: Sequence[tuple[str, ...]],
    *,
    confidence: float = 0.9,
    widen: float = 1.0,
    so_far: Sequence[MeasuredSoFar | None] | None = None,
    seed: int = 0,
) -> list[PredictedSchedule]:
    """Predict schedules side by side.

    Args:
        law: fitted.
        histories: of whole runs.
        outside: of each, what the law's runs have not shown.
        confidence: of the intervals.
        widen: factor on the law's own error, for schedules outside what its runs have shown.
        so_far: of each, what it has measured where it is under way: it is predicted from there.
        seed: of the draws of their order.

    Raises:
        FitError: no schedule, or one that ends before the law's first token.
    """
    if not histories:
        raise FitError.of("schedules", 0, "needs at least one", 1)
    for history in histories:
        if history.total_tokens <= law.from_tokens:
            rule = f"ends before the {law.from_tokens:,.0f} tokens from which the law holds"
            raise FitError.of(f"schedule {history.name}", f"{history.total_tokens:,.0f}", rule)
    draws = law.draws()
    intervals = IntervalRule.of_all(draws, confidence)
    standing = [None] * len(histories) if so_far is None else list(so_far)
    ends = draws.end_losses(histories)
    offsets = [None if one is None else one.offsets(draws) for one in standing]
    left = remaining_errors(draws.discrepancy, histories, standing, ends, offsets)
    moved = [
        np.zeros(len(ends)) if offset is None else weight * offset
        for offset, weight in zip(offsets, left.weights, strict=True)
    ]
    ends = ends + np.column_stack(moved)
    factors = np.array([widen if words else 1.0 for words in outside])
    shared, own = left.shared, np.maximum(np.diag(left.shared), 0.0)
    levels = factors * np.sqrt(own + left.alone)
    differences = np.sqrt(np.maximum(own + own[0] - 2 * shared[0], 0.0))
    chances = _chances(ends, factors, shared, seed)
    out = []
    for i, (history, words) in enumerate(zip(histories, outside, strict=True)):
        begin = max(law.from_tokens, history.batch[0])
        tokens = np.linspace(begin, history.total_tokens, POINTS)
        along = draws.curves(history, tokens) + moved[i][:, None]
        loss, half = intervals.values(along), intervals.halves(along, levels[i])
        against = None
        if i and history.total_tokens == histories[0].total_tokens:
            error = max(factors[0], factors[i]) * differences[i]
            against = intervals.estimated(ends[:, i] - ends[:, 0], error)
        end = intervals.estimated(ends[:, i], levels[i])
        out.append(
            PredictedSchedule(
                history.name, history, end, tokens, loss, loss - half, loss + half,
                history.steps, against, chances[i], words,
            )
        )  # fmt: skip
    return out


def _chances(ends: Array, factors: Array, covariance: Array, seed: int) -> list[float]:
    """Probability of each schedule to end lowest; only ends at equal tokens are worth comparing."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(ends), IMAGINED)
    values, vectors = np.linalg.eigh(covariance * np.outer(factors, factors))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = ends[rows] + rng.standard_normal((IMAGINED, len(values))) @ root.T
    lowest = np.argmin(drawn, axis=1)
    return [float(np.mean(lowest == i)) for i in range(ends.shape[1])]
