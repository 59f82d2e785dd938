"""Profile-likelihood limits: how far a parameter can go before the points speak against it.

The other parameters are fitted anew at every value tried, so that the limits follow a bent or an
open valley, where a standard error is 0, infinite, or of the wrong shape. With Gaussian noise of
unknown size a value belongs to the interval while objective <= least (1 + t^2 / freedom), t the
quantile of Student's t; with known noise while objective <= least + z^2 (Bates and Watts 1988,
section 6.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from megascale.errors import FitError
from megascale.fitting.refit import engine_job, refit
from megascale.fitting.shared_refits import HeldParameter, shared_problem

Array = np.ndarray

DOUBLINGS = 14
"""Doublings of the first step before a side counts as open."""
ROUNDS = 40
"""Rounds of regula falsi between a value that the points do not refute and one that they do."""
FAR = 10.0
"""From an end where the root is so much too large the interval is halved."""
CLOSE = 1e-5
"""A limit is found where the root of the growth is that close, in parts of itself."""


def of_any_sign(name: str) -> bool:
    """Whether a parameter may be negative as well as positive, so that it has no logarithm."""
    return name.startswith("exponent_") or name == "c_eb"


def free_problems(result: Any, name: str) -> Array:
    """Problems that do not hold a parameter fixed."""
    fixed = None if result.job is None else result.job.fixed
    if fixed is None:
        return np.ones(len(result), bool)
    return np.isnan(fixed[:, result.names.index(name)])


def profile_limits(
    result: Any, name: str, level: float, which: Array | None = None
) -> tuple[Array, Array]:
    """Lower and upper limits of a parameter, an entry a problem.

    A side on which no value can be refuted is 0, or -inf for a parameter of any sign, and inf.
    NaN for problems that did not converge or whose noise nobody knows (as many parameters as
    points).

    Args:
        result: a `FitResult` of a law of the engine, squared loss.
        name: a parameter; derived quantities cannot be held.
        level: confidence.
        which: the problems; None is all.

    Raises:
        FitError: another law, loss or quantity.
    """
    job = engine_job(result, "kind", shared=True)
    if name not in result.names:
        rule = "a profile is of a parameter, which a refit can hold"
        raise FitError.of("parameter", name, rule, list(result.names))
    at = result.names.index(name)
    value = result.values[:, at]
    freedom = result.freedom
    least = result.objective
    if result.shared:
        least = np.full(len(result), result.objective.sum())
    if result.known_noise:
        allowed = least + stats.norm.ppf(0.5 + level / 2) ** 2
        known = np.ones(len(result), bool)
    else:
        reach = stats.t.ppf(0.5 + level / 2, np.maximum(freedom, 1))
        allowed = least * (1 + reach**2 / np.maximum(freedom, 1))
        known = freedom > 0
    free = free_problems(result, name)
    wanted = np.zeros(len(result), bool)
    wanted[slice(None) if which is None else which] = True
    limits = np.full((2, len(result)), np.nan)
    limits[:, ~free] = value[~free]
    in_logs = (value > 0) & (not of_any_sign(name))
    common = name in result.shared
    if common:
        wanted[:], wanted[0] = False, True
    for logs in (True, False):
        some = np.flatnonzero(wanted & result.solved & known & free & (in_logs == logs))
        if len(some) == 0:
            continue
        search = (_SharedSide if result.shared else _Side)(
            result, job, at, some, allowed[some], least[some], logs
        )
        for side, sign in ((0, -1.0), (1, 1.0)):
            limits[side, some] = search.limit(sign)
    if common:
        limits = np.repeat(limits[:, :1], len(result), axis=1)
    if which is not None:
        limits = limits[:, which]
    return limits[0], limits[1]


class _Side:
    """The search of some problems, in the logarithm of positive parameters."""

    def __init__(
        self,
        result: Any,
        job: Any,
        at: int,
        some: Array,
        allowed: Array,
        least: Array,
        logs: bool,
    ) -> None:
        self.result, self.job, self.at = result, job, at
        self.some, self.allowed, self.least, self.logs = some, allowed, least, logs
        value = result.values[some, at]
        error = result.errors[result.names[at]][some]
        with np.errstate(invalid="ignore", divide="ignore"):
            size = error / np.abs(value) if logs else error
        usual = np.full(len(some), 0.1) if logs else 0.1 * np.maximum(np.abs(value), 1e-12)
        sound = (size > 1e-9 * usual) & (size < 10 * np.maximum(usual, 1e-300))
        self.step = np.where(sound, size, usual)
        self.middle = np.log(value) if logs else value.copy()

    def totals(self, tried: Array, which: Array, thorough: bool) -> Array:
        """The least sums of squares with the parameter held at values.

        Args:
            tried: values of the problems numbered `which`.
            which: numbers among the search's problems.
            thorough: whether the others are searched anew beside a start from the optimum.
        """
        held = np.full((len(which), len(self.result.names)), np.nan)
        held[:, self.at] = tried
        start = self.result.values[self.some[which]].copy()
        start[:, self.at] = tried
        best = np.full(len(which), np.inf)
        for begin in (None, start):
            raw = refit(
                self.job,
                self.result._points,
                self.result._weights,
                self.some[which],
                held=held,
                start=begin,
            )
            best = np.fmin(best, raw["objective"])
        return best

    def excess(self, where: Array, which: Array, thorough: bool) -> Array:
        """How far the root of the growth lies above what is allowed, in parts of that.

        It is nearly a straight line in the parameter; above 0 the points refute the value.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            tried = np.exp(where) if self.logs else where
            grown = np.maximum(self.totals(tried, which, thorough) - self.least[which], 0.0)
            reach = np.maximum(self.allowed[which] - self.least[which], 1e-300)
            found = np.sqrt(grown / reach) - 1
        return np.where(np.isnan(found), np.inf, found)

    def edge(self, sign: float) -> Array:
        """The bound of the fit on this side, in the search's coordinate."""
        table = self.job.lower if sign < 0 else self.job.upper
        if table is None:
            return np.full(len(self.some), sign * np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = table[self.some, self.at]
            if self.logs:
                bound = np.where(bound > 0, np.log(np.maximum(bound, 1e-300)), -np.inf)
        return bound

    def limit(self, sign: float) -> Array:
        """Limits on one side, in the user's units."""
        count = len(self.some)
        inner, outer = self.middle.copy(), np.full(count, np.nan)
        below, above = np.full(count, -1.0), np.full(count, np.inf)
        edge = self.edge(sign)
        step = self.step.copy()
        open_side = np.ones(count, bool)
        for _ in range(DOUBLINGS):
            which = np.flatnonzero(open_side)
            if len(which) == 0:
                break
            tried = self.middle[which] + sign * step[which]
            beyond = sign * (tried - edge[which]) >= 0
            tried = np.where(beyond, edge[which], tried)
            # exp overflows past 700: such a value is as open as infinity.
            out = np.abs(tried) > 690 if self.logs else ~np.isfinite(tried)
            found = np.full(len(which), -1.0)
            if (~out).any():
                found[~out] = self.excess(tried[~out], which[~out], True)
            hit = found > 0
            outer[which[hit]], above[which[hit]] = tried[hit], found[hit]
            stay = ~hit & ~out
            inner[which[stay]], below[which[stay]] = tried[stay], found[stay]
            stuck = beyond & ~hit
            outer[which[stuck]] = inner[which[stuck]] = edge[which[stuck]]
            open_side[which[hit | stuck]] = False
            step[which] *= 2
        closed = np.flatnonzero(~open_side & (inner != outer))
        last = np.zeros(count)
        for _ in range(ROUNDS):
            if len(closed) == 0:
                break
            width = outer[closed] - inner[closed]
            with np.errstate(invalid="ignore"):
                share = -below[closed] / (above[closed] - below[closed])
            share = np.where(above[closed] < FAR, np.clip(share, 0.01, 0.99), 0.5)
            tried = inner[closed] + share * width
            found = self.excess(tried, closed, False)
            hit = found > 0
            outer[closed[hit]], above[closed[hit]] = tried[hit], found[hit]
            inner[closed[~hit]], below[closed[~hit]] = tried[~hit], found[~hit]
            # Illinois: the end that stays twice counts half.
            turn = np.where(hit, 1.0, -1.0)
            again = last[closed] == turn
            below[closed[hit & again]] /= 2
            above[closed[~hit & again]] /= 2
            last[closed] = turn
            narrow = np.abs(outer[closed] - inner[closed]) <= 1e-9 * np.abs(self.step[closed])
            near = np.abs(found) <= CLOSE
            inner[closed[near]] = outer[closed[near]] = tried[near]
            closed = closed[~(near | narrow)]
        found = 0.5 * (inner + outer)
        if self.logs:
            return np.where(open_side, 0.0 if sign < 0 else np.inf, np.exp(found))
        return np.where(open_side, sign * np.inf, found)


class _SharedSide(_Side):
    """The same for problems with parameters in common, whose sum of squares is that of all."""

    def totals(self, tried: Array, which: Array, thorough: bool) -> Array:
        held = HeldParameter(shared_problem(self.result), self.result.values, self.at)
        return held.totals(tried, self.some[which], thorough)
