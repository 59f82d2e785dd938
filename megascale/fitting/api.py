"""`fit`: one call for a batch of problems of one law, on the CPU, on a GPU, or through scipy."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.catalogue import RESIDUALS, Law, engine_law, laws
from megascale.fitting.own_law import fit_callable, parameter_names
from megascale.fitting.points import Points, check_parameters, collect, float_column, from_frame
from megascale.fitting.result import FitResult
from megascale.fitting.status import BAD_INPUT, Status
from megascale.machine import usable_cores

BOOTSTRAPS = {None: 0, "parametric": 1, "pairs": 2, "runs": 3}
DEFAULT_DELTA = 1e-3
DEFAULT_REPLICATES = 1000
_MOST_REPLICATES = 1_000_000
DEFAULT_TOLERANCE = 1e-8

_LARGEST_WHOLE = 2**31 - 1
"""Bound of counts that the engine takes."""

Bounds = Mapping[str, tuple[Any, Any]]


def fit(
    law: str | Callable[..., Any],
    x: Any,
    y: Any,
    *,
    offsets: Any = None,
    groups: Any = None,
    residual: str = "auto",
    weights: Any = None,
    bounds: Bounds | Sequence[Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    initial: Mapping[str, Any] | Sequence[Any] | None = None,
    p0: Sequence[Any] | None = None,
    loss: str = "squared",
    delta: float = DEFAULT_DELTA,
    starts: int | str = "auto",
    bootstrap: str | None = None,
    replicates: int = DEFAULT_REPLICATES,
    runs: Any = None,
    confidence: float = 0.9,
    tolerance: float = DEFAULT_TOLERANCE,
    max_iterations: int = 0,
    threads: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    errors: str = "auto",
) -> FitResult:
    """Fit one law to many problems at once.

    Args:
        law: a name of `law_names()`, or a callable `f(x, *parameters)` fitted through scipy.
        x: inputs. Tokens-steps laws take S; `loss_surface` (S, B) in steps and tokens;
            `chinchilla` (N, D); `power_law` one to four columns. Several inputs are the rows of a
            2-D array.
        y: targets: E in tokens for tokens-steps laws, a loss in nats, a learning rate or a batch.
            A list of arrays or a 2-D array holds one problem an entry or row.
        offsets: problem p owns points offsets[p] to offsets[p + 1].
        groups: a label a point instead of offsets.
        residual: "relative" minimises the sum of (f/y - 1)^2, "log" of (log f - log y)^2,
            "absolute" of (f - y)^2. "ray", for tokens-steps laws, measures along E = B S: log S
            at given B. "auto" takes the law's own: "ray" for tokens-steps laws.
        weights: a non-negative weight a point, multiplying its squared residual (or Huber loss).
        bounds: {parameter: (lower, upper)}, numbers or one a problem; None leaves a side open. As
            in scipy, a pair (lower, upper) of numbers, or of one number a parameter in the law's
            order, is taken too.
        fixed: {parameter: value}, a number or one a problem.
        initial: {parameter: value} for every parameter, or the values in the law's order: the only
            start, instead of the search.
        p0: scipy's name for `initial`.
        loss: "squared", or "huber" with `delta` in units of the residual.
        delta: where the Huber loss turns linear.
        starts: "auto" searches until starts agree; an integer fixes how many; "grid" is
            Chinchilla's 4,500-start grid (arXiv 2404.10102).
        bootstrap: None, "parametric" (new noise of the fitted size), "pairs" (points with
            replacement) or "runs" (whole runs with replacement, `runs` labels the points).
        replicates: bootstrap replicates a problem.
        runs: a label a point for bootstrap="runs".
        confidence: of the intervals the result reports.
        tolerance: stop when the predicted relative decrease of the objective is below it.
        max_iterations: a start's budget; 0 is the solver's own.
        threads: default that of `use_threads`, else all cores this process may use. The
            numbers do not depend on it.
        device: "cpu", "cuda" or "auto", which is the CPU: its numbers are bitwise the same on every
            run, and a GPU's differ from them in the last digits.
        seed: of the bootstrap draws.
        progress: called now and then with (problems done, problems).
        errors: "raise" on the first problem with bad input, "status" to mark it and go on, "auto":
            raise for one problem, status for a batch.

    Returns:
        Per-problem arrays, see `FitResult`.

    Raises:
        FitError: an argument breaks a rule, or (see `errors`) a problem's points do.
    """
    confidence = _real(confidence, "confidence", 0.9)
    tolerance = _real(tolerance, "tolerance", DEFAULT_TOLERANCE)
    delta = _real(delta, "delta", DEFAULT_DELTA)
    if not 0 < confidence < 1:
        raise FitError.of("confidence", confidence, "must lie between 0 and 1", 0.9)
    if errors not in ("auto", "raise", "status"):
        raise FitError.of("errors", errors, "must be auto, raise or status", "auto")
    if bootstrap not in BOOTSTRAPS:
        raise FitError.of("bootstrap", bootstrap, "must be parametric, pairs or runs", "parametric")
    if bootstrap == "runs" and runs is None:
        raise FitError.of("bootstrap", "runs", "needs runs, a label a point")
    if not 0 < tolerance < 1:
        raise FitError.of("tolerance", tolerance, "must lie between 0 and 1", DEFAULT_TOLERANCE)
    if p0 is not None:
        if initial is not None:
            raise FitError.of("p0", "given with initial", "is another name of initial: give one")
        initial = p0
    replicates, seed = _whole(replicates, "replicates", 1), _whole(seed, "seed", 0)
    if replicates > _MOST_REPLICATES:
        rule = f"must be at most {_MOST_REPLICATES:,}"
        raise FitError.of("replicates", replicates, rule, _MOST_REPLICATES)
    max_iterations = _whole(max_iterations, "max_iterations", 0)
    points = collect(x, y, offsets, groups)
    weight = (
        None if weights is None else float_column(points.rearrange(weights, "weights"), "weights")
    )
    if device not in ("auto", "cpu", "cuda"):
        raise FitError.of("device", device, "must be auto, cpu or cuda", "auto")
    names = parameter_names(law) if callable(law) else engine_law(law, points.x.shape[0]).params
    bounds, initial = _named_bounds(bounds, names), _named_start(initial, names)
    check_parameters(names, bounds, fixed, initial)
    if callable(law):
        if device == "cuda":
            raise FitError.of("device", "cuda", "a callable is fitted on the CPU", "cpu")
        return fit_callable(
            law,
            points,
            residual=residual,
            weights=weight,
            bounds=bounds,
            fixed=fixed,
            initial=initial,
            loss=loss,
            delta=delta,
            starts=8 if starts == "auto" else _start_count(starts, law),
            bootstrap=bootstrap,
            replicates=replicates,
            runs=None if runs is None else points.rearrange(runs, "runs"),
            confidence=confidence,
            tolerance=tolerance,
            max_iterations=max_iterations,
            seed=seed,
            threads=thread_count(threads),
            progress=progress,
            raise_on_bad=errors == "raise" or (errors == "auto" and points.single),
        )
    known = engine_law(law, points.x.shape[0])
    known = _natural_variant(known, bounds, fixed)
    kind = _residual(known, residual)
    boxes = _boxes(known, points.problems, bounds, fixed, initial)
    if loss not in ("squared", "huber"):
        raise FitError.of("loss", loss, "must be squared or huber", "squared")
    if loss == "huber" and not delta > 0:
        raise FitError.of("delta", delta, "must be positive", DEFAULT_DELTA)
    count = _start_count(starts, known)
    numbers = _run_numbers(points, runs) if bootstrap == "runs" else None
    raw = _engine.fit(
        law=known.index,
        residual=RESIDUALS[kind],
        loss=int(loss == "huber"),
        delta=float(delta),
        offsets=points.offsets,
        x=points.x,
        y=points.y,
        weights=weight,
        **boxes,
        starts=count,
        compatibility_grid=starts == "grid",
        tolerance=float(tolerance),
        max_iterations=int(max_iterations),
        threads=thread_count(threads),
        bootstrap=BOOTSTRAPS[bootstrap],
        replicates=int(replicates),
        seed=int(seed) & 0xFFFF_FFFF_FFFF_FFFF,
        groups=numbers,
        device=_device(device, loss, bootstrap, starts),
        progress=progress,
    )
    if errors == "raise" or (errors == "auto" and points.single):
        _raise_on_bad_input(raw, points, known)
    public = known.name if known.name != "wsd_natural" else "wsd"
    return FitResult.from_engine(
        law=laws()[public],
        residual=kind,
        raw=raw,
        points=points,
        confidence=confidence,
        weights=weight,
        settings={"loss": loss, "delta": delta if loss == "huber" else None, "seed": seed},
        resample=bootstrap,
        drawn_runs=None if numbers is None else run_counts(numbers, points.offsets),
    )


def fit_frame(
    law: str | Callable[..., Any],
    frame: Any,
    *,
    x: str | list[str],
    y: str,
    group: str | list[str] | None = None,
    weights: str | None = None,
    runs: str | None = None,
    **options: Any,
) -> FitResult:
    """`fit` on the columns of a polars frame.

    Args:
        law: as in `fit`.
        frame: the table, one point a row.
        x: input column or columns.
        y: target column.
        group: column or columns whose distinct values make the problems; they label the result.
        weights: column of weights.
        runs: column naming the run a point came from, for bootstrap="runs".
        **options: passed to `fit`.

    Raises:
        FitError: a column is missing or not numeric; and all of `fit`'s.
    """
    points, keys = from_frame(frame, x, y, group)
    given: dict[str, Any] = {}
    for name, column in (("weights", weights), ("runs", runs)):
        if column is None:
            continue
        if column not in list(frame.columns):
            raise FitError.of("column", column, "is not in the table", list(frame.columns))
        given[name] = points.rearrange(list(frame[column]), name)
    whole = points.single
    result = fit(
        law, points.x, points.y, offsets=None if whole else points.offsets, **given, **options
    )
    result.labels = points.labels
    result.label_names = keys
    return result


def _whole(value: Any, name: str, least: int) -> int:
    """A whole number, numpy's too.

    Raises:
        FitError: it is another kind of number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise FitError.of(name, value, "must be a whole number", least) from None
    if isinstance(value, bool) or (number < least and name != "seed"):
        raise FitError.of(name, value, f"must be a whole number of at least {least}", least)
    if name != "seed" and number > _LARGEST_WHOLE:
        raise FitError.of(name, value, f"must be at most {_LARGEST_WHOLE}", _LARGEST_WHOLE)
    return number


