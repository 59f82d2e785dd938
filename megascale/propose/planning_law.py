"""A law for the planner straight from logs: several forms fitted to whole runs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from megascale.errors import FitError
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_result import HistoryRun
from megascale.laws.schedule.histories import runs_of_table
from megascale.propose.loss_draws import FitDraws
from megascale.propose.seen_ranges import SeenRanges
from megascale.runs.readers.base import INTERVAL_MEAN, VALIDATION
from megascale.runs.table import RunTable

FORMS_OF_LOGS = ("theta", "snr", "power", "w0")
"""Those that predicted left-out schedules best (docs/schedule-law.md), of different kinds; `w0`
where the weight decay is known."""

EARLY = 0.12
"""Share of the longest run before which losses are left out, beside twice the warmup: no form
holds there."""

LEAST_VALIDATIONS = 8
"""Validation losses are fitted where each run has as many after the beginning."""

DRAWS = 40
"""Of each form: the best parameters and bootstrap replicates of whole runs."""


def law_of_logs(
    table: RunTable,
    *,
    weight_decay: float | None = None,
    forms: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> FitDraws:
    """Fit forms of the law of whole schedules to logs, each with a bootstrap over runs.

    Args:
        table: of the logs.
        weight_decay: of all runs; None where it is not known, and no form looks at it.
        forms: names; default `FORMS_OF_LOGS`.
        progress: told what is being done.

    Raises:
        FitError: fewer than three runs, runs whose histories cannot be told, or too few losses.
    """
    said = progress or (lambda _: None)
    names = forms or tuple(f for f in FORMS_OF_LOGS if f != "w0" or weight_decay is not None)
    runs = runs_of_logs(table, weight_decay=weight_decay or 0.0)
    if len(runs) < 3:
        rule = "a law of whole schedules needs at least three: fixed batches, a switch and a decay"
        raise FitError.of("--runs", f"{len(runs)} runs", rule)
    fits = []
    for name in names:
        said(f"fitting {name} to {len(runs)} runs")
        fits.append(fit_history(name, runs, starts=24, bootstrap=DRAWS))
    return FitDraws(fits, SeenRanges.of_histories([run.history for run in runs]), each=DRAWS)


def runs_of_logs(table: RunTable, *, weight_decay: float = 0.0) -> list[HistoryRun]:
    """Histories with the losses that a law can hold: validation losses where every run has enough
    of them, else training losses; from after the beginning on.

    Raises:
        FitError: a run's history cannot be told, or a run has no loss after the beginning.
    """
    kinds = set(table.table["loss_kind"].drop_nulls())
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
            return runs
    raise FitError.of("--runs", "no loss", "the logs have too few losses after the beginning")
