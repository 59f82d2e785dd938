"""A law of whole schedules with parameters that are stated, not fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megascale.fitting.history import History
from megascale.fitting.history_law import FORMS, NAMES
from megascale.fitting.history_result import Scales, predict_history
from megascale.laws.schedule.discrepancy import LawDiscrepancy
from megascale.propose.schedule_plan import SchedulePlan
from megascale.propose.seen_ranges import SeenRanges
from megascale.schedule.lr import LRSchedule

SCALES = Scales(lr=5e-3, batch=600.0, progress=1500.0)
POWER = {"L_inf": 1.69, "a": 1.0, "p": 0.35, "c": 0.8, "x": 0.42, "q": 0.25, "tau": 6.8}
POWER |= {"kappa": 0.38}
EXACT = LawDiscrepancy((), 0.0, math.inf)
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
        self.discrepancy = EXACT

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


TOTAL = 1_000_000
PLANS = {
    "c256": (((0, 256),), 0),
    "c1024": (((0, 1024),), 0),
    "up": (((0, 256), (500_000, 2048)), 0),
    "down": (((0, 1024), (500_000, 256)), 0),
    "d256": (((0, 256),), 200_000),
    "d512": (((0, 512),), 400_000),
    "d-up": (((0, 256), (500_000, 1024)), 200_000),
    "d1024": (((0, 1024),), 200_000),
}


def known_plan(batches: tuple[tuple[int, int], ...], decay: int) -> SchedulePlan:
    """A plan of a million tokens at the reference's peak, decay to a tenth."""
    lr = LRSchedule("wsd", 5e-3, TOTAL, 50_000, 0.0, decay, "linear", 5e-4 if decay else 5e-3)
    return SchedulePlan(batches, lr)


def write_known_logs(
    path: Path, *, noise: float = 0.003, seconds: bool = False, seed: int = 1
) -> Path:
    """A table of logs of `PLANS` under the known law, a hundred rows a run, with jitter."""
    rng = np.random.default_rng(seed)
    values = KnownLaw(1).values
    lines = ["run,tokens,batch_tokens,lr,train_loss,validation_loss,seconds"]
    for name, (batches, decay) in PLANS.items():
        plan = known_plan(batches, decay)
        tokens = np.linspace(0, TOTAL, 101)[1:]
        loss = predict_history("power", values, plan.history(), tokens, SCALES)[0][0]
        loss = loss + rng.normal(0, noise, len(loss))
        before = 0.0
        for at, own in zip(tokens, loss, strict=True):
            batch = [size for start, size in batches if start < at][-1]
            took = (at - before) / batch * (0.01 + batch * 1e-5) if seconds else ""
            before = at
            rate = plan.lr.at(at)
            lines.append(f"{name},{int(at)},{batch},{rate:.8g},{own:.5f},{own:.5f},{took}")
    path.write_text("\n".join(lines) + "\n")
    return path