def _real(value: Any, name: str, nearest: float) -> float:
    """A number that is no text and no array of several.

    Raises:
        FitError: it is another kind of value.
    """
    if isinstance(value, (str, bytes, bool)):
        raise FitError.of(name, value, "must be a number", nearest)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise FitError.of(name, value, "must be a number", nearest) from None


def _named_bounds(bounds: Any, names: Sequence[str]) -> Bounds | None:
    """Bounds by parameter, from scipy's (lower, upper) where they are given so."""
    if bounds is None or isinstance(bounds, Mapping):
        return bounds
    rule = "must be {parameter: (lower, upper)}, or a pair (lower, upper) as in scipy"
    try:
        low, high = bounds
        sides = [np.broadcast_to(np.asarray(side, float), (len(names),)) for side in (low, high)]
    except (TypeError, ValueError):
        raise FitError.of("bounds", bounds, f"{rule}, each one number or {len(names)}") from None
    return {
        name: (float(below), float(above))
        for name, below, above in zip(names, *sides, strict=True)
        if np.isfinite(below) or np.isfinite(above) or np.isnan(below) or np.isnan(above)
    }


def _named_start(initial: Any, names: Sequence[str]) -> Mapping[str, Any] | None:
    """A start by parameter, from values in the law's order where it is given so."""
    if initial is None or isinstance(initial, Mapping):
        return initial
    values = list(np.atleast_1d(np.asarray(initial, dtype=object)))
    if len(values) != len(names):
        raise FitError.of("initial", f"{len(values)} values", f"must be {len(names)}: {names}")
    return dict(zip(names, values, strict=True))


