"""Residuals of runs that are not independent, and seeds that are ahead or behind as a whole.

Of one run the residuals are jitter, whose correlation falls as exp(-distance / memory) over tokens,
and what the run's seed does to all of it: it learns at a rate of its own (the loss is moved by
d L / d log T) and began with a delay of its own (by d L / d T). The four sizes are estimated by
maximum likelihood from the residuals of a fit that takes points as independent; a second fit takes
them as known (feasible generalised least squares; mixed models after Laird and Ware 1982).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.history import Array
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import NAMES, HistoryLaw
from megascale.fitting.history_result import HistoryFit, HistoryRun, history_job
from megascale.fitting.history_whitening import whitened

MOST_KEPT = 0.999
"""Correlation of neighbours that is taken at most."""


@dataclass(frozen=True, slots=True)
class SeedErrors:
    """How residuals of runs hang together.

    Attributes:
        jitter: standard deviation of the jitter, nats.
        memory_tokens: over which its correlation falls by e.
        rate: standard deviation over runs of the logarithm of their rate of progress.
        delay: standard deviation over runs of their delay, in the law's progress.
    """

    jitter: float
    memory_tokens: float
    rate: float
    delay: float


def fit_correlated(
    law: str | HistoryLaw, runs: Sequence[HistoryRun], *, rounds: int = 2, **options: Any
) -> tuple[HistoryFit, SeedErrors]:
    """Fit a law with seeds and the correlation of jitter as nuisance.

    Args:
        law: form or its name.
        runs: histories and losses; what they say of correlations is replaced.
        rounds: how often sizes are estimated and the law is fitted again.
        **options: of `fit_history`.

    Returns:
        The last fit, and the sizes that it took.

    Raises:
        FitError: as `fit_history` and `estimate_seed_errors`.
    """
    plain = [replace(run, kept=None, common=None) for run in runs]
    fit = fit_history(law, plain, **{**options, "bootstrap": 0})
    errors = estimate_seed_errors(fit, plain)
    for left in range(rounds, 0, -1):
        known = with_seed_errors(plain, fit, errors)
        fit = fit_history(law, known, **options if left == 1 else {**options, "bootstrap": 0})
        if left > 1:
            errors = estimate_seed_errors(fit, plain)
    return fit, errors


def run_shapes(fit: HistoryFit, runs: Sequence[HistoryRun]) -> list[Array]:
    """By how much the losses of each run move with the logarithm of its rate of progress, and with
    a delay: (2, points) a run, in the order of its points."""
    tokens = [np.asarray(run.tokens, float) for run in runs]
    job, pieces = history_job(fit.law, [run.history for run in runs], tokens, fit.scales)
    _, slopes = _engine.predict_histories(job, fit.values[None], True)
    by_delay = np.empty(slopes.shape[2])
    signal = np.empty_like(by_delay)
    by_delay[pieces.order] = slopes[0, NAMES.index("T0")]
    signal[pieces.order] = np.maximum(slopes[0, NAMES.index("a")], 1e-300)
    progress = fit.scales.progress * signal ** (-1 / fit["p"])
    offsets = np.cumsum([0, *(len(at) for at in tokens)])
    both = np.stack([progress * by_delay, by_delay])
    return [both[:, a:b] for a, b in itertools.pairwise(offsets)]


def estimate_seed_errors(fit: HistoryFit, runs: Sequence[HistoryRun]) -> SeedErrors:
    """The sizes by maximum likelihood from a fit's residuals.

    Args:
        fit: to these runs, points taken as independent.
        runs: at least two, of three points at least.

    Raises:
        FitError: fewer.
    """
    from scipy.optimize import minimize

    if len(runs) < 2 or min(len(run.loss) for run in runs) < 3:
        rule = "correlations need at least two runs of three points"
        raise FitError.of("runs", len(runs), rule)
    parts: list[Array] = []
    first: list[int] = []
    for run, residual, shape in zip(runs, fit.residuals, run_shapes(fit, runs), strict=True):
        at = np.asarray(run.tokens, float)
        rank = np.argsort(at, kind="stable")
        gap = np.concatenate([[np.inf], np.diff(at[rank])])
        first.append(first[-1] + len(parts[-1]) if parts else 0)
        parts.append(np.column_stack([gap, residual, shape[:, rank].T]))
    table = np.concatenate(parts)
    gap, residual, shapes = table[:, 0], table[:, 1], table[:, 2:]
    typical = np.sqrt(np.mean(shapes**2, axis=0))
    jitter = float(np.sqrt(np.mean(residual**2)))
    spacing = float(np.median(gap[np.isfinite(gap)]))

    def minus_likelihood(point: Array) -> float:
        """By the recursion over neighbours, and Woodbury's identity for the shapes."""
        sd = jitter * np.exp(point[0])
        kept = np.minimum(np.exp(-gap / (spacing * np.exp(point[1]))), MOST_KEPT)
        scale = 1 / np.sqrt(1 - kept**2)
        columns = np.column_stack([residual, shapes * (jitter * np.exp(point[2:]) / typical)]) / sd
        before = np.concatenate([columns[:1], columns[:-1]])
        white = (columns - kept[:, None] * before) * scale[:, None]
        pairs = np.add.reduceat(white[:, :, None] * white[:, None, :], first, axis=0)
        inner, cross = np.eye(2) + pairs[:, 1:, 1:], pairs[:, 1:, 0]
        told = np.einsum("ri,ri->", cross, np.linalg.solve(inner, cross[:, :, None])[:, :, 0])
        logs = len(residual) * np.log(sd) - np.log(scale).sum()
        logs += 0.5 * np.linalg.slogdet(inner)[1].sum()
        return float(logs + 0.5 * (pairs[:, 0, 0].sum() - told))

    box = [(-4.0, 2.0), (-4.0, 5.0), (-7.0, 3.0), (-7.0, 3.0)]
    start = [-0.3, 0.5, -1.0, -2.0]
    options = {"ftol": 1e-7}
    best = minimize(minus_likelihood, start, method="L-BFGS-B", bounds=box, options=options).x
    spread = jitter * np.exp(best[2:]) / typical
    return SeedErrors(
        float(jitter * np.exp(best[0])),
        float(spacing * np.exp(best[1])),
        float(spread[0]),
        float(spread[1]),
    )


def with_seed_errors(
    runs: Sequence[HistoryRun], fit: HistoryFit, errors: SeedErrors
) -> list[HistoryRun]:
    """The runs with what `fit_history` needs to take their residuals as correlated.

    Args:
        runs: to be fitted.
        fit: whose curves say how rate and delay move losses.
        errors: sizes.
    """
    out = []
    for run, shape in zip(runs, run_shapes(fit, runs), strict=True):
        at = np.asarray(run.tokens, float)
        rank = np.argsort(at, kind="stable")
        kept = np.zeros(len(at))
        kept[1:] = np.exp(-np.diff(at[rank]) / errors.memory_tokens)
        kept = np.minimum(kept, MOST_KEPT)
        scaled = shape[:, rank] * np.array([[errors.rate], [errors.delay]]) / errors.jitter
        common = _directions(whitened(kept, None, scaled.T).T)
        back = np.empty(len(at), int)
        back[rank] = np.arange(len(at))
        out.append(replace(run, kept=kept[back], common=common[:, back]))
    return out


def _directions(scaled: Array) -> Array:
    """Orthogonal shapes as the engine takes them, of the covariance scaled' scaled."""
    _, size, rows = np.linalg.svd(scaled, full_matrices=False)
    return rows * np.sqrt(1 - (1 + size[:, None] ** 2) ** -0.5)
