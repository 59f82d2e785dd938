"""The size of weights along a run: the recursion step by step, and its two numbers found again."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.fitting.weight_norm import LoggedNorm, WeightNorm, fit_weight_norm


def step_by_step(norm: WeightNorm, lr: np.ndarray, decay: np.ndarray, parts: int) -> np.ndarray:
    """Root mean squares after each step, by Euler's rule in many parts of a step."""
    square, out = norm.start**2, []
    for rate, own in zip(lr, decay, strict=True):
        for _ in range(parts):
            square += (norm.growth * rate**2 - 2 * rate * own * square) / parts
        out.append(np.sqrt(square))
    return np.array(out)


@pytest.mark.parametrize("decay", [0.0, 0.1, 5.0])
def test_pieces_follow_the_recursion(decay: float) -> None:
    norm = WeightNorm(0.02, 0.3, 0.1)
    lr = np.concatenate([np.linspace(1e-4, 5e-3, 50), np.full(400, 5e-3), np.full(200, 5e-4)])
    want = step_by_step(norm, lr, np.full(len(lr), decay), 200)
    # Pieces of 400 and 200 steps: their middles are where half the steps are done.
    steps = np.concatenate([np.ones(50), [400.0, 200.0]])
    rates = np.concatenate([lr[:50], [5e-3, 5e-4]])
    got = norm.rms(rates, np.full(len(rates), decay), steps)
    np.testing.assert_allclose(got[-2:], want[[50 + 199, 450 + 99]], rtol=1e-3)
    np.testing.assert_allclose(norm.over_reference(rates, rates * 0, steps) * 0.1,
                               norm.rms(rates, rates * 0, steps))  # fmt: skip


def test_without_updates_weights_only_shrink_and_end_at_equilibrium() -> None:
    still = WeightNorm(0.5, 0.0, 1.0)
    got = still.rms(np.array([1e-2]), np.array([0.1]), np.array([2000.0]))
    assert got[0] == pytest.approx(0.5 * np.exp(-1e-2 * 0.1 * 1000))
    long = WeightNorm(0.5, 0.3, 1.0).rms(np.array([1e-2]), np.array([0.1]), np.array([1e7]))
    assert long[0] == pytest.approx(np.sqrt(0.3 * 1e-2 / (2 * 0.1)))


def test_its_numbers_are_found_in_logged_sizes() -> None:
    truth, rng = WeightNorm(0.03, 0.4, 1.0), np.random.default_rng(0)
    logged = []
    for peak, decay in ((5e-3, 0.1), (5e-3, 0.0), (1e-2, 0.1)):
        lr = np.full(40, peak)
        steps, own = np.full(40, 50.0), np.full(40, decay)
        fine = np.repeat(lr, 50)
        rms = step_by_step(truth, fine, np.full(len(fine), decay), 20)[49::50]
        rms = rms * np.exp(0.01 * rng.normal(size=40))
        rms[::3] = np.nan  # not every one was logged
        logged.append(LoggedNorm(lr, own, steps, rms))
    norm, error = fit_weight_norm(logged)
    assert norm.start == pytest.approx(truth.start, rel=0.05)
    assert norm.growth == pytest.approx(truth.growth, rel=0.02)
    assert error == pytest.approx(0.01, rel=0.3)


def test_too_few_sizes_are_refused() -> None:
    one = LoggedNorm(np.full(3, 1e-3), np.zeros(3), np.ones(3), np.array([1.0, np.nan, 1.0]))
    with pytest.raises(FitError, match="weights_interval_steps"):
        fit_weight_norm([one])
    zero = LoggedNorm(np.full(9, 1e-3), np.zeros(9), np.ones(9), np.zeros(9))
    with pytest.raises(FitError, match="must be positive"):
        fit_weight_norm([zero])
