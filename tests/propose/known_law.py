"""A law of whole schedules with parameters that are stated, not fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megascale.fitting.history import History
from megascale.fitting.history_law import FORMS, NAMES
from megascale.fitting.history_result import Scales, predict_history
from megascale.propose.seen_ranges import SeenRanges

SCALES = Scales(lr=5e-3, batch=600.0, progress=1500.0)
POWER = {"L_inf": 1.69, "a": 1.0, "p": 0.35, "c": 0.8, "x": 0.42, "q": 0.25, "tau": 6.8}
POWER |= {"kappa": 0.38}
WIDE = SeenRanges(2e6, (64, 8192), (64, 8192), (1e-3, 2e-2), (0.02, 0.9), (0.01, 1.0))


class KnownLaw:
    """Draws of the form `power` whose parameters scatter about those of twelve measured runs."""

    def __init__(self, draws: int = 6, *, scatter: float = 0.03, seed: int = 0, **changes: float):
        center = np.array([{**FORMS["power"].fixed, **POWER, **changes}[name] for name in NAMES])
        self.values = np.repeat(center[None], draws, axis=0)
        free = [NAMES.index(name) for name in ("a", "p", "c", "q", "x", "tau")]
        noise = np.random.default_rng(seed).normal(0, scatter, (draws - 1, len(free)))
        self.values[1:, free] *= np.exp(noise)
        self.forms = ("power",) * draws
        self.seen = WIDE

    def end_losses(
        self, histories: Sequence[History], rows: np.ndarray | None = None
    ) -> np.ndarray:
        values = self.values if rows is None else self.values[rows]
        return np.array(
            [
                predict_history("power", values, one, [one.total_tokens], SCALES)[0][:, 0]
                for one in histories
            ]
        ).T
