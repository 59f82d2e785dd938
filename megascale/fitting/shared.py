"""Parameters that all problems of a call have in common, beside those of their own.

For given values of the common ones the engine fits the rest, all problems in one call; what is
left is a sum of squares in few unknowns (variable projection, Golub and Pereyra 1973). It is
searched over what each problem says by itself and a grid around, and finished by Gauss-Newton on
the normal equations of all parameters, whose arrow shape leaves a small matrix once each problem's
own block is eliminated. That matrix gives the errors too: of all problems' residuals together, so
that problems of as many points as parameters, or fewer, have errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.catalogue import Law
from megascale.fitting.points import Points
from megascale.fitting.refit import EngineJob, refit
from megascale.fitting.residuals import law_residuals
from megascale.fitting.status import BAD_INPUT, Flag, Status

Array = np.ndarray

NEAR = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Factors of the grid around the problems' own median."""
NEAREST = (0.5, 1.0, 2.0)
"""The same where three or more are in common."""
FAR = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
"""Factors around 1 where no problem can be fitted by itself."""
MOST_OWN = 16
"""Problems whose own values are tried."""
FINISHED = 3
"""Of the values tried, those from which Gauss-Newton starts."""
STEPS, TRIALS = 60, 14
DIFFERENCE = 1e-5
WEAK = 0.5


@dataclass(frozen=True)
class SharedProblem:
    """Problems of a law with some parameters in common.

    Attributes:
        law: of the engine, as the user names it.
        job: how the engine is asked.
        points, weights: of all problems.
        which: numbers of the common parameters.
    """

    law: Law
    job: EngineJob
    points: Points
    weights: Array | None
    which: tuple[int, ...]

    @property
    def problems(self) -> int:
        """How many problems there are."""
        return len(self.points.offsets) - 1

    def fitted(self, common: Array, start: Array | None = None) -> dict[str, Any]:
        """The engine's fits of all problems with the common parameters held.

        Args:
            common: (tries, common parameters); the output has the tries outermost.
            start: (problems, parameters) of one try.
        """
        tries = len(common)
        held = np.full((tries * self.problems, len(self.law.params)), np.nan)
        for k, at in enumerate(self.which):
            held[:, at] = np.repeat(common[:, k], self.problems)
        which = np.tile(np.arange(self.problems), tries)
        if start is not None:
            start = np.where(np.isnan(held), start, held)
        return refit(self.job, self.points, self.weights, which, held=held, start=start)

    def totals(self, common: Array) -> Array:
        """Sum of all problems' squared residuals for every try; infinite where one has no fit."""
        objective = self.fitted(common)["objective"].reshape(len(common), self.problems).sum(axis=1)
        return np.where(np.isnan(objective), np.inf, objective)


def fit_shared(problem: SharedProblem, known_noise: bool) -> dict[str, Any]:
    """The fits with common parameters, as the engine would give them.

    Returns:
        The engine's output, with the covariance of each problem's parameters, common ones
        included, and `freedom`, the degrees of freedom of all problems together.

    Raises:
        FitError: a problem's points break a rule.
    """
    tried = _candidates(problem)
    totals = problem.totals(tried)
    ends = []
    for at in np.argsort(totals, kind="stable")[:FINISHED]:
        if np.isfinite(totals[at]):
            ends.append(_descend(problem, tried[at], float(totals[at])))
    if not ends:
        raw = problem.fitted(tried[:1])
        for status, words in BAD_INPUT.items():
            hits = np.flatnonzero(raw["status"] == int(status))
            if len(hits):
                raise FitError(f"problem {int(hits[0])}: the fit {words}.")
        raise FitError.of("shared", _names(problem), "no values of these fit all problems")
    best = min(ends, key=lambda end: end[0])
    raw = best[1]
    agreeing = sum(end[0] <= best[0] * (1 + 1e-6) for end in ends)
    raw["starts"][:], raw["agreeing"][:] = len(ends), agreeing
    return _finished(problem, raw, known_noise)


def _names(problem: SharedProblem) -> list[str]:
    return [problem.law.params[at] for at in problem.which]


