"""Parameters that all problems of a call have in common, beside those of their own.

Once the engine has fitted the rest, what is left is a sum of squares in few unknowns. It is
searched over what each problem says by itself and a grid around, and finished as `shared_copies`
says. Errors are of all problems' residuals together, so that problems of as many points as
parameters, or fewer, have errors.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.catalogue import Law
from megascale.fitting.refit import refit
from megascale.fitting.shared_copies import (
    DIFFERENCE,
    Arrow,
    Copies,
    SharedProblem,
    active,
    descend,
)
from megascale.fitting.shared_refits import drawn_points, replicates
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
WEAK = 0.5


def fit_shared(problem: SharedProblem, known_noise: bool) -> dict[str, Any]:
    """The fits with common parameters, as the engine would give them.

    Returns:
        The engine's output, with the covariance of each problem's parameters, common ones
        included, and `freedom`, the degrees of freedom of all problems together.

    Raises:
        FitError: a problem's points break a rule.
    """
    tried = _candidates(problem)
    totals = _totals(problem, tried)
    picked = np.argsort(totals, kind="stable")[:FINISHED]
    picked = picked[np.isfinite(totals[picked])]
    if not len(picked):
        raw = Copies.of(problem, 1).fitted(tried[:1])
        for status, words in BAD_INPUT.items():
            hits = np.flatnonzero(raw["status"] == int(status))
            if len(hits):
                raise FitError(f"problem {int(hits[0])}: the fit {words}.")
        raise FitError.of("shared", _names(problem), "no values of these fit all problems")
    ends = descend(Copies.of(problem, len(picked)), tried[picked])
    best = int(np.argmin(ends.totals))
    one = Copies.of(problem, 1)
    raw = one.fitted(ends.params[best : best + 1, 0, list(problem.which)], ends.params[best][None])
    if not ends.settled[best]:
        raw["status"][raw["status"] == int(Status.CONVERGED)] = int(Status.MAX_ITERATIONS)
    raw["starts"][:] = len(picked)
    raw["agreeing"][:] = (ends.totals <= ends.totals[best] * (1 + 1e-6)).sum()
    return _finished(problem, raw, known_noise)


def bootstrap_shared(
    problem: SharedProblem, raw: dict[str, Any], known_noise: bool, count: int, seed: int
) -> None:
    """Adds parametric replicates to what `fit_shared` returned.

    Raises:
        FitError: all problems together have as many parameters as points.
    """
    freedom = float(raw["freedom"][0])
    if freedom <= 0 and not known_noise:
        rule = "leaves the noise unknown: all problems together have as many parameters as points"
        raise FitError.of("bootstrap", "parametric", rule, None)
    size = 1.0 if known_noise else float(np.sqrt(raw["objective"].sum() / freedom))
    x, y = drawn_points(problem, raw["params"], size, None if known_noise else freedom, count, seed)
    raw["boot_params"], raw["boot_objective"] = replicates(problem, raw["params"], x, y)


def _totals(problem: SharedProblem, common: Array) -> Array:
    """Sum of all problems' squared residuals for every try; infinite where one has no fit."""
    copies = Copies.of(problem, len(common))
    totals = copies.table(copies.fitted(common), "objective").sum(axis=1)
    return np.where(np.isnan(totals), np.inf, totals)


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
    return problem.clipped(np.concatenate([picked, grid]))


def _finished(problem: SharedProblem, raw: dict[str, Any], known_noise: bool) -> dict[str, Any]:
    """The engine's output with errors of all parameters together."""
    values, count = raw["params"], len(problem.which)
    copies = Copies.of(problem, 1)
    arrow = Arrow.of(copies, values[None])
    moving = active(problem, values[None], copies.held)[0]
    freedom = int(raw["points"].sum() - raw["free_params"].sum()) - count
    variance = 1.0
    if not known_noise:
        variance = float(raw["objective"].sum()) / freedom if freedom > 0 else np.nan
    covariance = arrow.covariance() * variance
    held = (
        np.zeros(values.shape, bool) if problem.job.fixed is None else ~np.isnan(problem.job.fixed)
    )
    lost = ~moving & ~held
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
