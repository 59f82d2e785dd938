"""Profile intervals: the closed form of a linear parameter, coverage, and sides that are open."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import FORMS, NAMES
from megascale.fitting.history_profile import profile_interval
from megascale.fitting.history_result import HistoryRun, Scales, predict_history
from megascale.formats.student_t import student_reach

SCALES = Scales(lr=5e-3, batch=512.0, progress=1500.0)
TRUTH = {"L_inf": 2.0, "a": 1.1, "p": 0.4, "c": 0.3, "x": 0.8, "q": 0.4, "tau": 40.0}
LAW = FORMS["exponential"]
POINT = np.array([{**LAW.fixed, **TRUTH}[name] for name in NAMES])


def independent_runs(seed: int, batches: tuple[int, ...] = (256, 1024)) -> list[HistoryRun]:
    """Runs with and without a decay, jitter of 0.01 that is not correlated."""
    rng = np.random.default_rng(seed)
    out = []
    for batch in batches:
        for final in (1.0, 0.1):

            def lr(tokens: float, final: float = final) -> float:
                return 5e-3 * (1 - (1 - final) * max(tokens - 8e5, 0) / 2e5)

            name = f"{batch} {final}"
            history = History.of_schedule([(0, batch)], lr, 1e6, marks=[8e5], samples=20, name=name)
            tokens = np.arange(1e5, 1.0001e6, 25e3)
            loss, _ = predict_history(LAW, POINT, history, tokens, SCALES)
            noise = 0.01 * rng.normal(size=len(tokens))
            out.append(HistoryRun(history, tokens, loss[0] + noise))
    return out


def test_of_a_linear_parameter_it_is_the_closed_form() -> None:
    """With all else held but a, L_inf's profile is that of linear regression."""
    held = {name: TRUTH[name] for name in ("p", "c", "x", "q", "tau")}
    runs = independent_runs(0)
    fit = fit_history(LAW.holding(**held), runs, starts=1, scales=SCALES)
    rows = []
    for run in runs:
        _, slopes = predict_history(
            LAW, fit.values, run.history, run.tokens, SCALES, gradients=True
        )
        rows.append(slopes[0, [NAMES.index("L_inf"), NAMES.index("a")]])
    design = np.concatenate(rows, axis=1).T
    variance = fit.objective / (fit.points - 2)
    error = np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])
    reach = student_reach(0.9, len(runs) - 1)
    low, high = profile_interval(fit, runs, "L_inf")
    assert low == pytest.approx(fit["L_inf"] - reach * error, abs=0.01 * error)
    assert high == pytest.approx(fit["L_inf"] + reach * error, abs=0.01 * error)


def test_intervals_hold_the_truth() -> None:
    held = 0
    for seed in range(12):
        runs = independent_runs(seed)
        fit = fit_history(LAW, runs, starts=2, scales=SCALES)
        for name in ("x", "tau"):
            low, high = profile_interval(fit, runs, name)
            held += low <= TRUTH[name] <= high
    assert held >= 20  # of 24 at 90 %


def test_what_the_runs_do_not_bound_is_open() -> None:
    """One batch alone says nothing about the exponent of the batch."""
    runs = independent_runs(0, (512,))
    fit = fit_history(LAW, runs, starts=2, scales=SCALES)
    low, high = profile_interval(fit, runs, "q")
    assert (low, high) == (-0.5, 3.0)  # the form's own bounds
    with pytest.raises(FitError, match="not free"):
        profile_interval(fit, runs, "u")
    assert math.isfinite(profile_interval(fit, runs, "x")[1])