def _candidates(problem: SharedProblem) -> Array:
    """(tries, common parameters) to begin with, inside their bounds."""
    raw = refit(problem.job, problem.points, problem.weights, np.arange(problem.problems))
    own = raw["params"][raw["status"] == int(Status.CONVERGED)][:, list(problem.which)]
    own = own[np.isfinite(own).all(axis=1)]
    factors: tuple[float, ...] = FAR
    if len(own):
        middle, factors = np.median(own, axis=0), NEAR if len(problem.which) < 3 else NEAREST
        picked = own[np.linspace(0, len(own) - 1, min(len(own), MOST_OWN)).astype(int)]
    else:
        middle = np.ones(len(problem.which))
        picked = np.empty((0, len(problem.which)))
    grid = middle * np.array(list(product(factors, repeat=len(problem.which))))
    return _clipped(problem, np.concatenate([picked, grid]))


def _clipped(problem: SharedProblem, common: Array) -> Array:
    for table, clip in ((problem.job.lower, np.maximum), (problem.job.upper, np.minimum)):
        if table is not None:
            common = clip(common, table[0, list(problem.which)])
    return common


def _descend(problem: SharedProblem, common: Array, total: float) -> tuple[float, dict[str, Any]]:
    """Gauss-Newton with damping on the common parameters; the rest is the engine's."""
    raw = problem.fitted(common[None])
    damping = 0.0
    for _ in range(STEPS):
        arrow = Arrow.of(problem, raw)
        matrix, slope = arrow.reduced()
        scale = np.diag(np.maximum(np.diag(matrix), 1e-300))
        moved = False
        for _ in range(TRIALS):
            step = -np.linalg.lstsq(matrix + damping * scale, slope, rcond=None)[0]
            promised = -float(step @ (2 * slope + matrix @ step))
            if promised <= 1e-12 * total:
                return total, raw
            trial = _clipped(problem, arrow.moved(common, step)[None])
            found = problem.fitted(trial, raw["params"])
            cost = float(found["objective"].sum())
            if cost < total:
                moved = True
                break
            damping = max(10 * damping, 1e-3)
        if not moved:
            return total, raw
        gained, total, raw, common = total - cost, cost, found, trial[0]
        damping = damping / 10 if gained > 0.3 * promised else damping
    raw["status"][raw["status"] == int(Status.CONVERGED)] = int(Status.MAX_ITERATIONS)
    return total, raw


@dataclass(frozen=True)
class Arrow:
    """Normal equations of all parameters, in logarithms of positive ones.

    Attributes:
        own: (problems, P, P) blocks of each problem's own parameters; rows of others are 0.
        across: (problems, P, k) between those and the common ones.
        common: (k, k).
        slope: (problems, P) and (k,): transposed Jacobian times residuals.
        scale: (problems, P) derivative of a parameter by its coordinate.
    """

    own: Array
    across: Array
    common: Array
    slope: tuple[Array, Array]
    scale: Array
    which: tuple[int, ...]

    @classmethod
    def of(cls, problem: SharedProblem, raw: dict[str, Any]) -> Arrow:
        """At a fit of all problems."""
        values, names = raw["params"], problem.law.params
        scale = np.where(values > 0, values, 1.0)
        sizes = np.diff(problem.points.offsets)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        root = 1.0 if problem.weights is None else np.sqrt(problem.weights)

        def residuals(rows: Array) -> Array:
            params = {name: rows[owner, i] for i, name in enumerate(names)}
            found = law_residuals(
                problem.law, problem.job.residual, params, list(problem.points.x), problem.points.y
            )
            return root * found

        jacobian = np.zeros((len(owner), len(names)))
        active = _active(problem, values)
        for i in range(len(names)):
            step = DIFFERENCE * scale[:, i]
            up, down = values.copy(), values.copy()
            up[:, i] += step
            down[:, i] -= step
            jacobian[:, i] = (residuals(up) - residuals(down)) / (2 * DIFFERENCE)
        jacobian = np.nan_to_num(jacobian, posinf=0.0, neginf=0.0)
        left = np.nan_to_num(residuals(values), posinf=0.0, neginf=0.0)
        common = jacobian[:, list(problem.which)]
        mine = jacobian * active[owner]
        starts = problem.points.offsets[:-1]

        def summed(rows: Array) -> Array:
            return np.add.reduceat(rows, starts, axis=0)

        return cls(
            summed(mine[:, :, None] * mine[:, None, :]),
            summed(mine[:, :, None] * common[:, None, :]),
            common.T @ common,
            (summed(mine * left[:, None]), common.T @ left),
            scale,
            problem.which,
        )

    @property
    def inverse(self) -> Array:
        """(problems, P, P) inverses of the own blocks; 0 in the rows of others."""
        size = np.sqrt(np.maximum(np.einsum("gii->gi", self.own), 1e-300))
        scaled = self.own / (size[:, :, None] * size[:, None, :])
        return np.linalg.pinv(scaled, rcond=1e-13, hermitian=True) / (
            size[:, :, None] * size[:, None, :]
        )

    def reduced(self) -> tuple[Array, Array]:
        """Matrix and slope of the common parameters once the own ones are eliminated."""
        pull = np.einsum("gpk,gpq->gkq", self.across, self.inverse)
        matrix = self.common - np.einsum("gkq,gql->kl", pull, self.across)
        slope = self.slope[1] - np.einsum("gkq,gq->k", pull, self.slope[0])
        return matrix, slope

    def moved(self, common: Array, step: Array) -> Array:
        """Common parameters after a step of their coordinates."""
        return np.where(common > 0, common * np.exp(np.clip(step, -2, 2)), common + step)

    def covariance(self) -> Array:
        """(problems, P, P) of each problem's own and the common parameters, per unit variance."""
        matrix, _ = self.reduced()
        common = np.linalg.pinv(matrix, hermitian=True)
        inverse = self.inverse
        pulled = np.einsum("gpq,gqk->gpk", inverse, self.across)
        out = inverse + np.einsum("gpk,kl,gql->gpq", pulled, common, pulled)
        some = np.array(self.which)
        cross = -np.einsum("gpk,kl->gpl", pulled, common)
        out[:, :, some] = cross
        out[:, some, :] = np.swapaxes(cross, 1, 2)
        out[np.ix_(np.arange(len(out)), some, some)] = common
        return out * self.scale[:, :, None] * self.scale[:, None, :]


