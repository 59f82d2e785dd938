"""Which few runs to launch next so that the joint law of N and D is pinned down.

The law log f = c + a log N + b log D is linear, so what a further optimum at (N, D) would add is
known before it is run: its row x = (1, log N, log D) adds x x' / sigma^2 to the information, with
sigma the scatter of single optima around the law. Candidates are chosen under a FLOP budget to make
either the law at one target (N*, D*) or all three parameters as certain as possible. This assumes
that the law holds at the target; no choice of small runs can check that, only an audit can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.laws.power import PowerLaw

RATES_A_CELL = 5
RATE_STEP = 2.0**0.5
"""Learning rates around the predicted optimum that make one cell's quadratic, and their ratio."""


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """Runs to launch at one (N, D).

    Attributes:
        n_params, tokens: the cell.
        rates: learning rates to run there, around the law's optimum.
        flops: of all its runs, 6 N D each.
        log_error: standard error of log f at the target, or of the parameters' geometric mean
            (det^(1/6)), once this cell and those before it are in.
    """

    n_params: float
    tokens: float
    rates: tuple[float, ...]
    flops: float
    log_error: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Cells in the order to launch them.

    Attributes:
        cells: chosen.
        candidates: every candidate with its flops and what it alone would do to `log_error`.
        before, after: `log_error` without any and with all chosen cells.
        flops: of all of them.
        sigma: scatter of a single optimum that was assumed.
    """

    cells: list[PlannedCell]
    candidates: pl.DataFrame
    before: float
    after: float
    flops: float
    sigma: float


def plan_next_runs(
    law: PowerLaw,
    measured: pl.DataFrame,
    candidates: Sequence[tuple[float, float]],
    *,
    budget_flops: float,
    target: tuple[float, float] | None = None,
    sigma: float | None = None,
    rates: int = RATES_A_CELL,
    step: float = RATE_STEP,
    most: int = 6,
) -> Plan:
    """Choose cells for a budget.

    Args:
        law: the present learning-rate law, for the rates to run and for sigma.
        measured: usable optima so far: n_params, tokens.
        candidates: (N, D) pairs that could be run; a pair may be chosen once.
        budget_flops: for all new runs.
        target: (N*, D*) the law is wanted for; None for all its parameters alike.
        sigma: scatter of log eta_opt of one cell; default the law's own, with its freedom.
        rates: learning rates per cell, at least three.
        step: ratio between them.
        most: cells at most.

    Returns:
        The best of two greedy choices (largest gain, largest gain per FLOP), improved by exchanges
        until none helps. Small problems are near their optimum then; it is no proof of it.

    Raises:
        FitError: no candidate fits the budget, or an argument breaks a rule.
    """
    if rates < 3:
        raise FitError.of("rates", rates, "a quadratic needs three", 3)
    if not step > 1:
        raise FitError.of("step", step, "must be above 1", RATE_STEP)
    pairs = np.asarray(list(dict.fromkeys(candidates)), dtype=np.float64).reshape(-1, 2)
    if len(pairs) == 0 or not (np.isfinite(pairs).all() and (pairs > 0).all()):
        raise FitError.of("candidates", len(pairs), "must be (N, D) pairs of positive numbers")
    scatter = _scatter(law) if sigma is None else float(sigma)
    if not scatter > 0:
        raise FitError.of(
            "sigma", scatter, "must be positive; state it where the law has no freedom"
        )
    cost = 6 * pairs.prod(axis=1) * rates
    if cost.min() > budget_flops:
        raise FitError.of(
            "budget_flops", budget_flops, "buys none of the candidates", float(cost.min())
        )
    done = np.log(measured.select("n_params", "tokens").to_numpy().astype(np.float64))
    wanted = None if target is None else np.log(np.asarray(target, dtype=np.float64))
    design = _Design(done, np.log(pairs), wanted, scatter)
    best: list[int] = []
    for per_flop in (False, True):
        found = _exchange(
            design, cost, budget_flops, _greedy(design, cost, budget_flops, per_flop, most)
        )
        if design.error(found) < design.error(best) or not best:
            best = found
    order = _in_order(design, best)
    cells = [
        PlannedCell(
            n_params=float(pairs[i, 0]),
            tokens=float(pairs[i, 1]),
            rates=_rates(law, pairs[i], rates, step),
            flops=float(cost[i]),
            log_error=design.error(order[: place + 1]),
        )
        for place, i in enumerate(order)
    ]
    table = pl.DataFrame(
        {
            "n_params": pairs[:, 0],
            "tokens": pairs[:, 1],
            "flops": cost,
            "log_error_alone": [design.error([i]) for i in range(len(pairs))],
            "chosen": [i in best for i in range(len(pairs))],
        }
    )
    return Plan(
        cells, table, design.error([]), design.error(best), float(cost[best].sum()), scatter
    )


def _scatter(law: PowerLaw) -> float:
    freedom = law.points - (3 if law.with_n else 2)
    return law.rms * float(np.sqrt(law.points / freedom)) if freedom > 0 else 0.0


def _rates(law: PowerLaw, pair: Array, count: int, step: float) -> tuple[float, ...]:
    middle = float(law.at(pair[0], pair[1]))
    return tuple(float(f"{middle * step ** (k - (count - 1) / 2):.3g}") for k in range(count))


class _Design:
    """Information of measured and candidate rows; errors of what is wanted of the law."""

    def __init__(self, done: Array, new: Array, target: Array | None, sigma: float) -> None:
        # Logs are centred on the target, so that the law's error there is the intercept's.
        everything = np.concatenate([done, new])
        centre = everything.mean(axis=0) if target is None else target
        self._new = self._rows(new - centre)
        rows = self._rows(done - centre)
        self._base = rows.T @ rows / sigma**2
        self._all_parameters = target is None
        self._sigma = sigma

    @staticmethod
    def _rows(logs: Array) -> Array:
        return np.concatenate([np.ones((len(logs), 1)), logs], axis=1)

    def error(self, chosen: Sequence[int]) -> float:
        """Standard error with these candidates added; infinite where the law is not determined."""
        rows = self._new[list(chosen)]
        information = self._base + rows.T @ rows / self._sigma**2
        if np.linalg.cond(information) > 1e13:
            return float("inf")
        covariance = np.linalg.inv(information)
        if self._all_parameters:
            return float(np.linalg.det(covariance) ** (1 / 6))
        return float(np.sqrt(covariance[0, 0]))


def _greedy(design: _Design, cost: Array, budget: float, per_flop: bool, most: int) -> list[int]:
    chosen: list[int] = []
    left = budget
    while len(chosen) < most:
        able = [i for i in range(len(cost)) if i not in chosen and cost[i] <= left]
        if not able:
            break
        now = design.error(chosen)
        gain = {i: _gain(now, design.error([*chosen, i])) for i in able}
        pick = max(able, key=lambda i: gain[i] / cost[i] if per_flop else gain[i])
        chosen.append(pick)
        left -= cost[pick]
    return chosen


def _gain(before: float, after: float) -> float:
    if not np.isfinite(after):
        return 0.0
    return np.log(before / after) if np.isfinite(before) else 1e3 - np.log(after)


def _exchange(design: _Design, cost: Array, budget: float, chosen: list[int]) -> list[int]:
    """Swap one chosen cell for one that is not while that lowers the error within the budget."""
    while True:
        best, error = None, design.error(chosen) * (1 - 1e-9)
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            room = budget - cost[rest].sum()
            for i in range(len(cost)):
                if i not in chosen and cost[i] <= room and design.error([*rest, i]) < error:
                    best, error = [*rest, i], design.error([*rest, i])
        if best is None:
            return chosen
        chosen = best


def _in_order(design: _Design, chosen: list[int]) -> list[int]:
    """The chosen cells, each time the one that helps most next."""
    order: list[int] = []
    while len(order) < len(chosen):
        rest = [i for i in chosen if i not in order]
        order.append(min(rest, key=lambda i: design.error([*order, i])))
    return order
