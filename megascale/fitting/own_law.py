"""A law of the user's own: any callable, with the same call and the same result.

Callables that work element by element are fitted all at once, others a problem at a time on forked
processes, by the same search (`callable_batch`); a caller's own start, and every minimum that the
search leaves unfinished, goes through scipy (`callable_single`).
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting.callable_batch import Stack, refit_stack, solve_stack, works_by_element
from megascale.fitting.callable_outcome import Outcome
from megascale.fitting.callable_single import Minimum, Problem, Search
from megascale.fitting.forked import forked
from megascale.fitting.points import Points
from megascale.fitting.restrict import refuse_unweighable, restrictions_of
from megascale.fitting.restricted import Restrictions, solve
from megascale.fitting.restricted_models import CallableModel
from megascale.fitting.result import FitResult
from megascale.fitting.status import BAD_INPUT, Status

Array = np.ndarray

EVALUATIONS = 2000
"""Trial points of one start, where the caller sets no limit."""
ELEMENTS = 1 << 21
"""Doubles of the Jacobians of problems that are worked on together."""
PIECE = 256
"""Of these, the problems that one process solves at once."""


class OwnPredictor:
    """Evaluates a callable law; left empty where the callable cannot be pickled."""

    def __init__(self, law: Callable[..., Any], single: bool) -> None:
        self.law: Callable[..., Any] | None = law
        self.name = getattr(law, "__name__", "callable")
        self.single = single

    def __call__(self, params: Mapping[str, Any], columns: Sequence[Array]) -> Array:
        if self.law is None:
            rule = "was a function that cannot be pickled, and is not in the loaded result"
            raise FitError.of("law", self.name, rule, "a function of a module")
        return self.law(columns[0] if self.single else np.stack(columns), *params.values())

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        try:
            pickle.dumps(self.law)
        except (pickle.PicklingError, AttributeError, TypeError):
            state["law"] = None
        return state


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
    threads: int,
    progress: Callable[[int, int], None] | None,
    raise_on_bad: bool,
    known_noise: bool = False,
    drawn: Array | None = None,
    priors: Mapping[str, Any] | None = None,
    constraints: Sequence[str] | None = None,
) -> FitResult:
    """Fits `law(x, *parameters)` to every problem.

    `x` is the single input array, or the (inputs, points) array of several. Parameters start at
    `initial` (default 1) and at log-uniform multiples of it within a factor of ten, `starts` in
    all, half of them with signs drawn too; the best is polished with central differences. A start
    stops at a relative change of the parameters or the objective below `tolerance` (at least
    1e-15), or after `max_iterations` trial points. Other arguments as in `fit`.

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
    held, guess, lower, upper = _tables(names, problems, bounds, fixed, initial)
    search = Search(law, kind, loss, delta, max(tolerance, 1e-15), max_iterations or EVALUATIONS)
    out = Outcome.empty(problems, count, replicates if bootstrap else 0)
    single, restricted = points.x.shape[0] == 1, bool(priors) or bool(constraints)
    able: dict[int, Problem] = {}
    every: list[Problem] = []
    for p in range(problems):
        rows = slice(points.offsets[p], points.offsets[p + 1])
        weight = np.ones(rows.stop - rows.start) if weights is None else weights[rows]
        free = np.isnan(held[p])
        problem = Problem(
            search,
            points.x[0, rows] if single else points.x[:, rows],
            points.y[rows],
            np.sqrt(np.maximum(weight, 0)),
            held[p],
            lower[p][free],
            upper[p][free],
        )
        every.append(problem)
        status, row = _check(problem, weight)
        out.begin(p, status, row, int((weight > 0).sum()), int(free.sum()))
        if status not in BAD_INPUT:
            able[p] = problem
        elif raise_on_bad and not (restricted and status is Status.TOO_FEW_POINTS):
            where = f"problem {p}" + (f", row {rows.start + row}" if row >= 0 else "")
            raise FitError(f"{where}: the fit {BAD_INPUT[status]}.")

    def result(raw: dict[str, Any], restrictions: Restrictions | None) -> FitResult:
        return FitResult(
            law=getattr(law, "__name__", "callable"),
            names=names,
            target="y",
            inputs=tuple(f"x{k + 1}" for k in range(points.x.shape[0])),
            residual=kind,
            values=raw["params"],
            triangle=raw["covariance"],
            diagnostics=raw,
            points=points,
            confidence=confidence,
            weights=weights,
            settings={"loss": loss, "delta": delta if loss == "huber" else None, "seed": seed},
            bootstrap=out.boot_params if bootstrap else None,
            bootstrap_objective=out.boot_objective if bootstrap else None,
            engine_law=None,
            predictor=OwnPredictor(law, single),
            resample=bootstrap,
            known_noise=known_noise,
            drawn=drawn,
            restrictions=restrictions,
        )

    many = starts if initial is None else 1
    begins = {p: _starts(guess[p][able[p].free], many, seed, p) for p in able}
    if restricted:
        restrictions, raw = _restricted(
            names, every, out, guess, (lower, upper), begins, priors, constraints, known_noise
        )
        if raise_on_bad:
            refuse_unweighable(raw, restrictions, known_noise)
        return result(raw, restrictions)

    def resampled(p: int) -> tuple[Array, Array]:
        run = None if runs is None else runs[points.offsets[p] : points.offsets[p + 1]]
        rngs = [np.random.default_rng([seed, p, r, 1]) for r in range(replicates)]
        scale = None if known_noise else float(out.rms[p])
        fresh = [able[p].draw(str(bootstrap), out.params[p], scale, run, rng) for rng in rngs]
        return np.stack([y for y, _ in fresh]), np.stack([root for _, root in fresh])

    def refitted(p: int, by_element: bool) -> tuple[Array, Array]:
        theta = out.params[p][able[p].free]
        return refit_stack(able[p], theta, *resampled(p), by_element)

    done = 0
    for group in _groups(able, many):
        together = [able[p] for p in group]
        at_once = len(guess[group[0]]) > 0 and works_by_element(
            Stack.of(together), together, np.stack([begins[p][0] for p in group])
        )
        found: list[Minimum]
        if many == 1:
            # A caller's only start may lie far off: scipy's trust region finds its way better.
            found = forked(lambda p: able[p].solve(begins[p]), group, threads)
        elif at_once:
            pieces = [group[i : i + PIECE] for i in range(0, len(group), PIECE)]
            solved = forked(
                lambda piece: solve_stack(
                    [able[p] for p in piece], [begins[p] for p in piece], True
                ),
                pieces,
                threads,
                least=2,
            )
            found = [minimum for piece in solved for minimum in piece]
        else:
            found = forked(lambda p: solve_stack([able[p]], [begins[p]], False)[0], group, threads)
        for p, minimum in zip(group, found, strict=True):
            out.end(p, able[p], minimum, many)
        if bootstrap:
            sure = [p for p in group if out.status[p] == Status.CONVERGED]
            if bootstrap == "parametric" and not known_noise:
                sure = [p for p in sure if out.points[p] > out.free_params[p]]
            refits = forked(partial(refitted, by_element=at_once), sure, threads)
            for p, (free, cost) in zip(sure, refits, strict=True):
                out.boot_params[p] = held[p]
                out.boot_params[p][:, able[p].free] = free
                out.boot_objective[p] = 2 * cost if loss == "squared" else cost
        done += len(group)
        if progress:
            progress(done, problems)
    return result(vars(out), None)


