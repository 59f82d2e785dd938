"""One problem of a callable law at a time, through `scipy.optimize.least_squares`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize

Array = np.ndarray

SMALL = 1e-3
"""Difference steps follow a parameter's size down to this part of its start."""
OUT_OF_REACH = 1e10
"""Stands for a residual that is not finite, before its weight."""


def residual_of(value: Array, y: Array, kind: str) -> Array:
    """Residuals of some kind, `OUT_OF_REACH` where they are not finite."""
    with np.errstate(all="ignore"):
        if kind == "relative":
            r = value / y - 1
        else:
            r = np.log(value / y) if kind == "log" else value - y
    return np.where(np.isfinite(r), r, OUT_OF_REACH)


@dataclass(frozen=True)
class Minimum:
    """Where the search for one problem's optimum ended.

    Attributes:
        theta: free parameters.
        cost: half the sum of squared residuals, or of Huber losses.
        jacobian: of the weighted residuals, (points, free parameters).
        success: whether the search ended by itself.
        evaluations: trial points of all starts.
        agreeing: starts that reached this cost.
    """

    theta: Array
    cost: float
    jacobian: Array
    success: bool
    evaluations: int
    agreeing: int


@dataclass(frozen=True)
class Search:
    """What the problems of one call share.

    Attributes:
        law: the callable, `law(x, *parameters)`.
        kind: of the residual: relative, log or absolute.
        loss, delta: "squared", or "huber" and where it turns linear.
        tolerance: relative change that ends a start.
        evaluations: trial points of a start.
    """

    law: Callable[..., Any]
    kind: str
    loss: str
    delta: float
    tolerance: float
    evaluations: int


@dataclass(frozen=True)
class Problem:
    """One problem: its points, weights' roots, free parameters and their bounds.

    Attributes:
        search: what it shares with the others.
        x: the single input array, or (inputs, points).
        y, root: targets and roots of the weights, [points].
        held: fixed values, NaN where free, [parameters].
        lower, upper: bounds of the free parameters.
    """

    search: Search
    x: Array
    y: Array
    root: Array
    held: Array
    lower: Array
    upper: Array

    @property
    def free(self) -> Array:
        """Which parameters are free."""
        return np.isnan(self.held)

    def full(self, free: Array) -> Array:
        """All parameters from the free ones."""
        theta = self.held.copy()
        theta[self.free] = free
        return theta

    def residuals(self, free: Array, y: Array, root: Array) -> Array:
        """Weighted residuals at the free parameters."""
        with np.errstate(all="ignore"):
            value = np.asarray(self.search.law(self.x, *self.full(free)), float)
        return residual_of(value, y, self.search.kind) * root

    def run(
        self,
        start: Array,
        y: Array,
        root: Array,
        *,
        unit: Array | None = None,
        polish: bool = False,
        evaluations: int = 0,
    ) -> Any:
        """One minimisation from `start`; `x` and `jac` of what scipy returns are the parameters'.

        `unit` is a size of each parameter, by default that of its start. scipy's difference step
        is a part of max(1, |x|), far too long for a parameter of 1e-6: it is given x / (SMALL
        unit) instead. A gradient has the caller's units, so none ends the search.
        """
        unit = SMALL * np.abs(start if unit is None else unit)
        unit[unit == 0] = 1.0
        tolerance = 1e-15 if polish else self.search.tolerance
        with np.errstate(over="ignore"):
            found = optimize.least_squares(
                lambda scaled: self.residuals(scaled * unit, y, root),
                np.clip(start, self.lower, self.upper) / unit,
                jac="3-point" if polish else "2-point",
                bounds=(self.lower / unit, self.upper / unit),
                loss="huber" if self.search.loss == "huber" else "linear",
                f_scale=self.search.delta if self.search.loss == "huber" else 1.0,
                x_scale="jac",
                xtol=tolerance,
                ftol=tolerance,
                gtol=None,
                max_nfev=evaluations or self.search.evaluations,
            )
        found.x = np.clip(found.x * unit, self.lower, self.upper)
        found.jac = found.jac / unit
        return found

    def solve(self, starts: Array) -> Minimum:
        """The best minimum of several starts, polished."""
        best, agreeing, used = None, 0, 0
        for at in starts:
            found = self.run(at, self.y, self.root)
            used += found.nfev
            if best is None or found.cost < best.cost * (1 - 1e-6):
                best, agreeing = found, 1
            elif found.cost <= best.cost * (1 + 1e-6):
                agreeing += 1
        assert best is not None
        mine = Minimum(best.x, float(best.cost), best.jac, bool(best.success), used, agreeing)
        return self.polished(mine, starts[0]) if mine.success else mine

    def polished(self, best: Minimum, unit: Array, evaluations: int = 0) -> Minimum:
        """A minimum made exact with central differences.

        Args:
            best: a minimum.
            unit: a size of each free parameter.
            evaluations: trial points to spend; 0 for those of a start.
        """
        finer = self.run(
            best.theta, self.y, self.root, unit=unit, polish=True, evaluations=evaluations
        )
        used = best.evaluations + finer.nfev
        if finer.cost > best.cost:
            return replace(best, evaluations=used)
        return Minimum(finer.x, float(finer.cost), finer.jac, True, used, best.agreeing)

    def draw(
        self, how: str, theta: Array, rms: float | None, run: Array | None, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """Targets and roots of weights of one bootstrap replicate.

        Args:
            how: "parametric" (noise of a size drawn from what the fit tells of it), "pairs"
                (points) or "runs".
            theta: all fitted parameters.
            rms: of the fit; None where weights are 1 / variance.
            run: a label a point, for "runs".
            rng: the replicate's own.
        """
        y, root, points = self.y, self.root, len(self.y)
        if how == "parametric":
            noise = rng.standard_normal(points) / np.maximum(root, 1e-300)
            if rms is not None:
                freedom = int((root > 0).sum()) - int(self.free.sum())
                noise *= rms * np.sqrt((root**2).sum() / rng.chisquare(freedom))
            f = np.asarray(self.search.law(self.x, *theta), float)
            if self.search.kind == "relative":
                y = f * np.maximum(1 + noise, 0.01)
            else:
                y = f * np.exp(noise) if self.search.kind == "log" else f + noise
        elif how == "pairs":
            times = np.bincount(rng.integers(0, points, points), minlength=points)
            root = root * np.sqrt(times)
        else:
            assert run is not None
            number = np.unique(run, return_inverse=True)[1]
            groups = int(number.max()) + 1
            drawn = np.bincount(rng.integers(0, groups, groups), minlength=groups)
            root = root * np.sqrt(drawn[number])
        return y, root
