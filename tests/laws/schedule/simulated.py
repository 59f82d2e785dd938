"""Runs of stated laws of whole schedules, over schedules, sizes, peaks and weight decays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from megascale.fitting.history import History
from megascale.fitting.history_law import FORMS, NAMES, HistoryLaw
from megascale.fitting.history_result import HistoryRun, Scales, predict_history

TOTAL = 1e6
SCALES = Scales(lr=5e-3, batch=512.0, progress=2000.0, n_params=1e6)
TRUTH = {"L_inf": 1.9, "a": 1.0, "p": 0.4, "c": 0.4, "x": 0.7, "q": 0.35, "tau": 12.0, "kappa": 0.5}
SIZES = {"n_L": 0.05, "n_a": 0.1, "n_c": 0.15}

Plan = tuple[str, Sequence[tuple[float, float]], float]
PLANS: list[Plan] = [
    ("256", [(0, 256)], 0),
    ("1024", [(0, 1024)], 0),
    ("up", [(0, 256), (5e5, 2048)], 0),
    ("down", [(0, 1024), (5e5, 256)], 0),
    ("256 decays", [(0, 256)], 3e5),
    ("1024 decays", [(0, 1024)], 2e5),
]


def planned(
    plan: Plan,
    *,
    n_params: float | None = None,
    peak: float = 5e-3,
    weight_decay: float = 0.0,
    name: str = "",
) -> History:
    """The history of a plan: name, batches, tokens of a decay to a tenth."""
    label, batches, decay = plan

    def lr(tokens: float) -> float:
        fall = 0.9 * max(tokens - (TOTAL - decay), 0) / decay if decay else 0.0
        return peak * min(1.0, tokens / 5e4 + 1e-3) * (1 - fall)

    history = History.of_schedule(
        batches, lr, TOTAL, marks=[5e4, TOTAL - decay] if decay else [5e4], samples=20,
        weight_decay=weight_decay, name=name or label,
    )  # fmt: skip
    return History.of_sections(
        history.tokens, history.batch, history.lr_start, history.lr_end,
        weight_decay=weight_decay, name=history.name, n_params=n_params,
    )  # fmt: skip


def run_of(
    law: str | HistoryLaw,
    truth: Mapping[str, float],
    history: History,
    *,
    scales: Scales = SCALES,
    noise: float = 0.0,
    seed: int = 0,
) -> HistoryRun:
    """Losses of a history by a law, every 25K tokens from 120K on."""
    form = FORMS[law] if isinstance(law, str) else law
    tokens = np.arange(1.25e5, TOTAL + 1, 2.5e4)
    point = np.array([{**form.fixed, **truth}.get(name, 0.0) for name in NAMES])
    loss, _ = predict_history(form, point, history, tokens, scales)
    jitter = noise * np.random.default_rng(seed).normal(size=len(tokens))
    return HistoryRun(history, tokens, loss[0] + jitter)
