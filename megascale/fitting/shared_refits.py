"""Bootstrap and profile of problems with parameters in common: all of them fitted over again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from megascale.fitting.catalogue import predict
from megascale.fitting.points import Points
from megascale.fitting.shared_copies import Copies, Ends, SharedProblem, descend
from megascale.formats.tokens_to_loss import tokens_at_batch

Array = np.ndarray

LEAST_FACTOR = 0.01
"""Targets under relative noise keep this part of the law's value at least."""


def drawn_points(
    problem: SharedProblem, values: Array, deviation: float, freedom: float | None, count: int,
    seed: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Inputs and targets of parametric replicates: the law with new noise of the fitted size.

    Args:
        problem: what was fitted.
        values: (problems, parameters) that were found.
        deviation: of a residual of weight 1.
        freedom: degrees of freedom that told it, so that each replicate draws its own; None where
            it is known.
        count, seed: of the replicates; each has its own generator.

    Returns:
        (inputs, count, points) and (count, points).
    """
    points, law = problem.points, problem.law
    owner = np.repeat(np.arange(problem.problems), np.diff(points.offsets))
    root = np.ones(len(points.y)) if problem.weights is None else np.sqrt(problem.weights)
    noise = np.empty((count, len(points.y)))
    for r in range(count):
        rng = np.random.default_rng([seed & 0xFFFF_FFFF, r, 3])
        size = 1.0 if freedom is None else np.sqrt(freedom / rng.chisquare(freedom))
        noise[r] = size * rng.standard_normal(len(points.y))
    noise *= np.where(root > 0, deviation / np.maximum(root, 1e-300), 0.0)
    params = {name: values[owner, i] for i, name in enumerate(law.params)}
    residual = problem.job.residual
    along_ray = law.tokens_steps and (residual == "ray" or law.name in ("noise_floor", "two_power"))
    batch = points.y / points.x[0] if along_ray else None
    if batch is not None:
        value = tokens_at_batch(law.name, params, batch)
    else:
        value = predict(law.name, params, list(points.x))
    if residual == "relative" or (residual == "ray" and law.name == "classic"):
        y = value * np.maximum(1 + noise, LEAST_FACTOR)
    else:
        y = value + noise if residual == "absolute" else value * np.exp(noise)
    shape = (len(points.x), *y.shape)
    x = np.broadcast_to(points.x[:, None, :], shape) if batch is None else (y / batch)[None]
    return x, y


def replicates(problem: SharedProblem, values: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Fits to replicates, each from the optimum.

    Args:
        problem: what was fitted.
        values: (problems, parameters) that were found.
        x, y: (inputs, count, points) and (count, points).

    Returns:
        (problems, count, parameters) and (problems, count) objectives; NaN where there is no fit.
    """
    copies = replace(Copies.of(problem, len(y)), x=x, y=y)
    ends = _from(copies, values)
    return np.swapaxes(ends.params, 0, 1).copy(), np.swapaxes(ends.objective, 0, 1).copy()


def _from(copies: Copies, values: Array) -> Ends:
    """The better of two ends: from the same parameters, and with the own ones searched anew."""
    count = len(copies.y)
    common = np.repeat(values[:1, list(copies.problem.which)], count, axis=0)
    ends = descend(copies, common, np.repeat(values[None], count, axis=0))
    other = descend(copies, common)
    better = other.totals < ends.totals
    ends.params[better], ends.objective[better] = other.params[better], other.objective[better]
    failed = ~np.isfinite(ends.totals)
    ends.params[failed], ends.objective[failed] = np.nan, np.nan
    return ends


class HeldParameter:
    """The least sum of squares of all problems with one parameter held at values.

    Attributes:
        at: number of the parameter.
    """

    def __init__(self, problem: SharedProblem, values: Array, at: int) -> None:
        self.problem, self.values, self.at = problem, values, at

    def totals(self, tried: Array, which: Array, thorough: bool) -> Array:
        """Of every value tried.

        Args:
            tried: values to hold.
            which: the problem whose parameter it is; of common ones any.
            thorough: whether the others are searched anew beside a start from the optimum.
        """
        problem, at = self.problem, self.at
        copies = Copies.of(problem, len(tried))
        common = np.repeat(self.values[:1, list(problem.which)], len(tried), axis=0)
        start = np.repeat(self.values[None], len(tried), axis=0)
        if at in problem.which:
            place = problem.which.index(at)
            common[:, place] = tried
            moving = copies.moving.copy()
            moving[place] = False
            copies = replace(copies, moving=moving)
        else:
            held = copies.held.copy()
            held[np.arange(len(tried)), which, at] = tried
            copies = replace(copies, held=held)
        best = np.full(len(tried), np.inf)
        for begin in (start, None) if thorough else (start,):
            best = np.fmin(best, descend(copies, common, begin).totals)
        return best


def shared_problem(result: Any) -> SharedProblem:
    """What a result with parameters in common was fitted to."""
    law = result._engine_law
    which = tuple(law.params.index(name) for name in result.shared)
    points: Points = result._points
    return SharedProblem(law, result.job, points, result._weights, which)
