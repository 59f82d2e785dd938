"""`fit_history`: one law of whole (learning rate, batch) histories fitted to many runs at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.arguments import thread_count
from megascale.fitting.history import Array
from megascale.fitting.history_law import (
    LOG,
    NAMES,
    HistoryLaw,
    default_bounds,
    find_form,
    starts_of,
)
from megascale.fitting.history_result import (
    HistoryFit,
    HistoryRun,
    Scales,
    default_scales,
    history_job,
)
from megascale.fitting.history_whitening import whitened
from megascale.fitting.status import Status
from megascale.fitting.weight_norm import WeightNorm

AGREE = 1e-4
"""Starts whose objective is within this ratio of the best one's have found the same optimum."""


def fit_history(
    law: str | HistoryLaw,
    runs: Sequence[HistoryRun],
    *,
    starts: int = 32,
    bootstrap: int = 0,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    prior: Mapping[str, tuple[float, float]] | None = None,
    initial: Mapping[str, float] | None = None,
    scales: Scales | None = None,
    norm: WeightNorm | None = None,
    confidence: float = 0.9,
    tolerance: float = 1e-9,
    max_iterations: int = 200,
    threads: int | None = None,
    seed: int = 0,
    progress: Any = None,
) -> HistoryFit:
    """Fit a law of whole histories by least squares on the losses.

    Args:
        law: a form, or the name of one in `FORMS`.
        runs: histories and losses.
        starts: where the search begins, spread over the parameters that are not linear; those that
            are have their best values from the beginning.
        bootstrap: replicates of whole runs with replacement; 0 for none.
        fixed: {parameter: value} beside what the form holds.
        bounds: {parameter: (lower, upper)}.
        prior: {parameter: (mean, standard deviation)}: adds
            ((t - t0) / sd)^2 to the squared residuals, t the parameter or, for p, T0, B_n, omega,
            tau and tau2, its logarithm; sd is such that one residual of 1 nat weighs as one sd.
        initial: values of every free parameter: the only start.
        scales: reference learning rate, batch and progress; default from the runs.
        norm: the weights' size along a run, of laws in the effective learning rate.
        confidence: of the intervals.
        tolerance: stop when the predicted relative decrease of the objective is below it.
        max_iterations: a start's budget.
        threads: default all cores this process may use; the numbers do not depend on it.
        seed: of the bootstrap.
        progress: called now and then with (starts and replicates done, all).

    Raises:
        FitError: too few points or runs, a value that is not finite, points outside a history, or
            an option breaks a rule.
    """
    form = find_form(law).holding(**(fixed or {}))
    if not 0 < confidence < 1:
        raise FitError.of("confidence", confidence, "must lie between 0 and 1", 0.9)
    if starts < 1:
        raise FitError.of("starts", starts, "must be a whole number of at least 1", 32)
    if bootstrap < 0:
        raise FitError.of("bootstrap", bootstrap, "must not be negative", 200)
    count = _checked(form, runs)
    scales = scales or replace(default_scales([run.history for run in runs]), norm=norm)
    histories = [run.history for run in runs]
    job, pieces = history_job(form, histories, [run.tokens for run in runs], scales)
    y = np.concatenate([np.asarray(run.loss, float) for run in runs])[pieces.order]
    weights = None
    if any(run.weights is not None for run in runs):
        weights = np.concatenate(
            [np.ones(len(r.loss)) if r.weights is None else np.asarray(r.weights) for r in runs]
        )[pieces.order].astype(float)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise FitError.of("weights", "negative or NaN", "must be finite and not negative")
    kept, common = _correlations(runs, pieces.order)
    limits = {**default_bounds(form), **(bounds or {})}
    for name, (low, high) in limits.items():
        if name not in NAMES:
            raise FitError.of("bounds", name, "the family has no such parameter", list(NAMES))
        if not low <= high:
            raise FitError.of(f"bounds[{name}]", (low, high), "lower must not be above upper")
    held = np.array([form.fixed.get(n, np.nan) for n in NAMES])
    clock = _clock(form, job)
    table = starts_of(form, starts, clock, scales.batch)
    if initial is not None:
        missing = [n for n in form.free if n not in initial]
        if missing:
            raise FitError.of("initial", list(initial), f"must name every parameter, no {missing}")
        table = np.array([[float(initial.get(n, 0.0)) for n in NAMES]])
    options: dict[str, Any] = {
        "y": y,
        "weights": weights,
        "kept": kept,
        "common": common,
        "lower": np.array([limits[n][0] for n in NAMES]),
        "upper": np.array([limits[n][1] for n in NAMES]),
        "fixed": held,
        "start": np.ascontiguousarray(table),
        "tolerance": float(tolerance),
        "max_iterations": int(max_iterations),
        "threads": thread_count(threads),
        "replicates": int(bootstrap),
        "seed": int(seed),
        **_priors(prior),
    }
    raw = _engine.fit_histories(job, options, progress)
    if raw["status"] == Status.INFEASIBLE:
        raise FitError.of("law", form.name, "no start gave a finite loss; check the histories")
    values = raw["params"]
    loss, slopes = _engine.predict_histories(job, values[None], True)
    residual = loss[0] - y
    offsets = job["point_offsets"]
    own = [residual[offsets[r] : offsets[r + 1]] for r in range(len(runs))]
    names = [run.name or str(i) for i, run in enumerate(runs)]
    batches = np.concatenate([h.batch for h in histories])
    cost = raw["start_cost"]
    return HistoryFit(
        law=form,
        scales=scales,
        values=values,
        covariance=_clustered(
            form,
            *_independent(slopes[0], residual, weights, kept, common, offsets),
            offsets,
            limits,
            values,
        ),
        bootstrap=raw["boot_params"],
        rms=float(np.sqrt(np.average(residual**2, weights=weights))),
        run_rms={n: float(np.sqrt(np.mean(r**2))) for n, r in zip(names, own, strict=True)},
        objective=float(raw["objective"]),
        points=count,
        status=int(raw["status"]),
        iterations=int(raw["iterations"]),
        starts=len(table),
        agreeing=int(np.sum(cost <= cost.min() * (1 + AGREE) + 1e-300)),
        residuals=own,
        seen={
            "batch": (float(batches.min()), float(batches.max())),
            "lr": (min(h.peak for h in histories), max(h.peak for h in histories)),
            "tokens": (0.0, max(float(np.max(run.tokens)) for run in runs)),
        },
        confidence=confidence,
        settings={"seed": seed, "tolerance": tolerance},
    )


