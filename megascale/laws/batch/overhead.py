"""The excess-data batch: where reaching a loss takes a stated share more data than the best batch.

Zhang et al. (arXiv 2410.21676) call the batch at which the tokens to a loss exceed those of the
(near-)optimal batch by 20 % the critical batch, and find it to be a power law of model size. It is
read here off any law of tokens and steps, or off the points themselves, E(B) = (1 + overhead)
E(reference), on the side of large batches. The reference is the law's own best batch, or a stated
one (the authors' is 256 sequences); for the classic law, whose tokens only rise with the batch, it
is the limit of small batches, and the excess-data batch is then `overhead` times E_min / S_min.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale import fitting
from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.status import FLAG_TEXT, Flag, status_words
from megascale.fitting.support import stated_noise
from megascale.formats.tokens_to_loss import tokens_at_batch
from megascale.laws.batch.optimum import WIDEST_LOG_ERROR
from megascale.laws.batch.tokens_steps import (
    LAW_PARAMETERS,
    LAWS,
    SETTING,
    enough_points,
    error_of_points,
    fit_tokens_steps,
    group_offsets,
    run_draws,
    sort_points,
)
from megascale.laws.intervals import replicate_interval
from megascale.laws.power import PowerLaw, fit_power

INTERPOLATION = "interpolation"
EXCESS_LAWS = (*LAWS, INTERPOLATION)
SMOOTH = "two_power"
"""Law whose residuals say how noisy points are that nobody ran twice."""
MISFITS = (Flag.NEVER_REACHED, Flag.ABOVE_NOISE)
"""Points that speak against the law's whole curve; an optimum outside them does not."""
FARTHEST = 30.0
"""Largest log of excess-data batch over best batch that is looked for."""
LEAST_BATCHES = 3
LEAST_GROUPS = 3
"""Two give a law without an interval."""


@dataclass(frozen=True)
class ExcessBatches:
    """Excess-data batches of one law.

    Attributes:
        law: one of `EXCESS_LAWS`.
        overhead: share of data above the reference's.
        table: a row a group: n_params, lr, target_loss, reference_batch (null for the limit of
            small batches) and reference_tokens, batch_tokens with low and high, log_error, status
            of the fit, used and the reason why not. Batches and tokens in tokens.
        confidence: of low and high.
    """

    law: str
    overhead: float
    table: pl.DataFrame
    confidence: float


