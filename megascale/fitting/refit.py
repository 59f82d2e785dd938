"""Fits of a result's problems over again with other weights, or with parameters held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.catalogue import RESIDUALS
from megascale.fitting.points import Points

Array = np.ndarray


@dataclass(frozen=True)
class EngineJob:
    """What a call of the engine was asked, but for the points: enough to ask it again.

    Attributes:
        law: number of the engine's law.
        natural: number of the engine's law that takes the same parameters and may hold any of
            them; `law` itself for most.
        residual: kind of residual.
        lower, upper, fixed: (problems, parameters), or None.
        tolerance, max_iterations, threads: as in `fit`.
    """

    law: int
    natural: int
    residual: str
    lower: Array | None
    upper: Array | None
    fixed: Array | None
    tolerance: float
    max_iterations: int
    threads: int


def refit(
    job: EngineJob,
    points: Points,
    weights: Array | None,
    which: Array,
    *,
    kept: Array | None = None,
    held: Array | None = None,
    start: Array | None = None,
    of: Array | None = None,
) -> dict[str, Any]:
    """Squared-loss fits of copies of problems, all in one call of the engine.

    Args:
        job: how the problems were fitted.
        points, weights: of all problems, as they were fitted.
        which: the problem of each copy.
        kept: a factor of the weight of each point of the copies, one copy after the other; None
            keeps all points.
        held: (copies, parameters) values to hold, NaN where free, beside those of the job.
        start: (copies, parameters), the only start; None searches.
        of: the problem whose bounds and fixed values each copy has; None is `which`.

    Returns:
        The engine's own output, one entry a copy.
    """
    rows, offsets = copied_rows(points, which)
    weight = None if weights is None else weights[rows]
    if kept is not None:
        weight = kept if weight is None else weight * kept
    of = which if of is None else of
    fixed = None if job.fixed is None else job.fixed[of]
    if held is not None:
        fixed = held if fixed is None else np.where(np.isnan(held), fixed, held)

    def own(table: Array | None) -> Array | None:
        return None if table is None else np.ascontiguousarray(table)

    return _engine.fit(
        law=job.law if held is None else job.natural,
        residual=RESIDUALS[job.residual],
        loss=0,
        delta=0.0,
        offsets=offsets,
        x=np.ascontiguousarray(points.x[:, rows]),
        y=points.y[rows],
        weights=own(weight),
        lower=None if job.lower is None else own(job.lower[of]),
        upper=None if job.upper is None else own(job.upper[of]),
        fixed=own(fixed),
        initial=own(start),
        starts=0,
        compatibility_grid=False,
        tolerance=job.tolerance,
        max_iterations=job.max_iterations,
        threads=job.threads,
        bootstrap=0,
        replicates=0,
        seed=0,
        groups=None,
        known_noise=False,
        studentise=False,
        device="cpu",
        progress=None,
    )


def copied_rows(points: Points, which: Array) -> tuple[Array, Array]:
    """Rows of the flat columns that copies of problems are made of, and the copies' offsets."""
    lengths = np.diff(points.offsets)[which]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    first = np.repeat(points.offsets[which] - offsets[:-1], lengths)
    return first + np.arange(offsets[-1]), offsets


def engine_job(result: Any, argument: str, shared: bool = False) -> EngineJob:
    """How the engine fitted a result.

    Args:
        result: a `FitResult`.
        argument: what asks.
        shared: whether problems may share parameters.

    Raises:
        FitError: a callable was fitted, the loss is Huber's, there are priors or constraints, or
            problems share parameters.
    """
    if result.job is None:
        raise FitError.of(argument, result.law, "is for laws of the engine", "a law's name")
    if result.settings.get("loss") != "squared":
        raise FitError.of(argument, result.settings["loss"], "needs the squared loss", "squared")
    if result.shared and not shared:
        rule = "is for problems without parameters in common"
        raise FitError.of(argument, ", ".join(result.shared), rule, "shared=None")
    if result.restrictions is not None:
        raise FitError.of(argument, "priors or constraints", "is for fits without them", "wald")
    return result.job