def _active(problem: SharedProblem, values: Array) -> Array:
    """(problems, P): own parameters that are free and on no bound."""
    active = np.ones(values.shape, bool)
    active[:, list(problem.which)] = False
    job = problem.job
    if job.fixed is not None:
        active &= np.isnan(job.fixed)
    for table in (job.lower, job.upper):
        if table is not None:
            active &= ~(np.abs(values - table) <= 1e-9 * np.abs(values))
    return active


def _finished(problem: SharedProblem, raw: dict[str, Any], known_noise: bool) -> dict[str, Any]:
    """The engine's output with errors of all parameters together."""
    arrow = Arrow.of(problem, raw)
    active, values, count = _active(problem, raw["params"]), raw["params"], len(problem.which)
    freedom = int(raw["points"].sum() - raw["free_params"].sum()) - count
    variance = 1.0
    if not known_noise:
        variance = float(raw["objective"].sum()) / freedom if freedom > 0 else np.nan
    covariance = arrow.covariance() * variance
    held = (
        np.zeros(values.shape, bool) if problem.job.fixed is None else ~np.isnan(problem.job.fixed)
    )
    lost = ~active & ~held
    lost[:, list(problem.which)] = False
    covariance[lost[:, :, None] | lost[:, None, :]] = np.nan
    rows, columns = np.tril_indices(values.shape[1])
    raw["covariance"] = covariance[:, rows, columns]
    raw["derived_errors"] = derived_errors(problem.law, values, covariance)
    raw["freedom"] = np.full(problem.problems, freedom)
    error = np.sqrt(np.einsum("gii->gi", covariance))
    with np.errstate(invalid="ignore"):
        weak = ~(error <= WEAK * np.abs(values)) & ~held
    flags = raw["flags"].astype(np.int64) & ~((1 << 16) - 1)
    if freedom > 0:
        flags &= ~int(Flag.NO_FREEDOM)
    raw["flags"] = flags | (weak << np.arange(values.shape[1])).sum(axis=1)
    return raw


def derived_errors(law: Law, values: Array, covariance: Array) -> Array:
    """Standard errors of derived quantities, by differences in the logarithm."""
    if not law.derived:
        return np.empty((len(values), 0))
    gradient = np.empty((values.shape[1], len(values), len(law.derived)))
    for i in range(values.shape[1]):
        step = DIFFERENCE * np.where(values[:, i] == 0, 1.0, np.abs(values[:, i]))
        up, down = values.copy(), values.copy()
        up[:, i] += step
        down[:, i] -= step
        ends = [_engine.derive(law.index, np.ascontiguousarray(side)) for side in (up, down)]
        gradient[i] = (ends[0] - ends[1]) / (2 * step[:, None])
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.einsum("ign,gij,jgn->gn", gradient, covariance, gradient))
