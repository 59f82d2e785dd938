"""Errors drawn from the residuals of whole runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from megascale.laws.run_errors import draw_run_errors, residual_tables

RUNS, TARGETS = 9, 4
OWNER = np.tile(np.arange(RUNS), TARGETS)
GROUP = np.repeat(np.arange(TARGETS), RUNS)
SETTING = np.zeros(TARGETS, dtype=np.int64)


def drawn(residuals: np.ndarray, count: int = 4000, spare: float = 7.0) -> np.ndarray:
    spares = np.full(TARGETS, spare)
    return draw_run_errors(
        residuals, OWNER, GROUP, SETTING, unit=np.ones(RUNS * TARGETS), left=spares, spare=spares,
        count=count, seed=0,
    ).draws  # fmt: skip


def test_targets_of_a_run_correlate_as_its_residuals_do() -> None:
    rng = np.random.default_rng(0)
    table = np.linalg.cholesky(0.9 + 0.1 * np.eye(TARGETS)) @ rng.standard_normal((TARGETS, RUNS))
    draws = drawn(table.ravel()).reshape(-1, TARGETS, RUNS)
    expected = table @ table.T / 7.0
    within = np.einsum("ctr,cur->tu", draws, draws) / draws.shape[0] / RUNS
    assert within == pytest.approx(expected, rel=0.1)
    between = np.einsum("ct,cu->tu", draws[:, :, 0], draws[:, :, 1]) / len(draws)
    assert np.abs(between).max() < 0.1 * expected.max()


def test_any_sum_over_targets_follows_student_t_whatever_the_correlation() -> None:
    """Multivariate regression: a line per target, one design, errors shared by each run."""
    rng = np.random.default_rng(1)
    x = np.stack([np.ones(RUNS), np.linspace(-1, 1, RUNS)], axis=1)
    solver = np.linalg.pinv(x)
    for shared in (0.0, 0.7, 1.0):
        z = []
        for _ in range(400):
            common = rng.standard_normal(RUNS)
            noise = shared * common + np.sqrt(1 - shared**2) * rng.standard_normal((TARGETS, RUNS))
            theta = noise @ solver.T
            left = noise - theta @ x.T
            draws = drawn(left.ravel(), count=300).reshape(-1, TARGETS, RUNS)
            slope = (draws @ solver.T)[:, :, 1].sum(axis=1)
            z.append(theta[:, 1].sum() / slope.std())
        held = np.mean(np.abs(z) < stats.t.ppf(0.95, RUNS - 2))
        assert 0.85 < held < 0.95, shared


def test_units_and_settings() -> None:
    rng = np.random.default_rng(2)
    unit = np.where(OWNER == 0, 10.0, 1.0)
    residual = unit * rng.standard_normal(len(OWNER))
    spare = np.full(TARGETS, 7.0)
    errors = draw_run_errors(
        residual, OWNER, GROUP, SETTING, unit=unit, left=spare, spare=spare, count=2000, seed=0
    )
    spread = errors.draws.std(axis=0)
    assert spread[OWNER == 0].mean() == pytest.approx(10 * spread[OWNER != 0].mean(), rel=0.05)
    assert errors.freedom.tolist() == [7.0] * TARGETS
    one = residual_tables(residual, OWNER, GROUP, np.array([0, 0, 1, 1]))
    assert [table.shape for table in one] == [(RUNS, 2), (RUNS, 2)]


def test_without_freedom_the_expected_size_is_drawn() -> None:
    spare = np.zeros(TARGETS)
    errors = draw_run_errors(
        np.zeros(len(OWNER)), OWNER, GROUP, SETTING, unit=np.full(len(OWNER), 0.02), left=spare,
        spare=spare, count=4000, seed=0,
    )  # fmt: skip
    assert errors.draws.std() == pytest.approx(0.02, rel=0.02)
    assert errors.freedom.tolist() == [1.0] * TARGETS