def excess_batches(
    points: pl.DataFrame,
    law: str = SMOOTH,
    *,
    overhead: float = 0.2,
    reference: float | None = None,
    replicates: int = 200,
    confidence: float = 0.9,
    seed: int = 0,
) -> ExcessBatches:
    """Return the excess-data batch of every (N, learning rate, target loss).

    The classic law is fitted to log E here, as the authors do; elsewhere with relative weights.

    Args:
        points: as `tokens_steps.sort_points` takes them.
        law: of tokens and steps, or "interpolation": straight lines between the points in logs,
            the batch of fewest tokens as the reference.
        overhead: share of data above the reference's, as 0.2.
        reference: batch in tokens that data is compared with; None for the law's best.
        replicates, confidence, seed: of the intervals: percentiles over refits to new errors, as
            large as the points' own (see `TokensStepsFits.replicates`), widened by Student-t over
            normal, since that size is itself known from a few points only.

    Raises:
        FitError: an unknown law, an overhead or reference that is not positive, or too few batches.
    """
    if law not in EXCESS_LAWS:
        raise FitError.of("law", law, "must be one of", list(EXCESS_LAWS))
    if not 0 < overhead < np.inf:
        raise FitError.of("overhead", overhead, "must be positive", 0.2)
    if reference is not None and not 0 < reference < np.inf:
        raise FitError.of("reference batch", reference, "must be positive")
    if law == INTERPOLATION:
        points, found = _interpolated(points, overhead, reference, replicates, seed)
    else:
        points, found = _by_law(points, law, overhead, reference, replicates, seed)
    rows = []
    offsets = group_offsets(points)
    for g, (begin, end) in enumerate(pairwise(offsets)):
        sizes = points["batch_tokens"].to_numpy()[begin:end]
        smallest, largest = float(sizes.min()), float(sizes.max())
        middle = float(found.batch[g])
        values = found.log_draws[np.isfinite(found.log_draws[:, g]), g]
        known = np.isfinite(middle) and len(values) >= max(replicates / 2, 2)
        error = float(values.std()) if known else None
        low = high = None
        if known:
            low, high = replicate_interval(values, middle, found.freedom[g], confidence)
        reason = found.failed[g]
        if not reason and not (
            found.reference[g] >= smallest * (1 - 1e-9) or law == "classic" or reference
        ):
            reason = "the law's best batch lies below the smallest that was run: state a reference"
        elif not reason and not np.isfinite(middle):
            reason = "the data to the loss never exceeds the reference's by so much"
        elif not reason and middle > largest:
            reason = f"above the largest batch that was run ({largest:.4g} tokens)"
        elif not reason and error is not None and error > WIDEST_LOG_ERROR:
            reason = "not determined by the points"
        rows.append(
            {
                **{name: points[name][int(begin)] for name in (*SETTING, "target_loss")},
                "reference_batch": _known(found.reference[g]),
                "reference_tokens": _known(found.tokens[g]),
                "batch_tokens": _known(middle),
                "low": low,
                "high": high,
                "log_error": error,
                "status": found.status[g],
                "used": not reason,
                "reason": reason,
            }
        )
    table = pl.DataFrame(rows, infer_schema_length=None)
    return ExcessBatches(law, overhead, table, confidence)


def excess_law(found: ExcessBatches, by: Literal["n_params", "tokens"] = "n_params") -> PowerLaw:
    """Return the excess-data batch as a power law of N, or of the data the reference takes to the
    loss.

    Ordinary least squares in logs, each used group once. The law's `b` is the exponent of either.

    Raises:
        FitError: N is not known, fewer than two groups are usable, or all have the same N or D.
    """
    used = found.table.filter(pl.col("used"))
    name = "n_params" if by == "n_params" else "reference_tokens"
    rows = used.drop_nulls([name])
    if len(rows) < LEAST_GROUPS:
        reasons = found.table.filter(~pl.col("used"))["reason"].unique(maintain_order=True)
        missing = ["N is not in the table"] if len(rows) < len(used) else []
        rule = "; ".join(
            [f"a law needs {LEAST_GROUPS} with an excess-data batch", *missing, *reasons]
        )
        raise FitError.of("groups", f"{len(rows)} of {len(found.table)}", rule)
    if rows[name].n_unique() < 2:
        what = "N" if by == "n_params" else "D"
        rule = f"every group has this {what}: a power law of it needs two at least"
        raise FitError.of(what, float(rows[name][0]), rule)
    return fit_power(rows["batch_tokens"].to_numpy(), rows[name].to_numpy())


