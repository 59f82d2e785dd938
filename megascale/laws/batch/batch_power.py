"""The best batch as a power law of tokens, and of N, through the best batches of all targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.laws.batch.optimum import ABOVE, BELOW, OptimalBatches
from megascale.laws.power import PowerLaw, fit_power

LEAST_REPLICATES = 20
SHARED_BIAS = ("wsd",)
"""Laws whose best batch is off by about the error of one target, in a way that targets share.

The pieces' ends are no regular parameters: with 1 to 2 % of noise the piecewise law's best batch
comes out low by half to nine tenths of a target's error, at all targets or drifting over them
(docs/coverage.md). Averaging cannot remove that, so the law is given the error of a line besides
whose points are all together as good as one.
"""


@dataclass(frozen=True)
class BatchPower:
    """B_opt as a power law of D, and of N where the points hold several.

    Attributes:
        law: the law; its covariance is the bootstrap's, widened by `birge` squared.
        birge: root of the squares left around the law over what the bootstrap's refits leave, at
            least 1: far above it the points are no power law within their errors.
    """

    law: PowerLaw
    birge: float


def fit_batch_power(optimal: OptimalBatches) -> BatchPower:
    """The power law of B_opt in D, and in N where the points hold several.

    Targets weigh by the error that their points' expected errors make, which the layout of the
    points decides and not the target's own scatter. The covariance is that of refits to the joint
    bootstrap, widened by Birge's factor and by rival laws; its freedom is that of the runs, not of
    the targets.

    Raises:
        FitError: fewer usable points than the law has parameters, or tokens that hardly vary.
    """
    rows = optimal.table.filter(pl.col("used"))
    sizes = rows["n_params"].drop_nulls()
    with_n = len(sizes) == len(rows) and sizes.n_unique() > 1
    needed = 3 if with_n else 2
    if len(rows) < needed:
        unused = optimal.table.filter(~pl.col("used"))["reason"]
        reasons = unused.unique(maintain_order=True).to_list()
        nearest = []
        if any(BELOW in reason for reason in reasons):
            nearest.append("run smaller batches, or longer: the best batch grows as the loss falls")
        if any(ABOVE in reason for reason in reasons):
            nearest.append("run larger batches")
        raise FitError.of(
            "targets with a best batch",
            f"{len(rows)} of {len(optimal.table)}",
            f"B_opt(D) needs {needed}; {'; '.join(reasons)}",
            nearest or None,
        )
    spread = np.nan_to_num(optimal.sensitivity[optimal.used], nan=1.0)
    weight = (spread.min() / spread) ** 2
    n = rows["n_params"].to_numpy() if with_n else None
    d, batch = rows["tokens"].to_numpy(), rows["batch_tokens"].to_numpy()
    law = fit_power(batch, d, n, weights=weight)
    if "b" in law.left_out:
        raise FitError.of("B_opt(D)", f"{len(rows)} targets", law.left_out["b"], "longer runs")
    covariance, expected = _replicate_covariance(optimal, law, n, weight)
    residual = np.log(batch / law.at(n, d))
    birge = max(1.0, float(np.sqrt((weight * residual**2).sum() / expected)))
    covariance = covariance * birge**2 + _between_laws(optimal, law, n, weight)
    if optimal.law in SHARED_BIAS:
        covariance += _of_one_target(law, n, d, weight, rows["log_error"].to_numpy())
    known = len(sizes) == len(rows)
    n_range = (float(sizes.to_numpy().min()), float(sizes.to_numpy().max())) if known else None
    law = replace(law, covariance=covariance, n_range=n_range, freedom=_freedom(optimal))
    return BatchPower(law, birge)


def _between_laws(optimal: OptimalBatches, law: PowerLaw, n: Array | None, weight: Array) -> Array:
    """Sum of w d d' over the rivals, d their (log coef, a, b) less the law's own."""
    total = np.zeros((3, 3))
    place = [0, 1, 2] if law.with_n else [0, 2]
    for _, share, log_tokens, log_batch in optimal.rivals:
        tokens, batch = log_tokens[optimal.used], log_batch[optimal.used]
        there = np.isfinite(tokens) & np.isfinite(batch)
        if there.sum() < len(place):
            continue
        size = None if n is None else n[there]
        away = _refits(
            tokens[None, there],
            (batch[there] - np.log(law.at(size, np.exp(tokens[there]))))[None],
            size if law.with_n else None,
            weight[there],
        )[0][0]
        total += share * np.outer(away, away)
    return total


def _of_one_target(law: PowerLaw, n: Array | None, d: Array, weight: Array, error: Array) -> Array:
    """Covariance of (log coef, a, b) with the targets' errors and the weight of one target."""
    place = [0, 1, 2] if law.with_n else [0, 2]
    logs = [np.ones_like(d), np.zeros_like(d) if n is None else np.log(n), np.log(d)]
    design = np.stack([logs[i] for i in place], axis=1)
    share = weight / weight.sum()
    size = float(share @ error**2)
    out = np.zeros((3, 3))
    information = design.T @ (share[:, None] * design)
    out[np.ix_(place, place)] = size * np.linalg.pinv(information, hermitian=True, rcond=1e-14)
    return out


