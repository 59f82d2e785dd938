"""The engine's laws and callables as `restricted.solve` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from megascale.fitting.callable_batch import Stack, works_by_element
from megascale.fitting.callable_outcome import total_squares
from megascale.fitting.callable_single import OUT_OF_REACH, Problem
from megascale.fitting.catalogue import Law
from megascale.fitting.linear_constraint import Elimination
from megascale.fitting.points import Points
from megascale.fitting.prior import Priors
from megascale.fitting.profile import of_any_sign
from megascale.fitting.refit import EngineJob, refit
from megascale.fitting.residuals import law_residuals
from megascale.fitting.status import BAD_INPUT, Status

Array = np.ndarray

TRIES = 24
"""Values of the restricted parameters at which the engine searches the others."""
FAR = 1.4
"""Logarithm of the factor that these reach to each side."""


def _table(given: Array | None, shape: tuple[int, int], fill: float) -> Array:
    return np.full(shape, fill) if given is None else given


class EngineModel:
    """A law of the engine, over all problems of a call."""

    def __init__(
        self,
        law: Law,
        job: EngineJob,
        points: Points,
        weights: Array | None,
        initial: Array | None,
    ) -> None:
        self.law, self.job, self.given, self.weights = law, job, points, weights
        self.initial = initial
        self.names = law.params
        self.positive = np.array([not of_any_sign(name) for name in law.params])
        shape = (points.problems, len(law.params))
        self.fixed = _table(job.fixed, shape, np.nan)
        self.lower, self.upper = (
            _table(job.lower, shape, -np.inf),
            _table(job.upper, shape, np.inf),
        )
        weight = np.ones(len(points.y)) if weights is None else weights
        sizes = np.diff(points.offsets)
        inside = np.arange(int(sizes.max(initial=1)))[None, :] < sizes[:, None]
        place = np.minimum(
            points.offsets[:-1, None] + np.arange(inside.shape[1]), len(points.y) - 1
        )
        self.x, self.y = points.x[:, place], points.y[place]
        with np.errstate(invalid="ignore"):
            self.root = np.where(inside, np.sqrt(np.maximum(weight[place], 0.0)), 0.0)
        self.free_fit = refit(job, points, weights, np.arange(points.problems))
        found = self.free_fit["status"]
        bad = {int(s) for s in BAD_INPUT if s is not Status.TOO_FEW_POINTS}
        self.status = np.where(np.isin(found, list(bad)), found, int(Status.CONVERGED))
        self.bad_row = self.free_fit["bad_row"]
        self.points = (self.root > 0).sum(axis=1)
        self.weight = np.maximum((self.root**2).sum(axis=1), 1e-300)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.total = self.free_fit["objective"] / (1 - self.free_fit["r_squared"])

    def residuals(self, rows: Array, values: Array) -> Array:
        """Weighted residuals; beyond reach where the law is not defined."""
        params = {name: values[:, i, None] for i, name in enumerate(self.names)}
        x, root = [column[rows] for column in self.x], self.root[rows]
        found = law_residuals(self.law, self.job.residual, params, x, self.y[rows])
        wrong = np.any(values[:, self.positive] <= 0, axis=1, keepdims=True)
        found = np.where(np.isfinite(found) & ~wrong, found, OUT_OF_REACH)
        return np.where(root > 0, found * root, 0.0)

    def starts(self, priors: Priors | None, elimination: Elimination) -> Array:
        """The engine's fits with the restricted parameters held at many values."""
        if self.initial is not None:
            return elimination.filled(self.initial, np.arange(len(self.initial)))[None]
        shape, every = self.fixed.shape, np.arange(len(self.fixed))
        own = np.where(
            (self.free_fit["status"] == int(Status.CONVERGED))[:, None],
            self.free_fit["params"],
            np.nan,
        )
        usual = np.where(np.isfinite(own).any(axis=0), np.nanmedian(_or_one(own), axis=0), 1.0)
        middle = np.where(np.isfinite(own), own, usual)
        there = np.zeros(shape[1], bool) if priors is None else priors.there
        centre = middle.copy()
        if priors is not None:
            centre = np.where(np.isnan(priors.mean), centre, priors.mean)
        rng = np.random.default_rng(0)
        tried = [middle, centre]
        while len(tried) < TRIES:
            values = middle * np.exp(rng.uniform(-FAR, FAR, shape[1]))
            if priors is not None:
                pull = rng.standard_normal(shape[1]) * priors.deviation
                with np.errstate(over="ignore", invalid="ignore"):
                    near = np.where(priors.of_logs, priors.mean * np.exp(pull), priors.mean + pull)
                values = np.where(np.isnan(near), values, near)
            tried.append(values)
        held = np.stack(tried)
        which = np.tile(every, len(held))
        flat = np.clip(held.reshape(-1, shape[1]), self.lower[which], self.upper[which])
        flat = np.where(np.isnan(self.fixed[which]), flat, self.fixed[which])
        flat = elimination.filled(flat, which)
        wrong = (flat[:, self.positive] <= 0).any(axis=1)
        restricted = np.zeros(shape[1], bool)
        restricted[elimination.dependent] = restricted[elimination.involved] = True
        restricted |= there
        others = np.isnan(self.fixed).all(axis=0) & ~restricted
        if others.any():
            flat[wrong] = 1.0
            kept = np.where(restricted, flat, np.nan)
            raw = refit(self.job, self.given, self.weights, which, held=kept)
            flat = raw["params"]
        flat[wrong] = np.nan
        return flat.reshape(len(held), *shape)


