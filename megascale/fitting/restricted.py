"""Fits with priors and linear constraints: each prior is one more residual, each equation one
parameter less.

With noise of known size s the objective is sum w r^2 / s^2 + sum ((p - m) / d)^2 (Gelman et al.,
Bayesian Data Analysis, section 14.8). Where nobody states s it is that of the residuals at the
optimum, s^2 = sum w r^2 / (n - k), with k = trace((J'J + s^2 P)^-1 J'J) parameters that the points
have determined and not the priors: optimum and s are worked out in turn until both stand still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from megascale.fitting.batch_lm import Minima, minimise
from megascale.fitting.callable_outcome import WEAK, unit_covariance
from megascale.fitting.linear_constraint import Elimination
from megascale.fitting.prior import Priors
from megascale.fitting.status import Flag, Status

Array = np.ndarray

FINISHED = 4
"""Starts of each problem, the best of those tried, that are followed to an end."""
TURNS = 40
"""Turns between optimum and noise."""
SETTLED = 1e-9
"""Relative change of the noise's variance that ends them."""
AGREED = 1e-6
EVALUATIONS = 2000


class Model(Protocol):
    """A law over problems, as `solve` takes it.

    Attributes:
        names: of all parameters.
        positive: (parameters,) which can only be positive and are searched in logarithms.
        fixed, lower, upper: (problems, parameters); NaN, -inf and inf where there is none.
        status: (problems,) `Status` of the input, `CONVERGED` where it can be fitted.
        bad_row: (problems,) first row that breaks a rule, or -1.
        points: (problems,) points of positive weight.
        weight: (problems,) sum of the weights.
        total: (problems,) weighted squares about the best constant; NaN where unknown.
    """

    names: tuple[str, ...]
    positive: Array
    fixed: Array
    lower: Array
    upper: Array
    status: Array
    bad_row: Array
    points: Array
    weight: Array
    total: Array

    def residuals(self, rows: Array, values: Array) -> Array:
        """Weighted residuals of problems `rows` at (rows, parameters) values, padded by 0."""
        ...

    def starts(self, priors: Priors | None, elimination: Elimination) -> Array:
        """(starts, problems, parameters) to begin from; NaN where a start is none."""
        ...


@dataclass(frozen=True)
class Restrictions:
    """What was said of the parameters beside their bounds.

    Attributes:
        priors: of parameters, or None.
        elimination: of the parameters that equations determine; of none without equations.
    """

    priors: Priors | None
    elimination: Elimination

    def plain(self, names: tuple[str, ...]) -> dict[str, Any]:
        """As JSON shows them; empty parts are left out."""
        priors = {} if self.priors is None else {"priors": self.priors.plain(names)}
        texts = list(self.elimination.texts)
        return priors | ({"constraints": texts} if texts else {})


@dataclass(frozen=True)
class _Search:
    """Problems in coordinates of the free parameters: logarithms of positive ones."""

    model: Model
    priors: Priors | None
    elimination: Elimination
    lower: Array
    upper: Array

    @classmethod
    def of(cls, model: Model, restrictions: Restrictions) -> _Search:
        free = restrictions.elimination.free
        lower, upper = model.lower[:, free].copy(), model.upper[:, free].copy()
        logs = model.positive[free]
        with np.errstate(divide="ignore"):
            lower[:, logs] = np.log(np.maximum(lower[:, logs], 0.0))
            upper[:, logs] = np.log(np.maximum(upper[:, logs], 0.0))
        return cls(model, restrictions.priors, restrictions.elimination, lower, upper)

    @property
    def logs(self) -> Array:
        return self.model.positive[self.elimination.free]

    def values(self, rows: Array, place: Array) -> Array:
        """(rows, parameters) from coordinates."""
        out = np.where(np.isnan(self.model.fixed[rows]), 0.0, self.model.fixed[rows])
        with np.errstate(over="ignore"):
            out[:, self.elimination.free] = np.where(self.logs, np.exp(place), place)
        return self.elimination.filled(out, rows)

    def place(self, values: Array) -> Array:
        """Coordinates of (rows, parameters) values."""
        own = values[:, self.elimination.free]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.logs, np.log(own), own)

    def slopes(self, values: Array) -> Array:
        """(rows, parameters, free): derivatives of the parameters by the coordinates."""
        free = self.elimination.free
        out = np.zeros((*values.shape, len(free)))
        own = np.where(self.logs, values[:, free], 1.0)
        out[:, free, np.arange(len(free))] = own
        out[:, self.elimination.dependent] = self.elimination.factors * own[:, None, :]
        return out

    def minimise(self, which: Array, place: Array, variance: Array, *, fine: bool) -> Minima:
        """From one place for each entry of `which`, problems' numbers."""
        root = np.sqrt(variance)

        def residuals(rows: Array, at: Array) -> Array:
            own = which[rows]
            values = self.values(own, at)
            left = self.model.residuals(own, values)
            if self.priors is None:
                return left
            pulls = np.nan_to_num(
                self.priors.pulls(values, own), nan=0.0, posinf=1e10, neginf=-1e10
            )
            return np.concatenate([left, root[own][:, None] * pulls], axis=1)

        unit = np.where(self.logs, 1.0, 1e-3 * np.abs(place))
        unit[unit == 0] = 1.0
        return minimise(
            residuals,
            place,
            self.lower[which],
            self.upper[which],
            unit=unit,
            tolerance=1e-15 if fine else 1e-8,
            evaluations=EVALUATIONS,
            central=fine,
        )


