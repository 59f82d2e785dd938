"""`fit`: one call for a batch of problems of one law, on the CPU, on a GPU, or through scipy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.arguments import (
    Bounds,
    bounds_by_name,
    engine_device,
    natural_variant,
    parameter_boxes,
    real_number,
    residual_kind,
    run_numbers,
    runs_drawn,
    start_by_name,
    start_count,
    thread_count,
    whole_number,
)
from megascale.fitting.catalogue import RESIDUALS, engine_law, laws
from megascale.fitting.intervals import BY_RUN, refuse_unsteady
from megascale.fitting.noise import weights_of_sigma
from megascale.fitting.own_law import fit_callable, parameter_names
from megascale.fitting.points import Points, check_parameters, collect, float_column, from_frame
from megascale.fitting.refit import EngineJob
from megascale.fitting.refused import raise_on_bad_input, refuse_few, refuse_with_shared
from megascale.fitting.restrict import (
    fit_restricted_law,
    refuse_unweighable,
    refuse_with_restrictions,
)
from megascale.fitting.result import FitResult
from megascale.fitting.shared import bootstrap_shared, fit_shared
from megascale.fitting.shared_copies import SharedProblem

BOOTSTRAPS = {
    None: 0,
    "parametric": 1,
    "pairs": 2,
    "runs": 3,
    "wild": 4,
    "wild_runs": 5,
    "studentised": 1,
}
STUDENTISED = ("studentised", "wild", "wild_runs")
"""Bootstraps that keep each replicate's errors."""
DEFAULT_DELTA = 1e-3
DEFAULT_REPLICATES = 1000
_MOST_REPLICATES = 1_000_000
DEFAULT_TOLERANCE = 1e-8


