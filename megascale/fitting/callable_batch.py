"""Problems of a callable law as padded arrays: all of them at once where it works by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from megascale.fitting.batch_lm import Minima, minimise
from megascale.fitting.callable_single import SMALL, Minimum, Problem, Search, residual_of

Array = np.ndarray

POLISH_TOLERANCE = 1e-15
FEW_EVALUATIONS = 50
"""Trial points of a start that the best of all is then taken from; most need fewer."""
POLISH_EVALUATIONS = 50
"""Trial points that scipy may spend on a minimum that was left unfinished."""
STATIONARY = 1e-12
"""Largest relative gain that another full step from a minimum may promise."""


@dataclass(frozen=True)
class Stack:
    """Problems of one set of free parameters as padded arrays.

    Attributes:
        search: what they share.
        x: (inputs, m, n); the last point is repeated where a problem has fewer than n.
        y, root: targets and roots of the weights (0 for padding), [m, n].
        held: fixed values, NaN where free, [m, parameters].
        lower, upper: bounds of the free parameters, [m, free].
        by_element: whether the callable may be given all rows at once.
    """

    search: Search
    x: Array
    y: Array
    root: Array
    held: Array
    lower: Array
    upper: Array
    by_element: bool = True

    @classmethod
    def of(cls, problems: Sequence[Problem], by_element: bool = True) -> Stack:
        """Pad problems with the same free parameters to the longest of them."""
        most = max(len(problem.y) for problem in problems)

        def padded(values: Array) -> Array:
            lack = most - values.shape[-1]
            return np.concatenate([values, np.repeat(values[..., -1:], lack, axis=-1)], axis=-1)

        root = np.zeros((len(problems), most))
        for row, problem in zip(root, problems, strict=True):
            row[: len(problem.root)] = problem.root
        return cls(
            problems[0].search,
            np.stack([padded(np.atleast_2d(problem.x)) for problem in problems], axis=1),
            np.stack([padded(problem.y) for problem in problems]),
            root,
            np.stack([problem.held for problem in problems]),
            np.stack([problem.lower for problem in problems]),
            np.stack([problem.upper for problem in problems]),
            by_element,
        )

    @property
    def free(self) -> Array:
        """Which parameters are free."""
        return np.isnan(self.held[0])

    def of_rows(self, rows: Array) -> Stack:
        """The same of some rows, which may repeat."""
        return replace(
            self,
            x=self.x[:, rows],
            y=self.y[rows],
            root=self.root[rows],
            held=self.held[rows],
            lower=self.lower[rows],
            upper=self.upper[rows],
        )

    def values(self, rows: Array, free: Array) -> Array:
        """The law at some rows, [m, n]."""
        theta = self.held[rows].copy()
        theta[:, self.free] = free
        x = self.x[:, rows]
        x = x[0] if len(x) == 1 else x
        law = self.search.law
        with np.errstate(all="ignore"):
            if self.by_element:
                return np.asarray(
                    law(x, *(theta[:, k, None] for k in range(theta.shape[1]))), float
                )
            alone = [law(x[..., i, :], *one) for i, one in enumerate(theta)]
            return np.asarray(alone, float).reshape(len(rows), -1)

    def residuals(self, rows: Array, free: Array) -> Array:
        """Weighted residuals of some rows, [m, n]."""
        value = self.values(rows, free)
        return residual_of(value, self.y[rows], self.search.kind) * self.root[rows]

    def minimise(
        self, start: Array, unit: Array, *, polish: bool = False, evaluations: int = 0
    ) -> Minima:
        """`batch_lm.minimise` from one start a row.

        Args:
            start: free parameters, [m, free].
            unit: size of each of them that differences follow, [m, free].
            polish: central differences and the finest tolerance.
            evaluations: trial points of a start; 0 for those of the search.
        """
        least = SMALL * np.abs(unit)
        least[least == 0] = 1.0
        return minimise(
            self.residuals,
            start,
            self.lower,
            self.upper,
            unit=least,
            tolerance=POLISH_TOLERANCE if polish else self.search.tolerance,
            evaluations=(evaluations or self.search.evaluations) * (1 + start.shape[1]),
            central=polish,
            delta=self.search.delta if self.search.loss == "huber" else np.inf,
        )


def solve_stack(
    problems: Sequence[Problem], starts: Sequence[Array], by_element: bool
) -> list[Minimum]:
    """The best minimum of every problem of one set of free parameters, polished.

    A minimum that is not stationary to rounding after that goes through scipy.

    Args:
        problems: of one length, unless they work by element.
        starts: of each problem, (starts, free), as many for all.
        by_element: as `works_by_element` says.
    """
    stack, many = Stack.of(problems, by_element), len(starts[0])
    count = len(problems)
    first = np.stack([one[0] for one in starts])
    every = np.repeat(np.arange(count), many)
    begin = np.concatenate(starts)
    few = min(FEW_EVALUATIONS, stack.search.evaluations)
    rough = stack.of_rows(every).minimise(begin, begin, evaluations=few)
    cost = rough.cost.reshape(count, many)
    best = np.argmin(cost, axis=1)
    agreeing = (cost <= cost.min(axis=1, keepdims=True) * (1 + 1e-6)).sum(axis=1)
    chosen = np.arange(count) * many + best
    fine = stack.minimise(rough.theta[chosen], first, polish=True)
    used = rough.evaluations.reshape(count, many).sum(axis=1) + fine.evaluations
    success = rough.success[chosen] | fine.success
    out = []
    for p, problem in enumerate(problems):
        found = Minimum(
            fine.theta[p],
            float(fine.cost[p]),
            fine.jacobian[p, : len(problem.y)],
            bool(success[p]),
            int(used[p]),
            int(agreeing[p]),
        )
        if found.success and not _stationary(found, fine.residuals[p, : len(problem.y)], problem):
            found = problem.polished(found, first[p], POLISH_EVALUATIONS)
        out.append(found)
    return out


def _stationary(found: Minimum, residuals: Array, problem: Problem) -> bool:
    """Whether a full Gauss-Newton step from here would gain nothing."""
    pull = np.ones_like(residuals)
    if problem.search.loss == "huber":
        size = np.maximum(np.abs(residuals), 1e-300)
        pull = np.sqrt(np.minimum(1.0, problem.search.delta / size))
    slope = found.jacobian.T @ (pull**2 * residuals)
    held = (found.theta <= problem.lower) & (slope > 0)
    held |= (found.theta >= problem.upper) & (slope < 0)
    if held.all():
        return True
    jacobian = found.jacobian[:, ~held] * pull[:, None]
    norm = np.linalg.norm(jacobian, axis=0)
    norm[norm == 0] = 1.0
    step = np.linalg.lstsq(jacobian / norm, residuals * pull, rcond=None)[0] / norm
    gain = float(((jacobian @ step) ** 2).sum())
    return gain <= STATIONARY * float(((residuals * pull) ** 2).sum())


def refit_stack(
    problem: Problem, theta: Array, y: Array, root: Array, by_element: bool
) -> tuple[Array, Array]:
    """Free parameters and costs of one problem with other targets and weights.

    Args:
        problem: of any kind.
        theta: free parameters to start from.
        y, root: of the replicates, [replicates, points].
        by_element: as `works_by_element` says.
    """
    stack = Stack.of([problem], by_element).of_rows(np.zeros(len(y), np.int64))
    stack = replace(stack, y=y, root=root)
    start = np.repeat(theta[None], len(y), axis=0)
    found = stack.minimise(start, start)
    return found.theta, found.cost


def works_by_element(stack: Stack, problems: Sequence[Problem], guess: Array) -> bool:
    """Whether the law of all rows at once is the law of each row alone, at different parameters.

    Args:
        stack: of the problems.
        problems: the same one by one.
        guess: free parameters, [m, free].
    """
    wobble = 1 + 0.1 * np.cos(np.arange(guess.size)).reshape(guess.shape)
    at = np.clip(guess * wobble, stack.lower, stack.upper)
    try:
        together = stack.values(np.arange(len(problems)), at)
    except Exception:
        return False  # the callable's own trouble shows when it is called a problem at a time
    if together.shape != stack.y.shape:
        return False
    for row, problem, free in zip(together, problems, at, strict=True):
        with np.errstate(all="ignore"):
            alone = np.asarray(stack.search.law(problem.x, *problem.full(free)), float)
        own = row[: len(problem.y)]
        if alone.shape != own.shape or not np.allclose(own, alone, 1e-10, 0, equal_nan=True):
            return False
    return True
