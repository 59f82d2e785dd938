"""Correlated residuals: whitening against the covariance itself, and seeds that differ."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import FORMS, NAMES
from megascale.fitting.history_result import HistoryRun, Scales, predict_history
from megascale.fitting.history_seeds import (
    SeedErrors,
    estimate_seed_errors,
    fit_correlated,
    run_shapes,
    with_seed_errors,
)
from megascale.fitting.history_whitening import whitened

SCALES = Scales(lr=5e-3, batch=512.0, progress=1500.0)
TRUTH = {"L_inf": 2.0, "a": 1.1, "p": 0.4, "c": 0.3, "x": 0.8, "q": 0.4, "tau": 40.0}
LAW = FORMS["exponential"]
POINT = np.array([{**LAW.fixed, **TRUTH}[name] for name in NAMES])
TRUE = SeedErrors(jitter=0.01, memory_tokens=6e4, rate=0.1, delay=20.0)


def seeded_runs(seed: int, errors: SeedErrors = TRUE, seeds: int = 3) -> list[HistoryRun]:
    """Runs of five schedules, each with seeds of their own rate, delay and correlated jitter."""
    rng = np.random.default_rng(seed)
    plans = [
        ([(0, 256)], 1.0), ([(0, 1024)], 1.0), ([(0, 256), (5e5, 2048)], 1.0), ([(0, 256)], 0.1),
        ([(0, 1024)], 0.1),
    ]  # fmt: skip
    out = []
    for number, (batch, final) in enumerate(plans):

        def lr(tokens: float, final: float = final) -> float:
            return 5e-3 * (1 - (1 - final) * max(tokens - 8e5, 0) / 2e5)

        for own in range(seeds):
            name = f"{number} {own}"
            history = History.of_schedule(batch, lr, 1e6, marks=[8e5], samples=20, name=name)
            tokens = np.arange(1e5, 1.0001e6, 25e3)
            loss, slopes = predict_history(LAW, POINT, history, tokens, SCALES, gradients=True)
            by_delay = slopes[0, NAMES.index("T0")]
            progress = SCALES.progress * slopes[0, NAMES.index("a")] ** (-1 / TRUTH["p"])
            gap = np.abs(tokens[:, None] - tokens[None, :])
            matrix = errors.jitter**2 * np.exp(-gap / errors.memory_tokens)
            moved = errors.rate * rng.normal() * progress + errors.delay * rng.normal()
            jitter = np.linalg.cholesky(matrix + 1e-14 * np.eye(len(gap))) @ rng.normal(
                size=len(gap)
            )
            out.append(HistoryRun(history, tokens, loss[0] + jitter + moved * by_delay))
    return out


def covariance(run: HistoryRun, shape: np.ndarray, errors: SeedErrors) -> np.ndarray:
    """Of a run's residuals, over the jitter's variance, by its definition."""
    gap = np.abs(run.tokens[:, None] - run.tokens[None, :])
    spread = np.array([errors.rate, errors.delay]) / errors.jitter
    return np.exp(-gap / errors.memory_tokens) + (shape.T * spread**2) @ shape


def test_whitened_residuals_are_those_of_the_covariance() -> None:
    runs = seeded_runs(1)
    fit = fit_history(LAW, runs, starts=4, scales=SCALES)
    rng = np.random.default_rng(0)
    for run, shape in zip(with_seed_errors(runs, fit, TRUE), run_shapes(fit, runs), strict=True):
        matrix = covariance(run, shape, TRUE)
        left, right = rng.normal(size=(2, len(run.loss)))
        flat = [whitened(run.kept, run.common, v) for v in (left, right)]
        assert flat[0] @ flat[1] == pytest.approx(left @ np.linalg.solve(matrix, right), rel=1e-8)


def test_the_engine_minimises_the_correlated_sum() -> None:
    """Generalised least squares by scipy on the dense covariance has the same optimum."""
    runs = seeded_runs(2)
    first = fit_history(LAW, runs, starts=4, scales=SCALES)
    runs = with_seed_errors(runs[::-1], first, TRUE)  # in no particular order
    fit = fit_history(LAW, runs, starts=4, scales=SCALES)
    roots = [
        np.linalg.cholesky(covariance(run, shape, TRUE))
        for run, shape in zip(runs, run_shapes(first, runs), strict=True)
    ]
    free = [NAMES.index(name) for name in LAW.free]

    def residuals(point: np.ndarray) -> np.ndarray:
        values = fit.values.copy()
        values[free] = point
        out = []
        for run, root in zip(runs, roots, strict=True):
            loss, _ = predict_history(LAW, values, run.history, run.tokens, SCALES)
            out.append(np.linalg.solve(root, loss[0] - run.loss))
        return np.concatenate(out)

    here = residuals(fit.values[free])
    assert here @ here == pytest.approx(fit.objective, rel=1e-8)
    best = least_squares(residuals, fit.values[free], x_scale=np.abs(fit.values[free]) + 0.1)
    assert 2 * best.cost == pytest.approx(fit.objective, rel=1e-6)


def test_sizes_are_found_again() -> None:
    runs = seeded_runs(3, seeds=12)
    _, found = fit_correlated(LAW, runs, starts=4, scales=SCALES)
    assert found.jitter == pytest.approx(TRUE.jitter, rel=0.2)
    assert found.memory_tokens == pytest.approx(TRUE.memory_tokens, rel=0.4)
    assert found.rate == pytest.approx(TRUE.rate, rel=0.4)


def test_parameters_are_surer_when_seeds_are_nuisance() -> None:
    """Over six studies: errors of x and q, which every run knows within itself, get smaller."""
    plain, known = [], []
    places = [NAMES.index(name) for name in ("x", "q")]
    for seed in range(6):
        runs = seeded_runs(seed)
        fit = fit_history(LAW, runs, starts=4, scales=SCALES)
        better, _ = fit_correlated(LAW, runs, starts=4, scales=SCALES)
        plain.append((fit.values - POINT)[places])
        known.append((better.values - POINT)[places])
    assert np.sqrt(np.mean(np.square(known))) < 0.7 * np.sqrt(np.mean(np.square(plain)))


def test_too_few_points_to_estimate_are_refused() -> None:
    runs = seeded_runs(1)
    fit = fit_history(LAW, runs, starts=2, scales=SCALES)
    with pytest.raises(FitError, match="at least two runs"):
        estimate_seed_errors(fit, runs[:1])