def _restricted(
    names: tuple[str, ...],
    every: Sequence[Problem],
    out: Outcome,
    guess: Array,
    bounds: tuple[Array, Array],
    begins: Mapping[int, Array],
    priors: Mapping[str, Any] | None,
    constraints: Sequence[str] | None,
    known_noise: bool,
) -> tuple[Restrictions, dict[str, Any]]:
    """All problems with priors and constraints."""
    fixed = np.stack([problem.held for problem in every])
    of_any_sign = np.zeros(len(names), bool)
    restrictions, lower, upper = restrictions_of(
        priors, constraints, names, fixed, bounds, of_any_sign
    )
    few = int(Status.TOO_FEW_POINTS)
    status = np.where(out.status == few, int(Status.CONVERGED), out.status)
    begins = {
        p: begins.get(p, guess[p][problem.free][None].repeat(_many(begins), 0))
        for p, problem in enumerate(every)
    }
    model = CallableModel(names, every, status, out.bad_row, guess, (lower, upper), begins)
    return restrictions, solve(model, restrictions, known_noise)


def _many(begins: Mapping[int, Array]) -> int:
    return len(next(iter(begins.values()))) if begins else 1


def _tables(
    names: tuple[str, ...],
    problems: int,
    bounds: Mapping[str, tuple[Any, Any]] | None,
    fixed: Mapping[str, Any] | None,
    initial: Mapping[str, Any] | None,
) -> tuple[Array, Array, Array, Array]:
    """Fixed values (NaN where free), first starts, lower and upper bounds: [problems, names]."""
    shape = (problems, len(names))
    held, guess = np.full(shape, np.nan), np.ones(shape)
    lower, upper = np.full(shape, -np.inf), np.full(shape, np.inf)
    for key, value in (fixed or {}).items():
        held[:, names.index(key)] = value
    for key, value in (initial or {}).items():
        guess[:, names.index(key)] = value
    for key, (low, high) in (bounds or {}).items():
        lower[:, names.index(key)] = -np.inf if low is None else low
        upper[:, names.index(key)] = np.inf if high is None else high
    return held, guess, lower, upper