def _start_count(starts: int | str, law: Any) -> int:
    if isinstance(starts, str) and starts == "auto":
        return 0
    if isinstance(starts, str) and starts == "grid":
        if getattr(law, "name", None) != "chinchilla":
            raise FitError.of("starts", "grid", "is for the chinchilla law", "auto")
        return 0
    try:
        count = operator.index(starts)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if not 1 <= count <= 100_000:
        raise FitError.of("starts", starts, "must be auto, grid or 1 to 100000", "auto")
    return count


def _residual(law: Law, residual: str) -> str:
    if residual == "auto":
        return law.default_residual
    if residual not in RESIDUALS:
        legal = ["auto", *RESIDUALS]
        raise FitError.of("residual", residual, "must be one of " + ", ".join(legal), "auto")
    if residual == "ray" and not law.tokens_steps:
        raise FitError.of("residual", "ray", f"{law.name} is no tokens-steps law", "relative")
    if residual in ("relative", "log") and not law.positive_target:
        raise FitError.of("residual", residual, f"{law.name} has targets of any sign", "absolute")
    return residual


def _natural_variant(law: Law, bounds: Bounds | None, fixed: Mapping[str, Any] | None) -> Law:
    joints = {"S_1", "S_opt", "S_2"}
    named = set(bounds or ()) | set(fixed or ())
    return laws()["wsd_natural"] if law.name == "wsd" and named & joints else law