def solve(model: Model, restrictions: Restrictions, known_noise: bool) -> dict[str, Any]:
    """The fits of all problems, as the engine would give them.

    Returns:
        The engine's output, with `freedom` (points less the parameters that they determine),
        `prior_objective` (squared deviations from the priors) and `chi_freedom`.
    """
    search = _Search.of(model, restrictions)
    priors, free = restrictions.priors, restrictions.elimination.free
    problems, width = len(model.status), len(model.names)
    least = len(free) + (1 if priors is not None and not known_noise else 0)
    if priors is not None and known_noise:
        least = max(len(free) - int(priors.there.sum()), 1)
    status = model.status.copy()
    status[(status == int(Status.CONVERGED)) & (model.points < least)] = int(Status.TOO_FEW_POINTS)
    raw = _empty(problems, width, model)
    raw["free_params"][:] = len(free)
    able = np.flatnonzero(status == int(Status.CONVERGED))
    if len(able):
        found = _from_starts(search, able, known_noise)
        status[able[~found.there]] = int(Status.NO_FIT)
        _settle(search, able[found.there], found, known_noise, raw)
    raw["status"] = np.where(raw["status"] < 0, status, raw["status"])
    return raw


@dataclass(frozen=True)
class _Found:
    place: Array
    variance: Array
    agreeing: Array
    starts: int
    used: Array
    there: Array


def _from_starts(search: _Search, able: Array, known_noise: bool) -> _Found:
    """The best end of the best starts of every problem, with a first size of the noise."""
    model, free = search.model, search.elimination.free
    begins = model.starts(search.priors, search.elimination)[:, able]
    tries, count = begins.shape[:2]
    flat = begins.reshape(tries * count, -1)
    rows = np.tile(able, tries)
    place = np.clip(search.place(flat), search.lower[rows], search.upper[rows])
    sound = np.isfinite(place).all(axis=1)
    place[~sound] = 0.0
    summed = np.full(len(flat), np.inf)
    if sound.any():
        left = model.residuals(rows[sound], search.values(rows[sound], place[sound]))
        summed[sound] = (left**2).sum(axis=1)
    squares = summed.reshape(tries, count)
    freedom = np.maximum(model.points[able] - len(free), 1)
    first = np.ones(count) if known_noise else squares.min(axis=0) / freedom
    cost = squares
    if search.priors is not None:
        pulls = search.priors.pulls(search.values(rows, place), rows)
        pulled = np.nan_to_num(pulls**2, nan=np.inf).sum(axis=1).reshape(tries, count)
        with np.errstate(invalid="ignore"):
            cost = np.where(np.isfinite(squares), squares + first * pulled, np.inf)
    order = np.argsort(cost, axis=0, kind="stable")[:FINISHED]
    which = np.broadcast_to(np.arange(count), order.shape)
    there = np.isfinite(np.take_along_axis(cost, order, axis=0))
    variance = np.ones(len(model.status))
    variance[able] = np.where(np.isfinite(first), first, 1.0)
    ends = search.minimise(
        able[which[there]],
        place.reshape(tries, count, -1)[order[there], which[there]],
        variance,
        fine=False,
    )
    table = np.full(order.shape, np.inf)
    table[there] = ends.cost
    numbers = np.zeros(order.shape, int)
    numbers[there] = np.arange(there.sum())
    best = np.argmin(table, axis=0)
    pick = numbers[best, np.arange(count)]
    some = there.any(axis=0)
    used = np.zeros(count, np.int64)
    np.add.at(used, which[there], ends.evaluations)
    agreeing = (table <= table.min(axis=0) * (1 + AGREED) + 1e-300).sum(axis=0)
    return _Found(ends.theta[pick[some]], variance, agreeing[some], len(order), used[some], some)


