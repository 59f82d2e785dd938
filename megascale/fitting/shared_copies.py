"""Problems with parameters in common, many times over: other targets, or other values held.

For given values of the common parameters the engine fits the rest, the problems of all copies in
one call. The common ones are moved by Gauss-Newton on the normal equations of all parameters, whose
arrow shape leaves a small matrix once each problem's own block is eliminated (Golub and Pereyra
1973); all copies take their steps together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from megascale.fitting.catalogue import Law
from megascale.fitting.points import Points
from megascale.fitting.refit import EngineJob, refit
from megascale.fitting.residuals import law_residuals

Array = np.ndarray

STEPS, TRIALS = 60, 14
DIFFERENCE = 1e-5
ENOUGH = 1e-12
"""A step that promises a smaller part of the sum of squares is not taken."""


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

    def clipped(self, common: Array) -> Array:
        """Common parameters within their bounds."""
        for table, clip in ((self.job.lower, np.maximum), (self.job.upper, np.minimum)):
            if table is not None:
                common = clip(common, table[0, list(self.which)])
        return common


@dataclass(frozen=True)
class Copies:
    """A shared problem several times.

    Attributes:
        problem: what is copied.
        x: (inputs, copies, points).
        y: (copies, points).
        held: (copies, problems, parameters) values to hold beside the common ones; NaN where free.
        moving: (common parameters,) which of them may move.
    """

    problem: SharedProblem
    x: Array
    y: Array
    held: Array
    moving: Array

    @classmethod
    def of(cls, problem: SharedProblem, count: int) -> Copies:
        """So many of the same."""
        points = problem.points
        shape = (count, problem.problems, len(problem.law.params))
        return cls(
            problem,
            np.broadcast_to(points.x[:, None, :], (len(points.x), count, len(points.y))),
            np.broadcast_to(points.y, (count, len(points.y))),
            np.full(shape, np.nan),
            np.ones(len(problem.which), bool),
        )

    def some(self, rows: Array) -> Copies:
        """Those of some numbers."""
        return replace(self, x=self.x[:, rows], y=self.y[rows], held=self.held[rows])

    def fitted(self, common: Array, start: Array | None = None) -> dict[str, Any]:
        """The engine's fits with the common parameters held, the copies outermost.

        Args:
            common: (copies, common parameters).
            start: (copies, problems, parameters), the only start; None searches.
        """
        problem, count = self.problem, len(common)
        held = self.held.copy()
        held[:, :, list(problem.which)] = common[:, None, :]
        sizes = np.diff(problem.points.offsets)
        offsets = np.concatenate([[0], np.cumsum(np.tile(sizes, count))]).astype(np.int64)
        points = Points(
            np.ascontiguousarray(self.x.reshape(len(self.x), -1)),
            np.ascontiguousarray(self.y.reshape(-1)),
            offsets,
            None,
            None,
            False,
        )
        every = np.arange(count * problem.problems)
        wide = len(problem.law.params)
        if start is not None:
            start = np.where(np.isnan(held), start, held).reshape(-1, wide)
        return refit(
            problem.job,
            points,
            None if problem.weights is None else np.tile(problem.weights, count),
            every,
            held=held.reshape(-1, wide),
            start=start,
            of=every % problem.problems,
        )

    def table(self, raw: dict[str, Any], name: str) -> Array:
        """An output of `fitted` with the copies in front: (copies, problems, ...)."""
        return raw[name].reshape(-1, self.problem.problems, *raw[name].shape[1:])


@dataclass
class Ends:
    """Where the copies ended.

    Attributes:
        params: (copies, problems, parameters).
        objective: (copies, problems); NaN where a copy has no fit.
        settled: (copies,) whether no step promised or brought anything more.
    """

    params: Array
    objective: Array
    settled: Array

    @property
    def totals(self) -> Array:
        """(copies,) sums of squares of all problems; infinite where there is no fit."""
        summed = self.objective.sum(axis=1)
        return np.where(np.isnan(summed), np.inf, summed)


def descend(copies: Copies, common: Array, start: Array | None = None) -> Ends:
    """Gauss-Newton with damping on the common parameters of every copy; the rest is the engine's.

    Args:
        copies: what is fitted.
        common: (copies, common parameters) to begin from.
        start: (copies, problems, parameters) for the others; None searches them.
    """
    problem = copies.problem
    raw = copies.fitted(common, start)
    params, objective = copies.table(raw, "params").copy(), copies.table(raw, "objective").copy()
    common, count = common.copy(), len(common)
    ends = Ends(params, objective, np.ones(count, bool))
    total, damping = ends.totals, np.zeros(count)
    alive = np.flatnonzero(np.isfinite(total))
    for _ in range(STEPS):
        if not len(alive):
            return ends
        arrow = Arrow.of(copies.some(alive), params[alive])
        matrix, slope = arrow.reduced()
        size = np.maximum(np.einsum("rkk->rk", matrix), 1e-300)
        left, moved = np.arange(len(alive)), np.zeros(len(alive), bool)
        for _ in range(TRIALS):
            rows = alive[left]
            root = np.sqrt(size[left])
            unit = matrix[left] / (root[:, :, None] * root[:, None, :])
            unit[:, range(len(root[0])), range(len(root[0]))] += damping[rows, None]
            step = -np.einsum(
                "rkl,rl->rk", np.linalg.pinv(unit, rcond=1e-13, hermitian=True), slope[left] / root
            )
            step /= root
            ahead = 2 * slope[left] + np.einsum("rkl,rl->rk", matrix[left], step)
            promised = -np.einsum("rk,rk->r", step, ahead)
            worth = promised > ENOUGH * total[rows]
            left, rows, step = left[worth], rows[worth], step[worth]
            promised = promised[worth]
            if not len(left):
                break
            trial = problem.clipped(arrow.moved(common[rows], step))
            found = copies.some(rows).fitted(trial, params[rows])
            cost = copies.table(found, "objective").sum(axis=1)
            better = cost < total[rows]
            taken = rows[better]
            gained = total[taken] - cost[better]
            params[taken] = copies.table(found, "params")[better]
            objective[taken] = copies.table(found, "objective")[better]
            total[taken], common[taken] = cost[better], trial[better]
            well = gained > 0.3 * promised[better]
            damping[taken] = np.where(well, damping[taken] / 10, damping[taken])
            worse = rows[~better]
            damping[worse] = np.maximum(10 * damping[worse], 1e-3)
            moved[left[better]] = True
            left = left[~better]
            if not len(left):
                break
        alive = alive[moved]
    ends.settled[alive] = False
    return ends


@dataclass(frozen=True)
class Arrow:
    """Normal equations of all parameters, in logarithms of positive ones.

    Attributes:
        own: (copies, problems, P, P) blocks of own parameters; rows of others are 0.
        across: (copies, problems, P, k) between those and the common ones.
        common: (copies, k, k).
        slope: (copies, problems, P) and (copies, k): transposed Jacobian times residuals.
        scale: (copies, problems, P) derivative of a parameter by its coordinate.
        which: numbers of the common parameters.
    """

    own: Array
    across: Array
    common: Array
    slope: tuple[Array, Array]
    scale: Array
    which: tuple[int, ...]

    @classmethod
    def of(cls, copies: Copies, values: Array) -> Arrow:
        """At (copies, problems, parameters) values."""
        problem, names = copies.problem, copies.problem.law.params
        scale = np.where(values > 0, values, 1.0)
        sizes = np.diff(problem.points.offsets)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        root = 1.0 if problem.weights is None else np.sqrt(problem.weights)

        def residuals(rows: Array) -> Array:
            params = {name: rows[:, owner, i] for i, name in enumerate(names)}
            found = law_residuals(
                problem.law, problem.job.residual, params, list(copies.x), copies.y
            )
            return np.nan_to_num(root * found, posinf=0.0, neginf=0.0)

        jacobian = np.zeros((len(values), len(owner), len(names)))
        for i in range(len(names)):
            step = DIFFERENCE * scale[:, :, i]
            up, down = values.copy(), values.copy()
            up[:, :, i] += step
            down[:, :, i] -= step
            jacobian[:, :, i] = (residuals(up) - residuals(down)) / (2 * DIFFERENCE)
        left = residuals(values)
        common = jacobian[:, :, list(problem.which)] * copies.moving
        mine = jacobian * active(problem, values, copies.held)[:, owner]
        starts = problem.points.offsets[:-1]

        def summed(rows: Array) -> Array:
            return np.add.reduceat(rows, starts, axis=1)

        return cls(
            summed(mine[..., :, None] * mine[..., None, :]),
            summed(mine[..., :, None] * common[..., None, :]),
            np.einsum("rnk,rnl->rkl", common, common),
            (summed(mine * left[..., None]), np.einsum("rnk,rn->rk", common, left)),
            scale,
            problem.which,
        )

    @property
    def inverse(self) -> Array:
        """Inverses of the own blocks; 0 in the rows of others."""
        size = np.sqrt(np.maximum(np.einsum("rgii->rgi", self.own), 1e-300))
        unit = size[..., :, None] * size[..., None, :]
        return np.linalg.pinv(self.own / unit, rcond=1e-13, hermitian=True) / unit

    def reduced(self) -> tuple[Array, Array]:
        """Matrix and slope of the common parameters once the own ones are eliminated."""
        pull = np.einsum("rgpk,rgpq->rgkq", self.across, self.inverse)
        matrix = self.common - np.einsum("rgkq,rgql->rkl", pull, self.across)
        slope = self.slope[1] - np.einsum("rgkq,rgq->rk", pull, self.slope[0])
        return matrix, slope

    def moved(self, common: Array, step: Array) -> Array:
        """Common parameters after a step of their coordinates."""
        return np.where(common > 0, common * np.exp(np.clip(step, -2, 2)), common + step)

    def covariance(self) -> Array:
        """(problems, P, P) of the first copy's parameters, per unit variance."""
        matrix = self.reduced()[0][0]
        common = np.linalg.pinv(matrix, hermitian=True)
        inverse = self.inverse[0]
        pulled = np.einsum("gpq,gqk->gpk", inverse, self.across[0])
        out = inverse + np.einsum("gpk,kl,gql->gpq", pulled, common, pulled)
        some = np.array(self.which)
        cross = -np.einsum("gpk,kl->gpl", pulled, common)
        out[:, :, some] = cross
        out[:, some, :] = np.swapaxes(cross, 1, 2)
        out[np.ix_(np.arange(len(out)), some, some)] = common
        scale = self.scale[0]
        return out * scale[:, :, None] * scale[:, None, :]


def active(problem: SharedProblem, values: Array, held: Array) -> Array:
    """(copies, problems, P): own parameters that are free and on no bound."""
    out = np.isnan(held)
    out[..., list(problem.which)] = False
    job = problem.job
    if job.fixed is not None:
        out &= np.isnan(job.fixed)
    for table in (job.lower, job.upper):
        if table is not None:
            out &= ~(np.abs(values - table) <= 1e-9 * np.abs(values))
    return out