def _boxes(
    law: Law,
    problems: int,
    bounds: Bounds | None,
    fixed: Mapping[str, Any] | None,
    initial: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Bounds, fixed values and starts as (problems, parameters) arrays, or None."""

    def table(values: Mapping[str, Any], name: str, fill: float) -> np.ndarray:
        out = np.full((problems, len(law.params)), fill)
        for key, value in values.items():
            if key not in law.params:
                raise FitError.of(name, key, f"{law.name} has no such parameter", list(law.params))
            if value is None:
                continue
            try:
                out[:, law.params.index(key)] = value
            except (TypeError, ValueError):
                raise FitError.of(
                    f"{name}[{key}]", value, f"must be a number or {problems} numbers"
                ) from None
        return np.ascontiguousarray(out)

    out: dict[str, Any] = dict.fromkeys(("lower", "upper", "fixed", "initial"))
    if bounds:
        for key, pair in bounds.items():
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise FitError.of(f"bounds[{key}]", pair, "must be a pair (lower, upper)")
        out["lower"] = table({k: v[0] for k, v in bounds.items()}, "bounds", -np.inf)
        out["upper"] = table({k: v[1] for k, v in bounds.items()}, "bounds", np.inf)
        if np.isnan(out["lower"]).any() or np.isnan(out["upper"]).any():
            raise FitError.of("bounds", "NaN", "must be numbers or None")
    if fixed:
        out["fixed"] = table(fixed, "fixed", np.nan)
    if initial:
        missing = [name for name in law.params if name not in initial]
        if missing:
            raise FitError.of("initial", list(initial), f"must name every parameter, no {missing}")
        out["initial"] = table(initial, "initial", np.nan)
        if not np.isfinite(out["initial"]).all():
            raise FitError.of("initial", "NaN or infinity", "must be finite numbers")
    return out


def _run_numbers(points: Points, runs: Any) -> np.ndarray:
    """Runs numbered from 0 within every problem."""
    labels = points.rearrange(runs, "runs")
    out = np.empty(len(labels), np.int32)
    for begin, end in zip(points.offsets[:-1], points.offsets[1:], strict=True):
        out[begin:end] = np.unique(labels[begin:end], return_inverse=True)[1]
    return out


def use_threads(threads: int | None) -> None:
    """How many threads the fits of this process use where they are not told.

    Args:
        threads: None is all cores that this process may use.

    Raises:
        FitError: not a positive integer.
    """
    global _default_threads
    _default_threads = None if threads is None else thread_count(threads)


_default_threads: int | None = None


def run_counts(numbers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """How many runs every problem has, of runs numbered from 0 within each."""
    return np.array([int(numbers[begin:end].max()) + 1 for begin, end in pairwise(offsets)])


def thread_count(threads: int | None) -> int:
    """Threads of a fit: those asked for, those of `use_threads`, or all cores of this process.

    Raises:
        FitError: not a positive integer.
    """
    threads = _default_threads if threads is None else threads
    if threads is None:
        return len(usable_cores())
    return _whole(threads, "threads", 1)


def _device(device: str, loss: str, bootstrap: str | None, starts: int | str) -> str:
    """The engine's device. The GPU runs squared-loss fits; the rest is the CPU's.

    "auto" is the CPU: the last digits must not depend on what else a machine has.
    """
    able = loss == "squared" and bootstrap is None and starts != "grid"
    if device == "cuda":
        if not _engine.built_with_cuda:
            raise FitError.of(
                "device",
                "cuda",
                "this build has no CUDA back end (MEGASCALE_CUDA=1 adds it)",
                "cpu",
            )
        if _engine.cuda_devices() == 0:
            raise FitError.of("device", "cuda", "no CUDA device is present", "cpu")
        if not able:
            raise FitError.of(
                "device", "cuda", "runs squared-loss fits without bootstrap or grid starts", "cpu"
            )
        return "cuda"
    return "cpu"


def _raise_on_bad_input(raw: dict[str, Any], points: Points, law: Law) -> None:
    for status, words in BAD_INPUT.items():
        hits = np.flatnonzero(raw["status"] == int(status))
        if len(hits) == 0:
            continue
        problem = int(hits[0])
        row = int(raw["bad_row"][problem])
        rule = f"the {law.name} fit {words}"
        begin = int(points.offsets[problem])
        if row >= 0:
            at = begin + row
            original = at if points.order is None else int(points.order[at])
            inputs = ", ".join(
                f"{name} = {float(points.x[k, at])!r}" for k, name in enumerate(law.inputs)
            )
            raise FitError(
                f"problem {problem}, row {original}: {rule} ({inputs}, "
                f"{law.target} = {float(points.y[at])!r})."
            )
        found = int(raw["points"][problem]) or int(points.offsets[problem + 1]) - begin
        detail = f" ({found} points)" if status is Status.TOO_FEW_POINTS else ""
        raise FitError(f"problem {problem}: {rule}{detail}.")