def _freedom(optimal: OptimalBatches) -> float:
    """Degrees of freedom of the law's errors: those of the settings' runs together."""
    rows = optimal.table.with_columns(freedom=pl.Series(optimal.freedom)).filter(pl.col("used"))
    least = rows.group_by("n_params", "lr").agg(pl.col("freedom").mean())
    return float(least["freedom"].sum())


def _replicate_covariance(
    optimal: OptimalBatches, law: PowerLaw, n: Array | None, weight: Array
) -> tuple[Array, float]:
    """Covariance of (log coef, a, b) over the bootstrap replicates, about the law itself.

    Also the mean of their weighted squared residuals: what noise alone leaves around the law.
    """
    log_d, log_b = optimal.log_tokens[:, optimal.used], optimal.log_batch[:, optimal.used]
    whole = np.isfinite(log_d).all(axis=1) & np.isfinite(log_b).all(axis=1)
    if whole.sum() < LEAST_REPLICATES:
        raise FitError.of(
            "bootstrap",
            f"{int(whole.sum())} whole replicates",
            f"fewer than {LEAST_REPLICATES} have all targets",
        )
    draws, left = _refits(log_d[whole], log_b[whole], n if law.with_n else None, weight)
    good = np.isfinite(draws).all(axis=1)
    own = np.array([np.log(law.coef), law.a, law.b])
    away = draws[good] - own
    return away.T @ away / (len(away) - 1), float(left[good].mean())


def _refits(log_d: Array, log_b: Array, n: Array | None, weight: Array) -> tuple[Array, Array]:
    """(log coef, a, b) of every replicate by weighted least squares, and the squares left.

    Args:
        log_d, log_b: (replicates, targets).
        n: (targets,) N, or None for laws without it.
        weight: (targets,).
    """
    columns = [np.ones_like(log_d), log_d]
    if n is not None:
        columns.insert(1, np.broadcast_to(np.log(n), log_d.shape))
    x = np.stack(columns, axis=-1)
    middle = x.mean(axis=1, keepdims=True)
    middle[..., 0] = 0.0
    x = x - middle
    normal = np.einsum("rti,t,rtj->rij", x, weight, x)
    right = np.einsum("rti,t,rt->ri", x, weight, log_b)
    theta = np.einsum("rij,rj->ri", np.linalg.pinv(normal, hermitian=True), right)
    left = (weight * (log_b - np.einsum("rti,ri->rt", x, theta)) ** 2).sum(axis=1)
    theta[:, 0] -= (theta[:, 1:] * middle[:, 0, 1:]).sum(axis=1)
    place = [0, 2] if n is None else [0, 1, 2]
    out = np.zeros((len(theta), 3))
    out[:, place] = theta
    return out, left