def _or_one(values: Array) -> Array:
    """Columns of nothing but NaN as ones, for a median without a warning."""
    return np.where(np.isfinite(values).any(axis=0), values, 1.0)


class CallableModel:
    """A callable, over all problems of a call."""

    def __init__(
        self,
        names: tuple[str, ...],
        problems: Sequence[Problem],
        status: Array,
        bad_row: Array,
        guess: Array,
        bounds: tuple[Array, Array],
        begins: Mapping[int, Array],
    ) -> None:
        self.names = names
        self.positive = np.zeros(len(names), bool)
        self.fixed = np.stack([problem.held for problem in problems])
        self.lower, self.upper = bounds
        self.status, self.bad_row, self.guess, self.begins = status, bad_row, guess, begins
        # Weights that are no weights are told by the status; here they count for nothing.
        self.points = np.array([int((problem.root > 0).sum()) for problem in problems])
        self.weight = np.array([max(float((p.root**2).sum()), 1e-300) for p in problems])
        self.problems = problems
        self.total = np.array([total_squares(problem) for problem in problems])
        self.stack = Stack.of(problems)
        by_element = works_by_element(self.stack, problems, guess[:, problems[0].free])
        if not by_element:
            self.stack = Stack.of(problems, by_element=False)

    def residuals(self, rows: Array, values: Array) -> Array:
        """Weighted residuals, beyond reach where they are not finite."""
        stack = self.stack
        if stack.by_element:
            return stack.residuals(rows, values[:, stack.free])
        out = np.zeros((len(rows), stack.y.shape[1]))
        for i, row in enumerate(rows):
            problem: Any = self.problems[row]
            left = problem.residuals(values[i, problem.free], problem.y, problem.root)
            out[i, : len(left)] = left
        return out

    def starts(self, priors: Priors | None, elimination: Elimination) -> Array:
        """The guess and multiples of it, a parameter with a prior around that."""
        many = len(next(iter(self.begins.values())))
        out = np.full((many, *self.fixed.shape), np.nan)
        rng = np.random.default_rng(0)
        for p, begins in self.begins.items():
            values = np.where(np.isnan(self.fixed[p]), 0.0, self.fixed[p])[None].repeat(many, 0)
            values[:, np.isnan(self.fixed[p])] = begins
            if priors is not None:
                pull = rng.standard_normal(values.shape) * priors.deviation[p]
                pull[0] = 0 * priors.deviation[p]
                with np.errstate(over="ignore", invalid="ignore"):
                    near = np.where(
                        priors.of_logs, priors.mean[p] * np.exp(pull), priors.mean[p] + pull
                    )
                values = np.where(np.isnan(near), values, near)
            out[:, p] = elimination.filled(values, np.full(many, p))
        return out