def fit(
    law: str | Callable[..., Any],
    x: Any,
    y: Any,
    *,
    offsets: Any = None,
    groups: Any = None,
    residual: str = "auto",
    weights: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    bounds: Bounds | Sequence[Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    initial: Mapping[str, Any] | Sequence[Any] | None = None,
    p0: Sequence[Any] | None = None,
    shared: Sequence[str] | None = None,
    priors: Mapping[str, Any] | None = None,
    constraints: Sequence[str] | None = None,
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
        sigma: standard deviation of each target, or of all, in the unit of y, as in scipy's
            `curve_fit`: weights of 1 / variance in the fit's residual (sigma / y unless that is
            absolute). Instead of `weights`.
        absolute_sigma: whether `sigma` holds as it stands, not only up to a common factor.
            Errors and intervals then come from it alone, and the result has `chi_squared` and
            `p_value`.
        bounds: {parameter: (lower, upper)}, numbers or one a problem; None leaves a side open. As
            in scipy, a pair (lower, upper) of numbers, or of one number a parameter in the law's
            order, is taken too.
        fixed: {parameter: value}, a number or one a problem.
        initial: {parameter: value} for every parameter, or the values in the law's order: the only
            start, instead of the search.
        p0: scipy's name for `initial`.
        shared: parameters that all problems have in common; the others are each problem's own. The
            noise is then one of all problems, and errors and limits are of all points together.
        priors: {parameter: (mean, deviation)}, a Gaussian, or {parameter: (median, deviation,
            "log")}, one of its logarithm; numbers, or one a problem. Each is one more residual,
            weighed against the noise that the points show, or that `sigma` states.
        constraints: linear equations between parameters, as ["p = q", "alpha + 2 beta = 1"].
        loss: "squared", or "huber" with `delta` in units of the residual.
        delta: where the Huber loss turns linear.
        starts: "auto" searches until starts agree; an integer fixes how many; "grid" is
            Chinchilla's 4,500-start grid (arXiv 2404.10102).
        bootstrap: None; "parametric" (new noise of the fitted size, itself drawn from what the
            residuals tell of it), "studentised" (the same, with each replicate's own errors);
            "wild" (each residual times a random factor: noise of unequal size), "wild_runs" (one
            factor for all points of a run); "pairs" (points with replacement) or "runs" (whole
            runs with replacement). `runs` labels the points of both by run. A callable takes
            parametric, pairs and runs.
        replicates: bootstrap replicates a problem.
        runs: a label a point, for bootstrap="runs" and "wild_runs" and for `influence`.
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
    confidence = real_number(confidence, "confidence", 0.9)
    tolerance = real_number(tolerance, "tolerance", DEFAULT_TOLERANCE)
    delta = real_number(delta, "delta", DEFAULT_DELTA)
    if not 0 < confidence < 1:
        raise FitError.of("confidence", confidence, "must lie between 0 and 1", 0.9)
    if errors not in ("auto", "raise", "status"):
        raise FitError.of("errors", errors, "must be auto, raise or status", "auto")
    if bootstrap not in BOOTSTRAPS:
        legal = ", ".join(str(name) for name in BOOTSTRAPS)
        raise FitError.of("bootstrap", bootstrap, f"must be one of {legal}", "parametric")
    if bootstrap in BY_RUN and runs is None:
        raise FitError.of("bootstrap", bootstrap, "needs runs, a label a point")
    if bootstrap in STUDENTISED and loss == "huber":
        raise FitError.of("bootstrap", bootstrap, "is for the squared loss", "parametric")
    if sigma is None and absolute_sigma:
        raise FitError.of("absolute_sigma", True, "needs sigma, a standard deviation a point")
    if sigma is not None and weights is not None:
        raise FitError.of("sigma", "given with weights", "is another way to weigh: give one")
    if absolute_sigma and loss == "huber":
        raise FitError.of("absolute_sigma", True, "is for the squared loss", False)
    if not 0 < tolerance < 1:
        raise FitError.of("tolerance", tolerance, "must lie between 0 and 1", DEFAULT_TOLERANCE)
    called = "initial"
    if p0 is not None:
        if initial is not None:
            raise FitError.of("p0", "given with initial", "is another name of initial: give one")
        initial, called = p0, "p0"
    replicates, seed = whole_number(replicates, "replicates", 1), whole_number(seed, "seed", 0)
    if replicates > _MOST_REPLICATES:
        rule = f"must be at most {_MOST_REPLICATES:,}"
        raise FitError.of("replicates", replicates, rule, _MOST_REPLICATES)
    max_iterations = whole_number(max_iterations, "max_iterations", 0)
    points = collect(x, y, offsets, groups)
    weight = (
        None if weights is None else float_column(points.rearrange(weights, "weights"), "weights")
    )
    if device not in ("auto", "cpu", "cuda"):
        raise FitError.of("device", device, "must be auto, cpu or cuda", "auto")
    names = parameter_names(law) if callable(law) else engine_law(law, points.x.shape[0]).params
    bounds, initial = bounds_by_name(bounds, names), start_by_name(initial, names, called)
    check_parameters(names, bounds, fixed, initial)
    if sigma is not None:
        weight = weights_of_sigma(sigma, points, _residual_of(law, residual, points))
    if bootstrap in BY_RUN or runs is not None:
        points.rearrange(runs, "runs")
    drawn = runs_drawn(points, runs, bootstrap)
    known_noise = bool(absolute_sigma)
    raises = errors == "raise" or (errors == "auto" and points.single)
    if shared:
        refuse_with_shared(law, shared, names, fixed, initial, loss, bootstrap, starts, device)
    restricted = bool(priors) or bool(constraints)
    if restricted:
        refuse_with_restrictions(loss, bootstrap, starts, device, shared)
    if callable(law):
        if bootstrap in STUDENTISED:
            rule = "is for laws of the engine; a callable takes parametric, pairs or runs"
            raise FitError.of("bootstrap", bootstrap, rule, "parametric")
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
            starts=8 if starts == "auto" else start_count(starts, law),
            bootstrap=bootstrap,
            replicates=replicates,
            runs=None if runs is None else points.rearrange(runs, "runs"),
            confidence=confidence,
            tolerance=tolerance,
            max_iterations=max_iterations,
            seed=seed,
            threads=thread_count(threads),
            progress=progress,
            raise_on_bad=raises,
            known_noise=known_noise,
            drawn=drawn,
            priors=priors,
            constraints=constraints,
        )
    known = engine_law(law, points.x.shape[0])
    if bootstrap == "studentised":
        refuse_unsteady(known.name)
    known = natural_variant(known, bounds, fixed)
    kind = residual_kind(known, residual)
    boxes = parameter_boxes(known, points.problems, bounds, fixed, initial)
    if loss not in ("squared", "huber"):
        raise FitError.of("loss", loss, "must be squared or huber", "squared")
    if loss == "huber" and not delta > 0:
        raise FitError.of("delta", delta, "must be positive", DEFAULT_DELTA)
    count = start_count(starts, known)
    public = known.name if known.name != "wsd_natural" else "wsd"
    job = EngineJob(
        law=known.index,
        natural=laws()["wsd_natural" if public == "wsd" else public].index,
        residual=kind,
        lower=boxes["lower"],
        upper=boxes["upper"],
        fixed=boxes["fixed"],
        tolerance=float(tolerance),
        max_iterations=int(max_iterations),
        threads=thread_count(threads),
    )
    restrictions = None
    if restricted:
        raw, restrictions = fit_restricted_law(
            laws()[public], job, points, weight, boxes["initial"], priors, constraints, known_noise
        )
        if raises:
            refuse_unweighable(raw, restrictions, known_noise)
    elif shared:
        which = tuple(known.params.index(name) for name in shared)
        together = SharedProblem(laws()[public], job, points, weight, which)
        raw = fit_shared(together, known_noise)
        if bootstrap is not None:
            bootstrap_shared(together, raw, known_noise, int(replicates), int(seed))
    else:
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
            groups=None if bootstrap not in BY_RUN else run_numbers(points, runs),
            known_noise=known_noise,
            studentise=bootstrap in STUDENTISED,
            device=engine_device(device, loss, bootstrap, starts),
            progress=progress,
        )
        if raises:
            raise_on_bad_input(raw, points, known)
            refuse_few(raw, drawn, bootstrap, known_noise)
    return FitResult.from_engine(
        law=laws()[public],
        residual=kind,
        raw=raw,
        points=points,
        confidence=confidence,
        weights=weight,
        settings={"loss": loss, "delta": delta if loss == "huber" else None, "seed": seed},
        resample=bootstrap,
        job=job,
        known_noise=known_noise,
        drawn=drawn,
        runs=runs,
        shared=shared or (),
        restrictions=restrictions,
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
    sigma: str | None = None,
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
        runs: column naming the run a point came from.
        sigma: column of standard deviations, in the unit of y.
        **options: passed to `fit`.

    Raises:
        FitError: a column is missing or not numeric; and all of `fit`'s.
    """
    points, keys = from_frame(frame, x, y, group)
    given: dict[str, Any] = {}
    for name, column in (("weights", weights), ("runs", runs), ("sigma", sigma)):
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


def _residual_of(law: str | Callable[..., Any], residual: str, points: Points) -> str:
    if callable(law):
        return "relative" if residual == "auto" else residual
    return residual_kind(engine_law(law, points.x.shape[0]), residual)
