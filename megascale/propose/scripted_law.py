"""A law of whole schedules as plain data, for a script that predicts by it as `predict` does."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from megascale.errors import DataError
from megascale.fitting.history import GROWTH, RESOLUTION
from megascale.fitting.history_law import NAMES
from megascale.formats.schedule_law_file import ScheduleLawFile
from megascale.formats.student_t import student_reach
from megascale.laws.schedule.discrepancy import JITTER, REACH
from megascale.laws.schedule.outline import (
    LATE,
    OCTAVE_OF_BATCH,
    OCTAVE_OF_PEAK,
    OCTAVE_OF_TOKENS,
    PLACES,
    WHOLE_RATE,
    outline_coordinates,
)
from megascale.propose.prediction import POINTS, WIDENED
from megascale.propose.schedule_law import DRAWS, ScheduleLaw
from megascale.propose.schedule_plan import CURVED, SchedulePlan
from megascale.propose.seen_ranges import SLACK

MOST_DRAWS = 200
"""Draws of a form that are carried; `predict` takes all."""


def law_data(file: ScheduleLawFile, law: ScheduleLaw) -> dict[str, Any]:
    """What the page's script predicts by: parameters, errors and the rules of `predict`.

    Raises:
        DataError: a form that the script does not know.
    """
    own = law.discrepancy
    for fit in law.fits:
        if fit.law.walk or fit.law.sized or fit.law.rate != "given":
            rule = "the page predicts by forms of one size in the learning rate as given, no walk"
            raise DataError.of("law file: form", fit.law.name, rule, "megascale predict")
    each = max(DRAWS, *(len(fit.bootstrap) for fit in law.fits))
    return {
        "name": file.name,
        "loss": file.loss,
        "names": list(NAMES),
        "forms": [
            {
                "name": fit.law.name,
                "about": fit.law.about,
                "kernel": fit.law.kernel,
                "clock": fit.law.clock,
                "excess": fit.law.excess,
                "annealing": fit.law.annealing,
                "saturated": fit.law.saturated,
                "walk": fit.law.walk,
                "growing": fit.law.cuts_growing,
                "lr": fit.scales.lr,
                "batch": fit.scales.batch,
                "progress": fit.scales.progress,
                "table": _table(fit.values, fit.bootstrap, min(each, MOST_DRAWS)),
            }
            for fit in law.fits
        ],
        "cut_draws": each > MOST_DRAWS,
        "seen": asdict(law.seen),
        "from_tokens": law.from_tokens,
        "weight_decay": law.weight_decay,
        "schedules": law.schedules,
        "fitted_runs": law.runs,
        "confidence": file.confidence,
        "reach": student_reach(file.confidence, own.freedom),
        "level_error": law.level_error,
        "difference_error": law.difference_error,
        "discrepancy": {
            "scale": own.scale,
            "jitter": JITTER,
            "reach": REACH,
            "fitted": outline_coordinates(own.outlines).tolist(),
            "precision": own.precision.tolist(),
            "weights": own.weights.tolist(),
        },
        "rules": {
            "resolution": RESOLUTION,
            "growth": GROWTH,
            "curved": CURVED,
            "points": POINTS,
            "slack": SLACK,
            "widen": WIDENED,
            "places": PLACES,
            "late": LATE,
            "distances": [OCTAVE_OF_BATCH, WHOLE_RATE, OCTAVE_OF_PEAK, OCTAVE_OF_TOKENS],
        },
    }


def _table(values: Any, bootstrap: Any, count: int) -> list[list[float]]:
    """The best parameters, then replicates, as `FitDraws` takes them."""
    if not len(bootstrap):
        return [values.tolist()] * count
    rest = bootstrap[np.arange(count - 1) % len(bootstrap)]
    return np.vstack([values[None], rest]).tolist()


def plan_data(plan: SchedulePlan) -> dict[str, Any]:
    """A plan as the page's script takes one."""
    return {
        "total": plan.total_tokens,
        "batches": [list(part) for part in plan.batches],
        "peak": plan.lr.peak,
        "warmup": plan.lr.warmup_tokens,
        "decay": plan.lr.decay_tokens,
        "shape": plan.lr.decay_shape,
        "final_ratio": plan.lr.final / plan.lr.peak,
    }
