"""The section of the law of whole schedules: the law as data, runs beside what it says of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from megascale.formats.schedule_law_file import ScheduleLawFile
from megascale.propose.predicted_runs import PredictedRun, best_fixed_batch, predict_runs
from megascale.propose.schedule_law import ScheduleLaw
from megascale.propose.scripted_law import law_data, plan_data
from megascale.report.curves import STAIRS_DRAWN
from megascale.runs.table import RunTable

POINTS_A_RUN = 160
"""Measured losses of a run that are drawn."""


def schedule_law_section(file: ScheduleLawFile, table: RunTable | None) -> dict[str, Any]:
    """A law of whole schedules: what the page needs to predict by it, and its runs.

    Args:
        file: as it was read.
        table: the report's logs; None where there are none.

    Raises:
        DataError: the law has a form that this version does not know.
    """
    law = ScheduleLaw.of_file(file)
    runs: list[PredictedRun] = []
    left_out: list[tuple[str, str]] = []
    if table is not None:
        hashes = {one.sha256 for one in file.inputs}
        runs, left_out = predict_runs(law, table, confidence=file.confidence, inputs=hashes)
    return {
        **law_data(file, law),
        "best_fixed": plan_data(best_fixed_batch(law)),
        "runs": [_run(run) for run in runs],
        "left_out": [{"run": run, "reason": reason} for run, reason in left_out],
        "verdict": runs_verdict(runs, file.confidence),
    }


def _run(run: PredictedRun) -> dict[str, Any]:
    said, history = run.predicted, run.predicted.history
    every = -(-len(run.tokens) // POINTS_A_RUN)
    at = np.unique(np.append(np.arange(0, len(run.tokens), every), len(run.tokens) - 1))
    return {
        "run": said.name,
        "fitted": run.fitted,
        "tokens": run.tokens[at].tolist(),
        "loss": _short(run.loss[at]),
        "batches": _stairs(history.tokens[:-1], history.batch),
        "rate": _line(history.tokens, np.append(history.lr_start, history.lr_end[-1])),
        "total": history.total_tokens,
        "steps": said.steps,
        "measured": run.measured,
        "inside": run.inside,
        "end": asdict(said.end),
        "curve": {
            "tokens": said.tokens.tolist(),
            **{name: _short(getattr(said, name)) for name in ("loss", "low", "high")},
        },
    }


def _short(values: Any) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def _stairs(starts: Any, batch: Any) -> list[list[float]]:
    """[start, batch] where the batch changes, thinned if there are very many."""
    keep = np.flatnonzero(np.diff(batch, prepend=np.nan) != 0)
    keep = keep[:: -(-len(keep) // STAIRS_DRAWN)]
    return np.column_stack([starts[keep], batch[keep]]).tolist()


def _line(tokens: Any, rate: Any) -> dict[str, list[float]]:
    """A learning rate at the places where it bends, up to rounding of a log."""
    slope = np.diff(rate) / np.diff(tokens)
    scale = rate.max() / tokens[-1]
    bends = 1 + np.flatnonzero(np.abs(np.diff(slope)) > 1e-3 * scale)
    keep = np.unique(np.concatenate([[0], bends, [len(tokens) - 1]]))
    keep = keep[:: -(-len(keep) // STAIRS_DRAWN)]
    return {"tokens": tokens[keep].tolist(), "lr": _short(rate[keep])}


def runs_verdict(runs: list[PredictedRun], confidence: float) -> str:
    """How many runs that the law had not seen end where it said; of none, of those it was fitted
    to."""
    if not runs:
        return ""
    unseen = [run for run in runs if run.fitted is False]
    judged = unseen or runs
    kind = "runs that the law was not fitted to" if unseen else "runs"
    many = f"{sum(run.inside for run in judged)} of {len(judged)} {kind}"
    worst = max(abs(run.measured - run.predicted.end.value) for run in judged)
    return (
        f"{many} end within the predicted {100 * confidence:.0f} % interval; the farthest is "
        f"off by {worst:.3f} nats."
    )
