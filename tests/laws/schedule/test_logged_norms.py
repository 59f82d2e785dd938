"""The learning rate over the weights' size: read from logs, fitted, and carried to other runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import FORMS
from megascale.fitting.weight_norm import WeightNorm, fit_weight_norm
from megascale.laws.schedule.logged_norms import norm_of_history, sizes_of_log
from tests.laws.schedule.simulated import PLANS, SCALES, TRUTH, planned, run_of

NORM = WeightNorm(0.02, 0.9, 0.13)
LAW = {**TRUTH, "a": 0.8}
SETTINGS = [(5e-3, 0.1), (5e-3, 0.0), (3e-3, 0.1)]
UNSEEN = [(8e-3, 0.1), (5e-3, 0.4), (3e-3, 0.0)]


def runs_at(settings: list[tuple[float, float]], plans: list) -> list:
    scales = replace(SCALES, norm=NORM)
    return [
        run_of(
            "effective", LAW,
            planned(plan, peak=peak, weight_decay=decay, name=f"{plan[0]} {peak} {decay}"),
            scales=scales, noise=0.003, seed=i,
        )
        for i, (peak, decay) in enumerate(settings)
        for plan in plans
    ]  # fmt: skip


def test_the_effective_rate_carries_over_peaks_and_weight_decays() -> None:
    """Where noise and progress go with LR over weight size, the form in the rate alone does not
    predict another peak or weight decay, and the effective one does."""
    runs, unseen = runs_at(SETTINGS, PLANS), runs_at(UNSEEN, PLANS[:1] + PLANS[4:5])
    errors = {}
    for form in ("effective", "power"):
        fit = fit_history(form, runs, starts=6, norm=NORM if form == "effective" else None)
        ends = [fit.predict(one.history, one.tokens[-1:]).loss[0] - one.loss[-1] for one in unseen]
        errors[form] = float(np.sqrt(np.mean(np.square(ends))))
    assert errors["effective"] < 0.01
    assert errors["power"] > 4 * errors["effective"]


def test_logged_sizes_give_the_recursion_back(tmp_path: Path) -> None:
    """Through a log of ours: token counts between sections, a torn line, other keys."""
    logged = []
    for number, (peak, decay) in enumerate(SETTINGS):
        history = planned(PLANS[4], peak=peak, weight_decay=decay)
        at = np.arange(2e4, 1e6 + 1, 2e4)
        whole = norm_of_history(history, at, np.ones(len(at)))
        mean = NORM.rms(whole.lr, whole.weight_decay, whole.steps)
        path = tmp_path / f"{number}.jsonl"
        middle = np.interp(at, np.cumsum(whole.steps) * 256 - whole.steps * 128, mean)
        lines = [json.dumps({"tokens": int(t), "weight_rms_matrices": r, "loss": 1.0})
                 for t, r in zip(at, middle, strict=True)]  # fmt: skip
        path.write_text('{"schema": "x"}\n' + "\n".join(lines) + '\n{"weight_rms_matrices": 0.')
        tokens, rms = sizes_of_log(path)
        assert len(tokens) == len(at)
        logged.append(norm_of_history(history, tokens, rms))
    norm, error = fit_weight_norm(logged)
    assert norm.growth == pytest.approx(NORM.growth, rel=0.05)
    assert error < 0.03


def test_the_form_needs_the_weights_size() -> None:
    runs = runs_at(SETTINGS[:1], PLANS)
    with pytest.raises(FitError, match="WeightNorm"):
        fit_history("effective", runs, starts=2)
    assert FORMS["effective"].cuts_growing