@dataclass(frozen=True)
class _Found:
    """(groups,) arrays, and (replicates, groups) log batches, NaN where one has none."""

    reference: Array
    tokens: Array
    batch: Array
    log_draws: Array
    status: list[str]
    failed: list[str]
    freedom: Array


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _by_law(
    points: pl.DataFrame,
    law: str,
    overhead: float,
    reference: float | None,
    replicates: int,
    seed: int,
) -> tuple[pl.DataFrame, _Found]:
    able = enough_points(points, law)
    if able.is_empty():
        rule = f"no target loss is reached by as many batches as the law {law} needs"
        raise FitError.of("law", law, rule, [INTERPOLATION, "classic"])
    fits = fit_tokens_steps(able, law)
    points, groups = fits.points, len(fits.groups)
    drawn, refits = fits.refits(replicates, seed=seed) if replicates else (None, None)
    if law == "classic":
        lines = _lines(points, points["tokens"].to_numpy()[None])
        chosen, tokens, batch = (values[0] for values in _of_line(*lines, overhead, reference))
        draws = np.full((0, groups), np.nan)
        if drawn is not None:
            draws = _of_line(*_lines(points, drawn), overhead, reference)[2]
    else:
        chosen, tokens, batch = _of_law(law, fits.result, (groups,), overhead, reference)
        draws = np.full((0, groups), np.nan)
        if refits is not None:
            draws = _of_law(law, refits, (replicates, groups), overhead, reference)[2]
            draws = np.where(refits.solved.reshape(draws.shape), draws, np.nan)
    failed = ["" if ok else "the fit did not converge" for ok in fits.result.solved]
    for g, flags in enumerate(fits.result.flags):
        against = [FLAG_TEXT[flag] for flag in MISFITS if flag & int(flags)]
        failed[g] = failed[g] or "; ".join(against)
    status = [status_words(code) for code in fits.result.status]
    freedom = np.maximum(np.diff(fits.offsets) - fits.result.free_params, 1)
    with np.errstate(all="ignore"):
        return points, _Found(chosen, tokens, batch, np.log(draws), status, failed, freedom)


def _lines(points: pl.DataFrame, tokens: Array) -> tuple[Array, Array]:
    """E_min and S_min of E = E_min + S_min B by least squares of log E, (replicates, groups)."""
    offsets = group_offsets(points)
    batch = np.broadcast_to(points["batch_tokens"].to_numpy(), tokens.shape)
    result = fitting.fit(
        "loss_curve",
        batch.ravel(),
        (tokens / batch).ravel(),
        offsets=np.concatenate([[0], np.cumsum(np.tile(np.diff(offsets), len(tokens)))]),
        residual="log",
        fixed={"gamma": 1.0},
        errors="status",
    )
    shape = (len(tokens), len(offsets) - 1)
    values = (np.where(result.solved, result[name], np.nan) for name in ("A", "L0"))
    least_tokens, least_steps = (value.reshape(shape) for value in values)
    return least_tokens, least_steps


def _of_line(
    least_tokens: Array, least_steps: Array, overhead: float, reference: float | None
) -> tuple[Array, Array, Array]:
    """Reference batch and tokens, and the excess-data batch, of classic laws; NaN for the limit."""
    tokens = least_tokens + least_steps * (reference or 0.0)
    with np.errstate(all="ignore"):
        batch = ((1 + overhead) * tokens - least_tokens) / least_steps
    batch = np.where(least_steps > 0, batch, np.nan)
    return np.full(tokens.shape, reference or np.nan), tokens, batch


def _of_law(
    law: str,
    result: fitting.FitResult,
    shape: tuple[int, ...],
    overhead: float,
    reference: float | None,
) -> tuple[Array, Array, Array]:
    """The same of laws with an optimum: bisection in log B above it."""
    params = {name: value.reshape(shape) for name, value in result.params.items()}
    best = result["B_opt"].reshape(shape)
    chosen = best if reference is None else np.full(shape, reference)
    with np.errstate(all="ignore"):
        tokens = tokens_at_batch(law, params, chosen)
        goal = (1 + overhead) * tokens
        low = np.log(np.maximum(chosen, best))
        high = low + FARTHEST
        reached = np.isfinite(goal) & (tokens_at_batch(law, params, np.exp(high)) >= goal)
        for _ in range(60):
            middle = (low + high) / 2
            above = tokens_at_batch(law, params, np.exp(middle)) >= goal
            low, high = np.where(above, low, middle), np.where(above, middle, high)
    return chosen, tokens, np.where(reached, np.exp(high), np.nan)


