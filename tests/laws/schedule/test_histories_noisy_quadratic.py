"""A model that is solved exactly: gradient descent with noise on a quadratic whose spectrum is a
power law. Its risk under any schedule is a recursion, so what the law predicts can be checked."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.fitting.history import History
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import FORMS
from megascale.fitting.history_result import HistoryRun

TOKENS, PEAK, FLOOR = 200_000, 0.5, 2.0
EIGEN = np.arange(1, 2001.0) ** -1.5
START = 4 * np.arange(1, 2001.0) ** -1.6 / EIGEN  # squared distance of each mode: a hard task
NOISE = 30.0


def exact(name: str, batches: list[tuple[int, int]], decay: int = 0) -> HistoryRun:
    """Losses of one schedule: expected risk after steps spread evenly in tokens."""
    starts, sizes = zip(*batches, strict=True)
    square, tokens = START.copy(), 0
    at, lrs, used, losses = [0], [], [], []
    while tokens < TOKENS:
        batch = sizes[np.searchsorted(starts, tokens, side="right") - 1]
        middle = tokens + batch / 2
        lr = PEAK * min(1.0, max(TOKENS - middle, 0) / decay * 0.9 + 0.1 if decay else 1.0)
        square = (1 - lr * EIGEN) ** 2 * square + lr**2 * EIGEN * NOISE / batch
        tokens += batch
        at.append(tokens)
        lrs.append(lr)
        used.append(batch)
        losses.append(FLOOR + 0.5 * np.sum(EIGEN * square))
    history = History.of_sections(at, used, lrs, name=name)
    pick = np.unique(np.linspace(len(losses) // 10, len(losses) - 1, 60).astype(int))
    return HistoryRun(history, np.array(at[1:], float)[pick], np.array(losses)[pick])


@pytest.fixture(scope="module")
def runs() -> dict[str, HistoryRun]:
    plans: dict[str, tuple[list[tuple[int, int]], int]] = {
        "16": ([(0, 16)], 0),
        "64": ([(0, 64)], 0),
        "256": ([(0, 256)], 0),
        "up": ([(0, 16), (100_000, 128)], 0),
        "down": ([(0, 64), (100_000, 16)], 0),
        "decay": ([(0, 16)], 40_000),
        "late": ([(0, 16), (160_000, 128)], 0),
        "ramp": ([(0, 16), (50_000, 32), (100_000, 64), (150_000, 128)], 0),
        "ramp, decay": ([(0, 16), (50_000, 32), (100_000, 64)], 40_000),
    }
    return {name: exact(name, *plan) for name, plan in plans.items()}


def test_a_law_fitted_to_six_schedules_predicts_three_others(runs: dict[str, HistoryRun]) -> None:
    law = FORMS["power"].holding(r=0.0)  # plain gradient descent: progress is the sum of rates
    unseen = ["late", "ramp", "ramp, decay"]
    fit = fit_history(law, [run for name, run in runs.items() if name not in unseen], starts=8)
    for name in unseen:
        run = runs[name]
        off = fit.predict(run.history, run.tokens).loss - run.loss
        excess = run.loss[-1] - FLOOR
        assert abs(off[-1]) < 0.01 * excess, (name, off[-1], excess)
    ends = {name: fit.predict(runs[name].history, [TOKENS]).loss[0] for name in runs}
    best = min(ends, key=ends.__getitem__)
    assert best == min(runs, key=lambda name: runs[name].loss[-1])
    assert fit["p"] == pytest.approx((1.6 - 1) / 1.5, abs=0.02)  # task over capacity exponent
    assert fit["kappa"] == pytest.approx(1 - 1 / 1.5, abs=0.05)  # arXiv 2509.19189
    assert fit["q"] == pytest.approx(1.0, abs=0.05)
    assert fit["x"] == pytest.approx(1.0, abs=0.15)