def _checked(law: HistoryLaw, runs: Sequence[HistoryRun]) -> int:
    count = 0
    for run in runs:
        loss, tokens = np.asarray(run.loss, float), np.asarray(run.tokens, float)
        label = f"run {run.name}".strip()
        if loss.shape != tokens.shape or loss.ndim != 1:
            raise FitError.of(label, f"{loss.shape}", f"needs a loss a token count {tokens.shape}")
        if not (np.isfinite(loss).all() and np.isfinite(tokens).all()):
            raise FitError.of(label, float("nan"), "losses and tokens must be finite")
        if run.weights is not None and np.shape(run.weights) != loss.shape:
            raise FitError.of(label, np.shape(run.weights), f"needs {len(loss)} weights")
        count += len(loss)
    free = len(law.free)
    if free > _engine.history_max_free:
        raise FitError.of("law", law.name, f"has {free} free parameters", _engine.history_max_free)
    if count <= free:
        raise FitError.of("runs", f"{count} points", f"{law.name} has {free} free parameters")
    return count


def _clock(law: HistoryLaw, job: Mapping[str, Any]) -> float:
    rate = np.ones_like(job["lr"]) if law.clock == "steps" else job["lr"]
    sums = np.add.reduceat(rate * job["steps"], job["piece_offsets"][:-1])
    return float(max(sums.max(), 1.0))


def _priors(prior: Mapping[str, tuple[float, float]] | None) -> dict[str, Any]:
    if not prior:
        return {}
    mean, weight = np.zeros(len(NAMES)), np.zeros(len(NAMES))
    for name, (centre, spread) in prior.items():
        if name not in NAMES or not spread > 0:
            raise FitError.of("prior", {name: (centre, spread)}, "must be {parameter: (mean, sd)}")
        i = NAMES.index(name)
        mean[i] = np.log(centre) if LOG[i] else centre
        weight[i] = 1 / spread**2
    return {"prior": mean, "prior_weight": weight}


def _correlations(runs: Sequence[HistoryRun], order: Array) -> tuple[Array | None, Array | None]:
    """`kept` and `common` of all runs, in the engine's order of points."""
    kept = common = None
    if any(run.kept is not None for run in runs):
        kept = np.concatenate(
            [np.zeros(len(r.loss)) if r.kept is None else np.asarray(r.kept, float) for r in runs]
        )[order]
        if kept.shape != order.shape or not (np.abs(kept) < 1).all():
            raise FitError.of("kept", kept.shape, "needs a correlation below one for each point")
    if any(run.common is not None for run in runs):
        shapes = [np.zeros((2, len(r.loss))) if r.common is None else r.common for r in runs]
        common = np.ascontiguousarray(np.concatenate(shapes, axis=1)[:, order])
    return kept, common


def _independent(
    slopes: Array,
    residual: Array,
    weights: Array | None,
    kept: Array | None,
    common: Array | None,
    offsets: Array,
) -> tuple[Array, Array]:
    """Slopes (P, points) and residuals, weighted and without what correlates them."""
    root = np.ones_like(residual) if weights is None else np.sqrt(weights)
    table = np.concatenate([slopes, residual[None]]).T * root[:, None]
    for a, b in itertools.pairwise(offsets):
        own = None if kept is None else kept[a:b]
        shapes = None if common is None else common[:, a:b]
        table[a:b] = whitened(own, shapes, table[a:b])
    return np.ascontiguousarray(table[:, :-1].T), table[:, -1]


def _clustered(
    law: HistoryLaw,
    slopes: Array,
    residual: Array,
    offsets: Array,
    limits: Mapping[str, tuple[float, float]],
    values: Array,
) -> Array:
    """Sandwich covariance with one cluster a run, of independent residuals and their slopes;
    parameters on a bound have none."""
    jacobian = slopes.copy()
    for name, (other, factor) in law.ties.items():
        jacobian[NAMES.index(other)] += factor * jacobian[NAMES.index(name)]
    free = [NAMES.index(n) for n in law.free]
    free = [i for i in free if limits[NAMES[i]][0] < values[i] < limits[NAMES[i]][1]]
    columns = jacobian[free].T
    scores = np.array(
        [(columns[a:b] * residual[a:b, None]).sum(axis=0) for a, b in itertools.pairwise(offsets)]
    )
    out = np.full((len(NAMES), len(NAMES)), 0.0)
    runs = len(scores)
    if runs < len(free) + 2:
        out[np.ix_(free, free)] = np.nan
        return out
    scale = np.sqrt((columns**2).sum(axis=0))
    scale[scale == 0] = 1
    unit = columns / scale
    inverse = np.linalg.pinv(unit.T @ unit, rcond=1e-13, hermitian=True)
    middle = (scores / scale).T @ (scores / scale) * runs / (runs - 1)
    out[np.ix_(free, free)] = inverse @ middle @ inverse / np.outer(scale, scale)
    return out