def _interpolated(
    points: pl.DataFrame, overhead: float, reference: float | None, replicates: int, seed: int
) -> tuple[pl.DataFrame, _Found]:
    points = sort_points(points)
    offsets = group_offsets(points)
    groups = len(offsets) - 1
    log_batch = np.log(points["batch_tokens"].to_numpy())
    log_tokens = np.log(points["tokens"].to_numpy())
    owner = np.repeat(np.arange(groups), np.diff(offsets))
    error = stated_noise(log_batch, log_tokens, owner, groups)
    expected = log_tokens.copy()
    smooth = enough_points(points, SMOOTH)
    if len(smooth):
        error, expected = _smoothed(points, smooth, error, owner)
    error = error_of_points(points, np.where(np.isfinite(error), error, 0.0)[owner])
    draws = (
        run_draws(points, expected, replicates, seed) if replicates else np.empty((0, len(owner)))
    )
    freedom = np.maximum(np.diff(offsets) - LAW_PARAMETERS[SMOOTH], 1)
    values = np.full((3, groups), np.nan)
    log_draws = np.full((replicates, groups), np.nan)
    failed = [""] * groups
    for g, (begin, end) in enumerate(pairwise(offsets)):
        own = slice(begin, end)
        sizes = np.unique(log_batch[own])
        if len(sizes) < LEAST_BATCHES:
            failed[g] = f"fewer than {LEAST_BATCHES} batches"
            continue
        if reference is not None and not sizes[0] - 1e-9 <= np.log(reference) <= sizes[-1] + 1e-9:
            failed[g] = f"no batch was run on either side of the reference, {reference:.4g} tokens"
            continue
        values[:, g] = np.exp(_crossing(log_batch[own], log_tokens[own], overhead, reference))
        if not (error[own] > 0).all():
            continue
        sure = _crossing(log_batch[own], expected[own], overhead, reference)[2]
        for r in range(replicates):
            noisy = expected[own] + error[own] * draws[r, own]
            moved = _crossing(log_batch[own], noisy, overhead, reference)[2]
            log_draws[r, g] = np.log(values[2, g]) + moved - sure
    status = [INTERPOLATION] * groups
    return points, _Found(values[0], values[1], values[2], log_draws, status, failed, freedom)


def _smoothed(
    points: pl.DataFrame, able: pl.DataFrame, error: Array, owner: npt.NDArray[np.int64]
) -> tuple[Array, Array]:
    """Noise of every group, no larger than a smooth law's residuals, and that law's log E."""
    keys = [*SETTING, "target_loss"]
    fits = fit_tokens_steps(able, SMOOTH)
    sizes = np.diff(fits.offsets)
    own = fits.result.rms * np.sqrt(sizes / np.maximum(sizes - fits.result.free_params, 1))
    rows = (
        points.with_row_index("row")
        .join(
            able.select(keys).unique(), on=keys, nulls_equal=True, how="semi", maintain_order="left"
        )["row"]
        .to_numpy()
    )
    log_tokens = np.log(points["tokens"].to_numpy())
    expected = log_tokens.copy()
    expected[rows] -= np.nan_to_num(fits.log_residuals())
    error = error.copy()
    numbers = owner[rows][fits.offsets[:-1]]
    error[numbers] = np.minimum(error[numbers], own)
    return error, expected


def _crossing(
    log_batch: Array, log_tokens: Array, overhead: float, reference: float | None
) -> tuple[float, float, float]:
    """Logs of the reference's batch and tokens and of the excess-data batch, NaN where none."""
    at, place = np.unique(log_batch, return_inverse=True)
    value = np.bincount(place, log_tokens) / np.bincount(place)
    least = int(np.argmin(value))
    start, floor = at[least], value[least]
    if reference is not None:
        start = float(np.log(reference))
        floor = float(np.interp(start, at, value))
    goal = floor + np.log1p(overhead)
    past = np.flatnonzero((at > max(start, at[least])) & (value >= goal))
    if not len(past):
        return float(start), float(floor), float("nan")
    after = past[0]
    share = (goal - value[after - 1]) / (value[after] - value[after - 1])
    return float(start), float(floor), float(at[after - 1] + share * (at[after] - at[after - 1]))
