"""What is reported of a callable law's minimum, in the arrays that the engine would fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megascale.fitting.callable_single import Minimum, Problem
from megascale.fitting.status import Flag, Status

Array = np.ndarray

WEAK = 0.5
"""A parameter is weak whose standard error is more than this part of its size."""


NEARLY_BLIND, BLIND = 1e-7, 1e-9
"""Singular values of the column-scaled Jacobian, as parts of the largest, below which parameters
are nearly degenerate, and below which differences of rounded numbers say nothing."""


@dataclass
class Outcome:
    """One entry a problem; the names are those of the engine's own output."""

    params: Array
    covariance: Array
    boot_params: Array
    boot_objective: Array
    objective: Array
    rms: Array
    r_squared: Array
    flags: Array
    bad_row: Array
    points: Array
    free_params: Array
    iterations: Array
    starts: Array
    agreeing: Array
    status: Array

    @classmethod
    def empty(cls, problems: int, count: int, replicates: int) -> Outcome:
        """Nothing known yet of some problems of `count` parameters."""

        def numbers(*shape: int) -> Array:
            return np.full((problems, *shape), np.nan)

        def counts() -> Array:
            return np.zeros(problems, np.int32)

        return cls(
            params=numbers(count),
            covariance=numbers(count * (count + 1) // 2),
            boot_params=numbers(replicates, count),
            boot_objective=numbers(replicates),
            objective=numbers(),
            rms=numbers(),
            r_squared=numbers(),
            flags=np.zeros(problems, np.uint32),
            bad_row=np.full(problems, -1, np.int64),
            points=counts(),
            free_params=counts(),
            iterations=counts(),
            starts=counts(),
            agreeing=counts(),
            status=counts(),
        )

    def begin(self, p: int, status: Status, row: int, points: int, free: int) -> None:
        """What the points of problem `p` say before any search."""
        self.status[p], self.bad_row[p] = int(status), row
        self.points[p], self.free_params[p] = points, free

    def end(self, p: int, problem: Problem, found: Minimum, starts: int) -> None:
        """What the search found."""
        self.iterations[p], self.starts[p] = found.evaluations, starts
        self.agreeing[p] = found.agreeing
        theta = problem.full(found.theta)
        residuals = problem.residuals(found.theta, problem.y, problem.root)
        squares = float((residuals**2).sum())
        self.params[p] = theta
        squared = problem.search.loss == "squared"
        self.objective[p] = squares if squared else found.cost
        self.rms[p] = np.sqrt(squares / (problem.root**2).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            self.r_squared[p] = 1 - np.float64(squares) / total_squares(problem)
        self.status[p] = int(Status.CONVERGED if found.success else Status.MAX_ITERATIONS)
        covariance, flags = _covariance(problem, found, squares, int(self.points[p]))
        self.covariance[p] = covariance[np.tril_indices(len(theta))]
        if starts > 1 and found.agreeing < 2:
            flags |= Flag.STARTS_DISAGREE
        bits = int(flags)
        freedom = self.points[p] > self.free_params[p]
        for i in np.flatnonzero(problem.free)[:16]:
            error = np.sqrt(covariance[i, i])
            if not error <= WEAK * abs(theta[i]) and (freedom or np.isnan(error)):
                bits |= 1 << int(i)
        self.flags[p] = bits


def total_squares(problem: Problem) -> float:
    """Sum of squares about the best constant, in the residual's own metric."""
    y, w = problem.y, problem.root**2
    unit = 1 / y if problem.search.kind == "relative" else np.ones_like(y)
    goal = np.log(y) if problem.search.kind == "log" else y * unit
    return float((w * goal**2).sum() - (w * unit * goal).sum() ** 2 / (w * unit**2).sum())


def unit_covariance(
    theta: Array, lower: Array, upper: Array, jacobian: Array
) -> tuple[Array, Array, Flag]:
    """Covariance of free parameters for residuals of variance 1, and what to distrust.

    Args:
        theta, lower, upper: of the free parameters.
        jacobian: (residuals, parameters).

    Returns:
        (parameters, parameters), 0 in the rows of those on a bound; which have no standard error
        (on a bound, or moving along a direction that the residuals do not see); and flags.
    """
    count, flags = len(theta), Flag(0)
    full, lost = np.zeros((count, count)), np.zeros(count, bool)
    if count == 0:
        return full, lost, flags
    bound = (theta <= lower) | (theta >= upper)
    if bound.any():
        flags |= Flag.AT_BOUND
    moves = ~bound
    jacobian = jacobian[:, moves]
    norm = np.linalg.norm(jacobian, axis=0)
    lost[bound] = True
    if moves.any():
        safe = np.where(norm > 0, norm, 1.0)
        _, singular, rows = np.linalg.svd(jacobian / safe, full_matrices=True)
        strength = np.zeros(len(norm))
        strength[: len(singular)] = singular
        if strength.min() <= NEARLY_BLIND * strength[0]:
            flags |= Flag.ILL_CONDITIONED
        seen = strength > BLIND * max(strength[0], 1e-300)
        blind = (np.abs(rows[~seen]) > 1e-6).any(axis=0) | (norm == 0)
        lost[np.flatnonzero(moves)[blind]] = True
        inverse = (rows[seen].T / strength[seen] ** 2) @ rows[seen] / np.outer(safe, safe)
        full[np.ix_(moves, moves)] = inverse
    return full, lost, flags


def _covariance(
    problem: Problem, found: Minimum, squares: float, points: int
) -> tuple[Array, Flag]:
    """Covariance of all parameters and what to distrust.

    A parameter without a standard error has rows of NaN, one that was fixed rows of 0.
    """
    free = np.flatnonzero(problem.free)
    full = np.zeros((len(problem.held), len(problem.held)))
    if len(free) == 0:
        return full, Flag(0)
    inverse, lost, flags = unit_covariance(
        found.theta, problem.lower, problem.upper, found.jacobian
    )
    freedom = points - len(free)
    if freedom <= 0 and not lost.all():
        flags |= Flag.NO_FREEDOM
    full[np.ix_(free, free)] = inverse * (squares / freedom if freedom > 0 else np.nan)
    full[free[lost], :] = np.nan
    full[:, free[lost]] = np.nan
    return full, flags