def _check(problem: Problem, weight: Array) -> tuple[Status, int]:
    """Status of the input and the first row at fault, or -1."""
    finite = np.isfinite(problem.y) & np.isfinite(weight)
    finite &= np.isfinite(np.atleast_2d(problem.x)).all(axis=0)
    tests = [(Status.NON_FINITE, ~finite), (Status.BAD_WEIGHT, weight < 0)]
    if problem.search.kind != "absolute":
        tests.append((Status.NON_POSITIVE, problem.y <= 0))
    for status, bad in tests:
        if bad.any():
            return status, int(np.argmax(bad))
    if (problem.lower > problem.upper).any():
        return Status.BAD_BOUNDS, -1
    if (weight > 0).sum() < problem.free.sum():
        return Status.TOO_FEW_POINTS, -1
    return Status.CONVERGED, -1


def _starts(guess: Array, many: int, seed: int, problem: int) -> Array:
    """The guess and log-uniform multiples of it within a factor of ten, (many, free).

    Every second of these has signs drawn as well: nobody said which sign a parameter has.
    """
    rng = np.random.default_rng([seed, problem])
    others = []
    for n in range(many - 1):
        factor = 10 ** rng.uniform(-1, 1, len(guess))
        sign = rng.choice([-1.0, 1.0], len(guess))
        others.append(guess * factor * (sign if n % 2 else 1.0))
    return np.stack([guess, *others])


def _groups(able: Mapping[int, Problem], many: int) -> Iterator[list[int]]:
    """Problems with the same free parameters, in pieces of bounded size that no thread changes."""
    kinds: dict[bytes, list[int]] = {}
    for p, problem in able.items():
        kinds.setdefault(problem.free.tobytes(), []).append(p)
    for members in kinds.values():
        left = sorted(members, key=lambda p: len(able[p].y))
        while left:
            room, size = ELEMENTS, 0
            for p in left:
                room -= len(able[p].y) * many * max(int(able[p].free.sum()), 1)
                if room < 0 and size:
                    break
                size += 1
            yield left[:size]
            left = left[size:]
