"""Which losses of logs a law of whole schedules is fitted to."""

from __future__ import annotations

import polars as pl

from megascale.errors import FitError
from megascale.fitting.history_result import HistoryRun
from megascale.laws.schedule.histories import runs_of_table
from megascale.propose.seen_ranges import SeenRanges
from megascale.runs.readers.base import INTERVAL_MEAN, VALIDATION
from megascale.runs.table import RunTable

EARLY = 0.12
"""Share of the longest run before which losses are left out, beside twice the warmup: no form
holds there."""

LEAST_VALIDATIONS = 8
"""Validation losses are fitted where each run has as many after the beginning."""


def fittable_runs(
    table: RunTable | pl.DataFrame, *, weight_decay: float = 0.0
) -> tuple[list[HistoryRun], str, float]:
    """Histories with the losses that a law can hold: validation losses where every run has enough
    of them, else training losses; from after the beginning on.

    Returns:
        The runs, the kind of loss, and the tokens from which losses are taken.

    Raises:
        FitError: a run's history cannot be told, or a run has no loss after the beginning.
    """
    frame = table.table if isinstance(table, RunTable) else table
    kinds = set(frame["loss_kind"].drop_nulls())
    training = INTERVAL_MEAN if INTERVAL_MEAN in kinds else next(iter(kinds - {VALIDATION}), None)
    for kind in (VALIDATION, training):
        if kind not in kinds or kind is None:
            continue
        try:
            runs = runs_of_table(table, loss=kind, weight_decay=weight_decay)
        except FitError:
            if kind == training or training is None:
                raise
            continue
        seen = SeenRanges.of_histories([run.history for run in runs])
        begin = max(2 * seen.warmup_tokens, EARLY * seen.tokens)
        runs = runs_of_table(table, loss=kind, weight_decay=weight_decay, from_tokens=begin)
        if kind == training or min(len(run.loss) for run in runs) >= LEAST_VALIDATIONS:
            return runs, kind, begin
    raise FitError.of("--runs", "no loss", "the logs have too few losses after the beginning")
