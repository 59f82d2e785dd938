"""Which form of the law predicts schedules it has not seen: never by how well it fits.

Fitted rms and held-out error rank the forms in opposite order, so forms are compared by runs that
are left out: each schedule in turn, all runs whose learning rate decays at once, the longest, or
each model size in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import HistoryLaw, find_form
from megascale.fitting.history_result import HistoryRun

LEAST_SIZES = 3
"""Model sizes that are needed to leave one out."""

HoldOut = Literal["schedule", "decays", "longest", "size"]
HOLD_OUTS = ("schedule", "decays", "longest", "size")


@dataclass(frozen=True, slots=True)
class HeldOutSchedule:
    """How a form predicts what it was not fitted to.

    Attributes:
        law: name of the form.
        kind: what was left out.
        ends: predicted minus measured last loss of each run left out, nats.
        end_error: their root mean square.
        curve_error: root mean square over all points of those runs.
        rank: Spearman's correlation of predicted and measured ends; NaN for fewer than three.
        fitted_rms: of the fit to all runs, for comparison only.
    """

    law: str
    kind: str
    ends: dict[str, float]
    end_error: float
    curve_error: float
    rank: float
    fitted_rms: float


def has_decay(history: History) -> bool:
    """Whether the learning rate ends below nine tenths of its peak."""
    return bool(history.lr_end[-1] < 0.9 * history.peak)


def folds(runs: Sequence[HistoryRun], kind: HoldOut) -> list[list[int]]:
    """Indices of the runs that are left out together.

    `schedule`: runs of one and the same history (seeds) leave together. `decays`: all that decay.
    `longest`: all whose history is longer than nine tenths of the longest. `size`: each model size
    in turn, of three or more: powers of N need two to be fitted.

    Raises:
        FitError: nothing could be left out, or nothing would be left to fit.
    """
    if kind not in HOLD_OUTS:
        raise FitError.of("hold_out", kind, "must be one of " + ", ".join(HOLD_OUTS), "schedule")
    if kind == "schedule":
        same: dict[tuple[Any, ...], list[int]] = {}
        for i, run in enumerate(runs):
            same.setdefault(_shape(run.history), []).append(i)
        out = list(same.values())
    elif kind == "decays":
        out = [[i for i, run in enumerate(runs) if has_decay(run.history)]]
    elif kind == "size":
        sizes = sorted({run.history.n_params or 0.0 for run in runs})
        if len(sizes) < LEAST_SIZES:
            rule = f"leaves out one of {len(sizes)} sizes: powers of N need two others"
            raise FitError.of("hold_out", kind, rule, "schedule")
        out = [[i for i, run in enumerate(runs) if run.history.n_params == n] for n in sizes]
    else:
        longest = max(run.history.total_tokens for run in runs)
        out = [[i for i, run in enumerate(runs) if run.history.total_tokens > 0.9 * longest]]
    if any(not 0 < len(fold) < len(runs) for fold in out):
        raise FitError.of(
            "hold_out",
            kind,
            f"leaves out {len(out[0])} of {len(runs)} runs: add runs of another schedule",
            [other for other in HOLD_OUTS if other != kind],
        )
    return out


def held_out(
    law: str | HistoryLaw, runs: Sequence[HistoryRun], kind: HoldOut = "schedule", **options: Any
) -> HeldOutSchedule:
    """Fit a form without each fold and predict it.

    Args:
        law: form or its name.
        runs: histories and losses.
        kind: what to leave out.
        **options: of `fit_history`.

    Raises:
        FitError: as `folds` and `fit_history`.
    """
    form = find_form(law)
    ends: dict[str, float] = {}
    predicted, measured, squares = [], [], []
    for fold in folds(runs, kind):
        fit = fit_history(form, [run for i, run in enumerate(runs) if i not in fold], **options)
        for i in fold:
            run = runs[i]
            off = fit.predict(run.history, run.tokens).loss - run.loss
            last = int(np.argmax(run.tokens))
            ends[run.name or str(i)] = float(off[last])
            predicted.append(run.loss[last] + off[last])
            measured.append(run.loss[last])
            squares.append(off**2)
    return HeldOutSchedule(
        law=form.name,
        kind=kind,
        ends=ends,
        end_error=float(np.sqrt(np.mean(np.square(list(ends.values()))))),
        curve_error=float(np.sqrt(np.mean(np.concatenate(squares)))),
        rank=_spearman(np.array(predicted), np.array(measured)),
        fitted_rms=fit_history(form, runs, **options).rms,
    )


def select_history_law(
    laws: Sequence[str | HistoryLaw],
    runs: Sequence[HistoryRun],
    kind: HoldOut = "schedule",
    **options: Any,
) -> list[HeldOutSchedule]:
    """Forms by their error at the ends of runs that were left out, the best first.

    Raises:
        FitError: as `held_out`.
    """
    return sorted((held_out(law, runs, kind, **options) for law in laws), key=_end_error)


def _end_error(result: HeldOutSchedule) -> float:
    return result.end_error


def _shape(history: History) -> tuple[Any, ...]:
    """What schedules of the same shape have in common, logged at other tokens or not."""
    at = np.linspace(0, history.total_tokens, 41)[1:-1]
    section = np.searchsorted(history.tokens, at, side="right") - 1
    begin, end = history.tokens[section], history.tokens[section + 1]
    share = (at - begin) / (end - begin)
    lr = history.lr_start[section] * (1 - share) + history.lr_end[section] * share
    return (
        round(np.log(history.total_tokens), 1),
        tuple(history.batch[section].round(0)),
        tuple(np.round(lr / history.peak, 2)),
        float(f"{history.peak:.2g}"),
        float(f"{np.mean(history.weight_decay):.2g}"),
    )


def _spearman(left: np.ndarray, right: np.ndarray) -> float:
    if len(left) < 3:
        return float("nan")
    first, second = (np.argsort(np.argsort(side)).astype(float) for side in (left, right))
    return float(np.corrcoef(first, second)[0, 1])
