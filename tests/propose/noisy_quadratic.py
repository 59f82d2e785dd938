"""A model that is solved exactly: gradient descent with noise on a quadratic whose spectrum is a
power law. The expected risk of a plan is a recursion, so what a planner promises can be checked."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from megascale.fitting.history_result import HistoryRun
from megascale.propose.schedule_plan import SchedulePlan
from megascale.schedule.lr import LRSchedule

TOKENS, PEAK, FLOOR = 200_000, 0.5, 2.0
EIGEN = np.arange(1, 601.0) ** -1.5
START = 4 * np.arange(1, 601.0) ** -1.6 / EIGEN  # squared distance of each mode: a hard task
NOISE = 30.0


def quadratic_run(plan: SchedulePlan, name: str = "", rows: int = 60) -> HistoryRun:
    """Expected losses of a plan, every step at the learning rate of its middle token."""
    starts = [start for start, _ in plan.batches]
    sizes = [size for _, size in plan.batches]
    square, tokens = START.copy(), 0
    at, losses = [], []
    while tokens < plan.total_tokens:
        batch = sizes[int(np.searchsorted(starts, tokens, side="right")) - 1]
        if tokens + batch > plan.total_tokens:
            break  # a last step that is cut short has more noise than any plan accounts for
        lr = plan.lr.at(tokens + batch / 2)
        square = (1 - lr * EIGEN) ** 2 * square + lr**2 * EIGEN * NOISE / batch
        tokens += batch
        at.append(tokens)
        losses.append(FLOOR + 0.5 * float(EIGEN @ square))
    pick = np.unique(np.linspace(len(at) // 10, len(at) - 1, rows).astype(int))
    return HistoryRun(plan.history(name), np.array(at, float)[pick], np.array(losses)[pick])


def quadratic_loss(plan: SchedulePlan) -> float:
    """The end of `quadratic_run`, in closed form where batch and rate stay."""
    edges = sorted({0, plan.total_tokens, *(start for start, _ in plan.batches)} | _decay(plan))
    starts = [start for start, _ in plan.batches]
    square = START.copy()
    for begin, end in pairwise(edges):
        batch = plan.batches[int(np.searchsorted(starts, begin, side="right")) - 1][1]
        lr = plan.lr.at((begin + end) / 2)
        kept = (1 - lr * EIGEN) ** 2
        steps = (end - begin) / batch
        steady = lr**2 * EIGEN * NOISE / batch / (1 - kept)
        square = steady + kept**steps * (square - steady)
    return FLOOR + 0.5 * float(EIGEN @ square)


def _decay(plan: SchedulePlan) -> set[int]:
    if not plan.lr.decay_tokens:
        return set()
    even = np.linspace(plan.lr.decay_start_tokens, plan.total_tokens, 400)
    return {int(tokens) for tokens in even}


def stable(decay: int = 0, final_ratio: float = 0.1) -> LRSchedule:
    """The model's learning rate: constant, or with a linear decay."""
    return LRSchedule(
        kind="wsd",
        peak=PEAK,
        total_tokens=TOKENS,
        decay_tokens=decay,
        final=PEAK * (final_ratio if decay else 1.0),
    )


def fitted_runs() -> list[HistoryRun]:
    """A few runs: fixed batches, switches, decays."""
    plans = {
        "16": SchedulePlan(((0, 16),), stable()),
        "64": SchedulePlan(((0, 64),), stable()),
        "256": SchedulePlan(((0, 256),), stable()),
        "up": SchedulePlan(((0, 16), (100_000, 128)), stable()),
        "down": SchedulePlan(((0, 64), (100_000, 16)), stable()),
        "short decay": SchedulePlan(((0, 16),), stable(20_000)),
        "long decay": SchedulePlan(((0, 32),), stable(80_000)),
        "up, decay": SchedulePlan(((0, 16), (100_000, 256)), stable(40_000)),
    }
    return [quadratic_run(plan, name) for name, plan in plans.items()]
