"""A law of whole schedules as plain data, for a script that predicts by it as `predict` does."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from megascale.fitting.history import GROWTH, RESOLUTION
from megascale.formats.schedule_law_file import ScheduleLawFile
from megascale.formats.student_t import student_reach
from megascale.propose.prediction import POINTS, WIDENED
from megascale.propose.schedule_law import DRAWS, ScheduleLaw
from megascale.propose.schedule_plan import CURVED, SchedulePlan
from megascale.propose.seen_ranges import SLACK

MOST_DRAWS = 200
"""Draws of a form that are carried; `predict` takes all."""


def law_data(file: ScheduleLawFile, law: ScheduleLaw) -> dict[str, Any]:
    """What the page's script predicts by: parameters, errors and the rules of `predict`."""
    each = max(DRAWS, *(len(fit.bootstrap) for fit in law.fits))
    return {
        "name": file.name,
        "loss": file.loss,
        "names": list(file.forms[0].parameters),
        "forms": [
            {
                "name": fit.law.name,
                "about": fit.law.about,
                "kernel": fit.law.kernel,
                "clock": fit.law.clock,
                "excess": fit.law.excess,
                "annealing": fit.law.annealing,
                "saturated": fit.law.saturated,
                **asdict(fit.scales),
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
        "reach": student_reach(file.confidence, max(law.schedules - 1, 1)),
        "level_error": law.level_error,
        "difference_error": law.difference_error,
        "rules": {
            "resolution": RESOLUTION,
            "growth": GROWTH,
            "curved": CURVED,
            "points": POINTS,
            "slack": SLACK,
            "widen": WIDENED,
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
