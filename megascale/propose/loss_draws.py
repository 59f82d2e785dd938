"""End losses of planned runs under draws of a law: over its forms and their parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.history import History, Pieces
from megascale.fitting.history_result import HistoryFit, cut_kind, history_job, predict_history
from megascale.laws.schedule.discrepancy import LawDiscrepancy
from megascale.laws.schedule.histories import until
from megascale.propose.seen_ranges import SeenRanges

Array = np.ndarray


class LossDraws(Protocol):
    """A law of whole schedules as a planner asks it.

    Attributes:
        seen: what its runs have shown.
        forms: name of each draw's form; every form has equally many.
        discrepancy: the law's own error; by what it tells of each schedule the draws are moved.
    """

    seen: SeenRanges
    forms: tuple[str, ...]
    discrepancy: LawDiscrepancy

    def end_losses(self, histories: Sequence[History], rows: Array | None = None) -> Array:
        """Loss at the end of each history, (draws, histories), in nats.

        Args:
            histories: of whole runs.
            rows: the draws that are wanted; default all.
        """
        ...


class FitDraws:
    """Draws of fitted forms: each form's best parameters first, then its bootstrap's."""

    def __init__(
        self,
        fits: Sequence[HistoryFit],
        seen: SeenRanges,
        *,
        each: int = 40,
        discrepancy: LawDiscrepancy | None = None,
    ) -> None:
        """Take equally many draws of each form.

        Args:
            fits: one a form, fitted to the same runs.
            seen: what those runs have shown.
            each: draws a form, the best parameters among them; a form with a smaller bootstrap
                repeats itself.
            discrepancy: as `LossDraws`; None for a law that is taken as true.

        Raises:
            FitError: there is no fit.
        """
        if not fits:
            raise FitError.of("fits", 0, "a plan needs at least one fitted form", 1)
        self.seen = seen
        self.discrepancy = discrepancy or LawDiscrepancy((), 0.0, math.inf)
        self._fits = list(fits)
        self._tables = [_table(fit, each) for fit in fits]
        self.forms = tuple(fit.law.name for fit in fits for _ in range(each))

    def end_losses(self, histories: Sequence[History], rows: Array | None = None) -> Array:
        """As `LossDraws.end_losses`."""
        each = len(self._tables[0])
        wanted = np.arange(len(self.forms)) if rows is None else np.asarray(rows)
        ends = [np.array([run.total_tokens]) for run in histories]
        out = np.empty((len(wanted), len(histories)))
        cuts: dict[tuple[object, ...], Pieces] = {}
        for i, (fit, table) in enumerate(zip(self._fits, self._tables, strict=True)):
            own = np.flatnonzero(wanted // each == i)
            if not len(own):
                continue
            alike = cut_kind(fit.law, fit.scales)
            job, pieces = history_job(fit.law, histories, ends, fit.scales, cuts.get(alike))
            cuts[alike] = pieces
            values = np.ascontiguousarray(table[wanted[own] % each])
            loss, _ = _engine.predict_histories(job, values, False)
            part = np.empty_like(loss)
            part[:, pieces.order] = loss
            out[own] = part
        return out + self.discrepancy.shifts(histories)

    def curves(self, history: History, tokens: Array) -> Array:
        """Losses along one history at token counts, (draws, points), in nats.

        Raises:
            FitError: a token count lies outside the history.
        """
        losses = np.concatenate(
            [
                predict_history(fit.law, table, history, tokens, fit.scales)[0]
                for fit, table in zip(self._fits, self._tables, strict=True)
            ]
        )
        if not self.discrepancy.residuals:
            return losses
        return losses + self.discrepancy.shifts([until(history, float(at)) for at in tokens])


def _table(fit: HistoryFit, each: int) -> Array:
    good = fit.bootstrap[np.isfinite(fit.bootstrap).all(axis=1)]
    if not len(good):
        return np.repeat(fit.values[None], each, axis=0)
    rest = good[np.arange(each - 1) % len(good)]
    return np.vstack([fit.values[None], rest])


def draws_of_each(law: LossDraws, count: int) -> Array:
    """Rows of the first `count` draws of every form."""
    names = np.array(law.forms)
    rows = [np.flatnonzero(names == name)[:count] for name in dict.fromkeys(law.forms)]
    return np.sort(np.concatenate(rows))