def _settle(
    search: _Search, able: Array, found: _Found, known_noise: bool, raw: dict[str, Any]
) -> None:
    """Optimum and noise in turn, and what follows from both, into the engine's arrays."""
    model, free = search.model, search.elimination.free
    variance, place = found.variance.copy(), found.place.copy()
    turning = np.arange(len(able))
    ends: list[Any] = [None] * len(able)
    last: dict[int, tuple[float, float]] = {}
    for _ in range(TURNS):
        got = search.minimise(able[turning], place[turning], variance, fine=True)
        place[turning] = got.theta
        done = np.ones(len(turning), bool)
        for i, at in enumerate(turning.tolist()):
            problem = int(able[at])
            end = _End.of(search, problem, got, i, variance[problem], known_noise)
            ends[at] = (end, bool(got.success[i]))
            if search.priors is not None and not known_noise:
                before = float(variance[problem])
                done[i] = abs(end.variance - before) <= SETTLED * max(before, 1e-300)
                if not done[i]:
                    variance[problem] = _next_variance(before, end.variance, last, problem)
        turning = turning[~done]
        if not len(turning):
            break
    for at, (end, success) in enumerate(ends):
        p = int(able[at])
        settled = success and at not in turning and end.reached
        raw["status"][p] = int(Status.CONVERGED if settled else Status.MAX_ITERATIONS)
        raw["params"][p] = end.values
        raw["objective"][p] = end.squares
        raw["prior_objective"][p] = end.pulled
        raw["freedom"][p] = end.freedom
        raw["chi_freedom"][p] = model.points[p] + end.priors - len(free)
        raw["rms"][p] = np.sqrt(end.squares / model.weight[p])
        with np.errstate(divide="ignore", invalid="ignore"):
            raw["r_squared"][p] = 1 - end.squares / model.total[p]
        raw["iterations"][p], raw["starts"][p] = found.used[at], found.starts
        raw["agreeing"][p] = found.agreeing[at]
        raw["covariance"][p] = end.covariance[np.tril_indices(len(model.names))]
        flags = end.flags
        if found.starts > 1 and found.agreeing[at] < 2:
            flags |= Flag.STARTS_DISAGREE
        bits = int(flags)
        held = ~np.isnan(model.fixed[p])
        for i in np.flatnonzero(~held)[:16]:
            error = np.sqrt(end.covariance[i, i])
            if not error <= WEAK * abs(end.values[i]):
                bits |= 1 << int(i)
        raw["flags"][p] = bits


def _next_variance(
    before: float, found: float, last: dict[int, tuple[float, float]], problem: int
) -> float:
    """The secant's step of the logarithm towards a variance that is found again."""
    if not (before > 0 and found > 0):
        return found
    at, gap = float(np.log(before)), float(np.log(found / before))
    step = gap
    if problem in last:
        was, other = last[problem]
        if gap != other:
            step = float(np.clip(-gap * (at - was) / (gap - other), -3.0, 3.0))
    last[problem] = (at, gap)
    return float(np.exp(at + step))


@dataclass(frozen=True)
class _End:
    """One problem at its optimum."""

    values: Array
    squares: float
    pulled: float
    priors: int
    freedom: float
    variance: float
    covariance: Array
    flags: Flag
    reached: bool

    @classmethod
    def of(
        cls, search: _Search, p: int, got: Minima, i: int, variance: float, known_noise: bool
    ) -> _End:
        model, priors = search.model, search.priors
        values = search.values(np.array([p]), got.theta[i : i + 1])
        count = 0 if priors is None else int(priors.there.sum())
        points = got.residuals.shape[1] - count
        squares = float((got.residuals[i, :points] ** 2).sum())
        pulls = np.zeros(0) if priors is None else priors.pulls(values, np.array([p]))[0]
        inverse, lost, flags = unit_covariance(
            got.theta[i], search.lower[p], search.upper[p], got.jacobian[i]
        )
        seen = got.jacobian[i, :points]
        inside = np.where(lost, 0.0, 1.0)
        known = np.nan_to_num(inverse) * np.outer(inside, inside)
        determined = float(np.trace(known @ (seen.T @ seen)))
        if priors is None:
            determined = float(len(search.elimination.free))
        freedom = float(model.points[p]) - determined
        if freedom <= 0:
            flags |= Flag.NO_FREEDOM
        size = squares / freedom if freedom > 0 else np.nan
        scale = (1.0 if known_noise else size) if priors is None else variance
        slopes = search.slopes(values)[0]
        with np.errstate(invalid="ignore"):
            covariance = slopes @ (np.nan_to_num(inverse) * scale) @ slopes.T
        gone = (slopes[:, lost] != 0).any(axis=1)
        covariance[gone, :] = covariance[:, gone] = np.nan
        return cls(
            values[0],
            squares,
            float((pulls**2).sum()),
            count,
            freedom,
            size,
            covariance,
            flags,
            bool(np.abs(got.residuals[i]).max(initial=0.0) < 1e9),
        )


def _empty(problems: int, width: int, model: Model) -> dict[str, Any]:
    """The engine's arrays of problems of which nothing is known."""

    def numbers(*shape: int) -> Array:
        return np.full((problems, *shape), np.nan)

    def counts() -> Array:
        return np.zeros(problems, np.int32)

    return {
        "params": numbers(width),
        "covariance": numbers(width * (width + 1) // 2),
        "objective": numbers(),
        "prior_objective": numbers(),
        "rms": numbers(),
        "r_squared": numbers(),
        "freedom": np.zeros(problems),
        "chi_freedom": np.zeros(problems),
        "flags": np.zeros(problems, np.int64),
        "bad_row": model.bad_row.copy(),
        "points": model.points.astype(np.int32),
        "free_params": counts(),
        "iterations": counts(),
        "starts": counts(),
        "agreeing": counts(),
        "status": np.full(problems, -1, np.int64),
    }
