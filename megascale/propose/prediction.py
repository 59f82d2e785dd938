"""What a law of whole schedules says of schedules side by side, and how sure it is.

A predicted loss has three errors: of the parameters (replicates of a bootstrap over whole runs),
of the form (several forms, equally many draws of each) and of the law itself, which is how far the
same forms missed schedules that were left out of the fit. The value is the mean of the forms' best
parameters. The first two are drawn for all
schedules at once, so that what they have in common leaves their difference; the third of a
difference is what left-out schedules' differences showed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.formats.student_t import student_reach
from megascale.propose.loss_draws import draws_of_each
from megascale.propose.schedule_law import ScheduleLaw

POINTS = 48
"""Token counts at which a curve is predicted."""
IMAGINED = 4_000
"""Draws of the order of schedules."""
WIDENED = 2.0
"""Factor on the law's own error outside what its runs have shown."""


@dataclass(frozen=True)
class PredictedLoss:
    """A loss in nats with its interval."""

    value: float
    low: float
    high: float


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
    end: PredictedLoss
    tokens: Array
    loss: Array
    low: Array
    high: Array
    steps: float
    against_first: PredictedLoss | None
    best: float
    outside: tuple[str, ...]


def predict_schedules(
    law: ScheduleLaw,
    histories: Sequence[History],
    outside: Sequence[tuple[str, ...]],
    *,
    confidence: float = 0.9,
    widen: float = 1.0,
    offsets: Sequence[float] | None = None,
    seed: int = 0,
) -> list[PredictedSchedule]:
    """Predict schedules side by side.

    Args:
        law: fitted.
        histories: of whole runs.
        outside: of each, what the law's runs have not shown.
        confidence: of the intervals.
        widen: factor on the law's own error, for schedules outside what its runs have shown.
        offsets: nats added to each, of runs under way whose losses so far stand beside the law's.
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
    reach = student_reach(confidence, max(law.schedules - 1, 1))
    moved = np.zeros(len(histories)) if offsets is None else np.asarray(offsets, float)
    draws = law.draws()
    ends = draws.end_losses(histories) + moved
    first = draws_of_each(draws, 1)  # each form's best parameters
    best = ends[first].mean(axis=0)
    factors = [widen if words else 1.0 for words in outside]
    chances = _chances(ends, law, factors, seed)
    out = []
    for i, (history, words) in enumerate(zip(histories, outside, strict=True)):
        begin = max(law.from_tokens, history.batch[0])
        tokens = np.linspace(begin, history.total_tokens, POINTS)
        along = draws.curves(history, tokens) + moved[i]
        loss = along[first].mean(axis=0)
        half = reach * np.hypot(_spread(along), factors[i] * law.level_error)
        against = None
        if i and history.total_tokens == histories[0].total_tokens:
            factor = max(factors[0], factors[i])
            error = factor * law.difference_error
            against = _interval(best[i] - best[0], ends[:, i] - ends[:, 0], error, reach)
        end = _interval(best[i], ends[:, i], factors[i] * law.level_error, reach)
        out.append(
            PredictedSchedule(
                history.name, history, end, tokens, loss, loss - half, loss + half,
                history.steps, against, chances[i], words,
            )
        )  # fmt: skip
    return out


def _spread(draws: Array) -> Array:
    """Half the distance between the 16th and the 84th percentile: a standard deviation that a few
    replicates without any decay, which know nothing of one, do not decide."""
    low, high = np.percentile(draws, [15.87, 84.13], axis=0)
    return 0.5 * (high - low)


def _interval(value: float, draws: Array, error: float, reach: float) -> PredictedLoss:
    half = reach * float(np.hypot(_spread(draws), error))
    return PredictedLoss(float(value), float(value - half), float(value + half))


def _chances(ends: Array, law: ScheduleLaw, factors: Sequence[float], seed: int) -> list[float]:
    """Probability of each schedule to end lowest; only ends at equal tokens are worth comparing."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(ends), IMAGINED)
    own = law.difference_error / np.sqrt(2) * np.asarray(factors)
    drawn = ends[rows] + rng.standard_normal((IMAGINED, ends.shape[1])) * own
    lowest = np.argmin(drawn, axis=1)
    return [float(np.mean(lowest == i)) for i in range(ends.shape[1])]
