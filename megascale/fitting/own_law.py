"""A law of the user's own: any callable, through scipy, with the same call and the same result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import optimize

from megascale.errors import FitError
from megascale.fitting.points import Points
from megascale.fitting.result import FitResult
from megascale.fitting.status import BAD_INPUT, Flag, Status

Array = np.ndarray

EVALUATIONS = 2000
"""Trial points of one start, where the caller sets no limit."""

SMALL = 1e-3
"""Difference steps follow a parameter's size down to this part of its start."""


def parameter_names(law: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a callable's parameters: all positional arguments after the inputs.

    Raises:
        FitError: the signature cannot be read or names no parameter.
    """
    try:
        arguments = list(inspect.signature(law).parameters.values())
    except (TypeError, ValueError):
        raise FitError.of(
            "law", repr(law), "must have a readable signature f(x, a, b, ...)"
        ) from None
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(a.name for a in arguments[1:] if a.kind in plain)
    if not names:
        raise FitError.of("law", repr(law), "must take parameters after x: f(x, a, b, ...)")
    return names


def fit_callable(
    law: Callable[..., Any],
    points: Points,
    *,
    residual: str,
    weights: Array | None,
    bounds: Mapping[str, tuple[Any, Any]] | None,
    fixed: Mapping[str, Any] | None,
    initial: Mapping[str, Any] | None,
    loss: str,
    delta: float,
    starts: int,
    bootstrap: str | None,
    replicates: int,
    runs: Array | None,
    confidence: float,
    tolerance: float,
    max_iterations: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
    raise_on_bad: bool,
) -> FitResult:
    """Fits `law(x, *parameters)` to every problem with `scipy.optimize.least_squares`.

    `x` is the single input array, or the (inputs, points) array of several. Parameters start at
    `initial` (default 1) and at log-uniform multiples of it within a factor of ten, `starts` in
    all; the best of them is polished with central differences. A start stops at a relative change
    of the parameters or the objective below `tolerance` (at least 1e-15), or after
    `max_iterations` trial points. Other arguments as in `fit`.

    Raises:
        FitError: unknown parameters, an illegal residual, or (`raise_on_bad`) bad points.
    """
    names = parameter_names(law)
    for argument, given in (("bounds", bounds), ("fixed", fixed), ("initial", initial)):
        for key in given or ():
            if key not in names:
                raise FitError.of(argument, key, "the law has no such parameter", list(names))
    kind = "relative" if residual == "auto" else residual
    if kind not in ("relative", "log", "absolute"):
        raise FitError.of("residual", residual, "a callable takes relative, log or absolute")
    problems, count = points.problems, len(names)
    held = np.full((problems, count), np.nan)
    for key, value in (fixed or {}).items():
        held[:, names.index(key)] = value
    guess = np.ones((problems, count))
    for key, value in (initial or {}).items():
        guess[:, names.index(key)] = value
    lower, upper = np.full((problems, count), -np.inf), np.full((problems, count), np.inf)
    for key, (low, high) in (bounds or {}).items():
        lower[:, names.index(key)] = -np.inf if low is None else low
        upper[:, names.index(key)] = np.inf if high is None else high
    out = _empty(problems, count, replicates if bootstrap else 0)
    single = points.x.shape[0] == 1
    for p in range(problems):
        rows = slice(points.offsets[p], points.offsets[p + 1])
        x = points.x[0, rows] if single else points.x[:, rows]
        weight = np.ones(rows.stop - rows.start) if weights is None else weights[rows]
        one = _Problem(
            law, x, points.y[rows], weight, kind, loss, delta, held[p], lower[p], upper[p],
            max(tolerance, 1e-15), max_iterations or EVALUATIONS,
        )  # fmt: skip
        status, row = one.check()
        out["status"][p], out["bad_row"][p] = int(status), row
        out["points"][p], out["free_params"][p] = int((weight > 0).sum()), int(one.free.sum())
        if status in BAD_INPUT:
            if raise_on_bad:
                where = f"problem {p}" + (f", row {rows.start + row}" if row >= 0 else "")
                raise FitError(f"{where}: the fit {BAD_INPUT[status]}.")
            continue
        one.solve(
            out, p, guess[p], starts if initial is None else 1, np.random.default_rng([seed, p])
        )
        if bootstrap and out["status"][p] == Status.CONVERGED:
            run = None if runs is None else np.unique(runs[rows], return_inverse=True)[1]
            for r in range(replicates):
                rng = np.random.default_rng([seed, p, r, 1])
                theta, value = one.resample(bootstrap, out, p, run, rng)
                out["boot_params"][p, r], out["boot_objective"][p, r] = theta, value
        if progress:
            progress(p + 1, problems)
    return FitResult(
        law=getattr(law, "__name__", "callable"),
        names=names,
        target="y",
        inputs=tuple(f"x{k + 1}" for k in range(points.x.shape[0])),
        residual=kind,
        values=out["params"],
        triangle=out["covariance"],
        diagnostics=out,
        points=points,
        confidence=confidence,
        weights=weights,
        settings={"loss": loss, "delta": delta if loss == "huber" else None, "seed": seed},
        bootstrap=out["boot_params"] if bootstrap else None,
        bootstrap_objective=out["boot_objective"] if bootstrap else None,
        engine_law=None,
        resample=bootstrap,
        drawn_runs=None
        if bootstrap != "runs" or runs is None
        else np.array([len(set(runs[a:b])) for a, b in pairwise(points.offsets)]),
        predictor=lambda p, x: law(x[0] if single else np.stack(x), *p.values()),
    )


def _empty(problems: int, count: int, replicates: int) -> dict[str, Array]:
    out: dict[str, Array] = {
        "params": np.full((problems, count), np.nan),
        "covariance": np.full((problems, count * (count + 1) // 2), np.nan),
        "boot_params": np.full((problems, replicates, count), np.nan),
        "boot_objective": np.full((problems, replicates), np.nan),
        "flags": np.zeros(problems, np.uint32),
        "bad_row": np.full(problems, -1, np.int64),
    }
    for name in ("objective", "rms", "r_squared"):
        out[name] = np.full(problems, np.nan)
    for name in ("points", "free_params", "iterations", "starts", "agreeing", "status"):
        out[name] = np.zeros(problems, np.int32)
    return out


class _Problem:
    """One problem of a callable law."""

    def __init__(
        self,
        law: Callable[..., Any],
        x: Array,
        y: Array,
        weight: Array,
        kind: str,
        loss: str,
        delta: float,
        held: Array,
        lower: Array,
        upper: Array,
        tolerance: float,
        evaluations: int,
    ) -> None:
        self.law, self.x, self.y, self.kind = law, x, y, kind
        self.root = np.sqrt(np.maximum(weight, 0))
        self.weight = weight
        self.loss, self.delta = loss, delta
        self.held, self.free = held, np.isnan(held)
        self.lower, self.upper = lower[self.free], upper[self.free]
        self.tolerance, self.evaluations = tolerance, evaluations

    def check(self) -> tuple[Status, int]:
        """Status of the input and the first row at fault, or -1."""
        finite = np.isfinite(self.y) & np.isfinite(self.weight)
        finite &= np.isfinite(np.atleast_2d(self.x)).all(axis=0)
        tests = [(Status.NON_FINITE, ~finite), (Status.BAD_WEIGHT, self.weight < 0)]
        if self.kind != "absolute":
            tests.append((Status.NON_POSITIVE, self.y <= 0))
        for status, bad in tests:
            if bad.any():
                return status, int(np.argmax(bad))
        if (self.lower > self.upper).any():
            return Status.BAD_BOUNDS, -1
        if (self.weight > 0).sum() < self.free.sum():
            return Status.TOO_FEW_POINTS, -1
        return Status.CONVERGED, -1

    def full(self, free: Array) -> Array:
        theta = self.held.copy()
        theta[self.free] = free
        return theta

    def residuals(self, free: Array, y: Array, root: Array) -> Array:
        with np.errstate(all="ignore"):
            f = np.asarray(self.law(self.x, *self.full(free)), float)
            if self.kind == "relative":
                r = f / y - 1
            else:
                r = np.log(f / y) if self.kind == "log" else f - y
        return np.where(np.isfinite(r), r, 1e10) * root

    def run(
        self,
        start: Array,
        y: Array,
        root: Array,
        *,
        unit: Array | None = None,
        polish: bool = False,
    ) -> Any:
        """One minimisation from `start`; `x` and `jac` of what scipy returns are the parameters'.

        `unit` is a size of each parameter, by default that of its start. scipy's difference step
        is a part of max(1, |x|), far too long for a parameter of 1e-6: it is given x / (SMALL
        unit) instead. A gradient has the caller's units, so none ends the search.
        """
        unit = SMALL * np.abs(start if unit is None else unit)
        unit[unit == 0] = 1.0
        tolerance = 1e-15 if polish else self.tolerance
        with np.errstate(over="ignore"):
            found = optimize.least_squares(
                lambda scaled: self.residuals(scaled * unit, y, root),
                np.clip(start, self.lower, self.upper) / unit,
                jac="3-point" if polish else "2-point",
                bounds=(self.lower / unit, self.upper / unit),
                loss="huber" if self.loss == "huber" else "linear",
                f_scale=self.delta if self.loss == "huber" else 1.0,
                x_scale="jac",
                xtol=tolerance,
                ftol=tolerance,
                gtol=None,
                max_nfev=self.evaluations,
            )
        found.x = np.clip(found.x * unit, self.lower, self.upper)
        found.jac = found.jac / unit
        return found

    def solve(
        self, out: dict[str, Array], p: int, guess: Array, starts: int, rng: np.random.Generator
    ) -> None:
        start = guess[self.free]
        best, agreeing = None, 0
        for n in range(starts):
            at = start if n == 0 else start * 10 ** rng.uniform(-1, 1, len(start))
            found = self.run(at, self.y, self.root)
            out["iterations"][p] += found.nfev
            if best is None or found.cost < best.cost * (1 - 1e-6):
                best, agreeing = found, 1
            elif found.cost <= best.cost * (1 + 1e-6):
                agreeing += 1
        assert best is not None
        if best.success:
            polished = self.run(best.x, self.y, self.root, unit=start, polish=True)
            out["iterations"][p] += polished.nfev
            if polished.cost <= best.cost:
                polished.success = True
                best = polished
        out["starts"][p], out["agreeing"][p] = starts, agreeing
        out["params"][p] = self.full(best.x)
        squares = float((self.residuals(best.x, self.y, self.root) ** 2).sum())
        out["objective"][p] = squares if self.loss == "squared" else best.cost
        out["rms"][p] = np.sqrt(squares / self.weight.sum())
        out["r_squared"][p] = 1 - squares / self._total()
        out["status"][p] = int(Status.CONVERGED if best.success else Status.MAX_ITERATIONS)
        out["covariance"][p], flags = self._covariance(best.jac, squares)
        if starts > 1 and agreeing < 2:
            flags |= Flag.STARTS_DISAGREE
        out["flags"][p] = int(flags)

    def _total(self) -> float:
        unit = 1 / self.y if self.kind == "relative" else np.ones_like(self.y)
        goal = np.log(self.y) if self.kind == "log" else self.y * unit
        w = self.weight
        return float((w * goal**2).sum() - (w * unit * goal).sum() ** 2 / (w * unit**2).sum())

    def _covariance(self, jacobian: Array, squares: float) -> tuple[Array, Flag]:
        count = len(self.held)
        flags = Flag(0)
        freedom = int((self.weight > 0).sum()) - int(self.free.sum())
        full = np.zeros((count, count))
        _, singular, rows = np.linalg.svd(jacobian, full_matrices=False)
        if singular[-1] <= 1e-12 * singular[0]:
            flags |= Flag.ILL_CONDITIONED
        keep = singular > 1e-14 * singular[0]
        inverse = (rows[keep].T / singular[keep] ** 2) @ rows[keep]
        scale = squares / freedom if freedom > 0 else np.nan
        if freedom <= 0:
            flags |= Flag.NO_FREEDOM
        full[np.ix_(self.free, self.free)] = inverse * scale
        return full[np.tril_indices(count)], flags

    def resample(
        self, how: str, out: dict[str, Array], p: int, run: Array | None, rng: np.random.Generator
    ) -> tuple[Array, float]:
        y, root = self.y, self.root
        theta = out["params"][p]
        if how == "parametric":
            freedom = max(int((self.weight > 0).sum()) - int(self.free.sum()), 1)
            noise = rng.standard_normal(len(y)) * out["rms"][p]
            noise *= np.sqrt(self.weight.sum() / freedom) / np.maximum(root, 1e-300)
            f = np.asarray(self.law(self.x, *theta), float)
            if self.kind == "relative":
                y = f * np.maximum(1 + noise, 0.01)
            else:
                y = f * np.exp(noise) if self.kind == "log" else f + noise
        elif how == "pairs":
            root = root * np.sqrt(np.bincount(rng.integers(0, len(y), len(y)), minlength=len(y)))
        else:
            assert run is not None
            groups = int(run.max()) + 1
            drawn = np.bincount(rng.integers(0, groups, groups), minlength=groups)
            root = root * np.sqrt(drawn[run])
        found = self.run(theta[self.free], y, root)
        return self.full(found.x), float(2 * found.cost if self.loss == "squared" else found.cost)
