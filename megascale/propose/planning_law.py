"""A law for the planner straight from logs: several forms fitted to whole runs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from megascale.errors import FitError
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_result import HistoryFit, HistoryRun
from megascale.laws.schedule.histories import runs_of_table
from megascale.laws.schedule.select import folds
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

LEAST_FOLDS = 3
"""Of so many runs or fewer none is left out."""

LEAST_VALIDATIONS = 8
"""Validation losses are fitted where each run has as many after the beginning."""

DRAWS = 40
"""Of each form: the best parameters and bootstrap replicates of whole runs."""


MOST_FOLDS = 12
"""Runs that are left out at most, evenly chosen, where the intervals are held against them."""


def law_of_logs(
    table: RunTable,
    *,
    weight_decay: float | None = None,
    forms: Sequence[str] | None = None,
    calibrate: bool = True,
    progress: Callable[[str], None] | None = None,
) -> FitDraws:
    """Fit forms of the law of whole schedules to logs, each with a bootstrap over runs.

    Args:
        table: of the logs.
        weight_decay: of all runs; None where it is not known, and no form looks at it.
        forms: names; default `FORMS_OF_LOGS`.
        calibrate: widen the intervals to what left-out runs ask for.
        progress: told what is being done.

    Raises:
        FitError: fewer than three runs, runs whose histories cannot be told, or too few losses.
    """
    said = progress or (lambda _: None)
    names = forms or tuple(f for f in FORMS_OF_LOGS if f != "w0" or weight_decay is not None)
    runs, _, _ = fittable_runs(table, weight_decay=weight_decay or 0.0)
    if len(runs) < 3:
        rule = "a law of whole schedules needs at least three: fixed batches, a switch and a decay"
        raise FitError.of("--runs", f"{len(runs)} runs", rule)
    fits = []
    for name in names:
        said(f"fitting {name} to {len(runs)} runs")
        fits.append(fit_history(name, runs, starts=24, bootstrap=DRAWS))
    seen = SeenRanges.of_histories([run.history for run in runs])
    inflation = 1.0
    if calibrate and len(runs) > LEAST_FOLDS:
        said(f"holding the intervals against {min(len(runs), MOST_FOLDS)} runs left out")
        inflation = held_out_inflation(names, runs)
    return FitDraws(fits, seen, each=DRAWS, inflation=inflation)


def held_out_inflation(
    forms: Sequence[str], runs: Sequence[HistoryRun], *, level: float = 0.9
) -> float:
    """How much wider the intervals of paired differences must be to hold left-out runs.

    Each run is left out in turn (seeds of one schedule together), and its end minus every other
    run's is predicted. The factor is the conformal quantile, at `level`, of the errors over the
    distance from the mean of the predicted interval to its end (arXiv 2005.07972, normalised);
    at least 1. A measured end is the mean of a run's last tenth against the fit to all runs, with
    the jitter that is left of it. A run has one seed's noise too, which is in no interval: the
    factor is on the safe side.

    Args:
        forms: names of the forms that the draws are taken of.
        runs: histories and losses, at least four.
        level: of the intervals.
    """
    groups = folds(runs, "schedule")
    picked = np.unique(np.linspace(0, len(groups) - 1, min(len(groups), MOST_FOLDS)).astype(int))
    histories = [run.history for run in runs]
    ends, jitter = _measured_ends(fit_history(forms[0], runs, starts=8), runs)
    seen = SeenRanges.of_histories(histories)
    ratios: list[float] = []
    for group in (groups[i] for i in picked):
        rest = [run for i, run in enumerate(runs) if i not in group]
        fits = [fit_history(form, rest, starts=8, bootstrap=DRAWS) for form in forms]
        losses = FitDraws(fits, seen, each=DRAWS).end_losses(histories)
        for left in group:
            for other in (i for i in range(len(runs)) if i not in group):
                gap = losses[:, left] - losses[:, other]
                low, high = np.quantile(gap, [0.5 - level / 2, 0.5 + level / 2])
                error = ends[left] - ends[other] - gap.mean()
                width = high - gap.mean() if error > 0 else gap.mean() - low
                ratios.append(abs(error) / float(np.hypot(width, jitter[left] + jitter[other])))
    rank = min(level * (1 + 1 / len(ratios)), 1.0)
    return float(max(1.0, np.quantile(ratios, rank, method="higher")))


def _measured_ends(fit: HistoryFit, runs: Sequence[HistoryRun]) -> tuple[np.ndarray, np.ndarray]:
    """(loss, standard error) at each run's end, by the points of its last tenth, at least three,
    against a fit's curve."""
    ends, errors = [], []
    for run, residual in zip(runs, fit.residuals, strict=True):
        last = float(np.max(run.tokens))
        count = max(3, int(np.sum(run.tokens > 0.9 * last)))
        tail = residual[-count:]
        ends.append(float(fit.predict(run.history, [last]).loss[0] - tail.mean()))
        errors.append(float(tail.std(ddof=1) / np.sqrt(len(tail))) if len(tail) > 1 else 0.0)
    return np.array(ends), np.array(errors)


def fittable_runs(
    table: RunTable, *, weight_decay: float = 0.0
) -> tuple[list[HistoryRun], str, float]:
    """Histories with the losses that a law can hold: validation losses where every run has enough
    of them, else training losses; from after the beginning on.

    Returns:
        The runs, the kind of loss, and the tokens from which losses are taken.

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
            return runs, kind, begin
    raise FitError.of("--runs", "no loss", "the logs have too few losses after the beginning")
