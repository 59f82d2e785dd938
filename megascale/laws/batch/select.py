"""Which law of tokens and steps the points support: pooled AICc and leave-one-batch-out error.

A single group of ten points cannot choose a law of six parameters: its own AICc is infinite or
close to it. One residual variance shared by all groups can (`pooled_aicc`), and so can batches
that the fit has not seen. Both are printed with the rms of each law, since neither is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale import fitting
from megascale.arrays import Array
from megascale.formats.tokens_to_loss import tokens_at_batch
from megascale.laws.batch.tokens_steps import (
    LAW_PARAMETERS,
    LAWS,
    TokensStepsFits,
    enough_points,
    fit_tokens_steps,
    group_offsets,
    sort_points,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one law did.

    Attributes:
        law: its name.
        groups, points: what it was fitted to, without the groups in which some law never reaches
            a loss that a batch did reach: they are left out for all laws, and one such point
            decides nothing. Where no group is left, all count and the law's criteria are infinite.
        parameters: in all, without the shared variance.
        rms: of log E over all points; `worst_rms` of the worst group.
        pooled_aicc, pooled_bic: with one variance for all groups.
        held_out: rms of log E at batches left out, ends excepted.
        held_out_ends: the same at the smallest and the largest batch of every group.
        unreachable: batches, left out or fitted, at which the law says the loss is never reached.
        failed: groups or held-out fits that did not converge.
    """

    law: str
    groups: int
    points: int
    parameters: int
    rms: float
    worst_rms: float
    pooled_aicc: float
    pooled_bic: float
    held_out: float
    held_out_ends: float
    unreachable: int
    failed: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Verdicts on all laws over the same points.

    Attributes:
        verdicts: by rising pooled AICc.
        classic_refuted: target losses (with N) whose smallest batch needs more tokens than the
            best one by more than three standard deviations of the best law's residuals; the
            classic law can have no such minimum.
        fits: of every law, by name; all of the same groups.
    """

    verdicts: list[Verdict]
    classic_refuted: list[tuple[float | None, float]]
    fits: dict[str, TokensStepsFits]

    @property
    def best(self) -> str:
        """Law of the lowest pooled AICc."""
        return self.verdicts[0].law

    def table(self) -> pl.DataFrame:
        """One row a law."""
        return pl.DataFrame([asdict(verdict) for verdict in self.verdicts])


def select(points: pl.DataFrame, laws: Sequence[str] = LAWS) -> Selection:
    """Fit every law to the same groups and compare.

    Args:
        points: as `tokens_steps.sort_points` takes them. Groups of fewer batches than the largest
            of the laws has parameters are left out for all of them, so that they see the same.
        laws: which.

    Raises:
        FitError: no group holds enough batches.
    """
    hungriest = max(laws, key=lambda law: LAW_PARAMETERS[law])
    points = enough_points(points, hungriest)
    fits = {law: fit_tokens_steps(points, law) for law in laws}
    comparable = np.logical_and.reduce([_reached_everywhere(fit) for fit in fits.values()])
    if not comparable.any():
        comparable[:] = True
    verdicts = sorted(
        (_verdict(fit, comparable) for fit in fits.values()), key=lambda v: v.pooled_aicc
    )
    return Selection(verdicts, refute_classic(points, verdicts[0].rms), fits)


def _reached_everywhere(fits: TokensStepsFits) -> npt.NDArray[np.bool_]:
    """Whether the law reaches the loss at every batch of a group, one a group."""
    lost = ~np.isfinite(fits.log_residuals())
    return np.add.reduceat(lost, fits.offsets[:-1]) == 0


def _verdict(fits: TokensStepsFits, comparable: npt.NDArray[np.bool_]) -> Verdict:
    every = fits.log_residuals()
    sizes = np.diff(fits.offsets)
    residual = every[np.repeat(comparable, sizes)]
    begins = np.concatenate([[0], np.cumsum(sizes[comparable])])[:-1]
    held, ends, unreachable, failed = leave_one_batch_out(fits.points, fits.law)
    n, k = len(residual), int(fits.result.free_params[comparable].sum()) + 1
    total = float((residual**2).sum()) if np.isfinite(residual).all() else np.inf
    with np.errstate(divide="ignore"):  # points without noise can be met exactly
        likelihood = n * np.log(total / n)
    aicc = likelihood + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf
    per_group = np.add.reduceat(residual**2, begins) / sizes[comparable]
    return Verdict(
        law=fits.law,
        groups=int(comparable.sum()),
        points=n,
        parameters=k - 1,
        rms=float(np.sqrt(total / n)),
        worst_rms=float(np.sqrt(per_group.max())),
        pooled_aicc=float(aicc),
        pooled_bic=float(likelihood + k * np.log(n)),
        held_out=_rms(held),
        held_out_ends=_rms(ends),
        unreachable=unreachable + int((~np.isfinite(every)).sum()),
        failed=failed + int((~fits.result.solved).sum()),
    )


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")


def leave_one_batch_out(points: pl.DataFrame, law: str) -> tuple[Array, Array, int, int]:
    """Errors of log E at batches that a fit has not seen.

    Args:
        points: as `tokens_steps.sort_points` takes them.
        law: one of `tokens_steps.LAWS`.

    Returns:
        Errors at inner batches and at the ends, one a point left out; how many points lie where
        the law says "never"; and how many fits failed. Groups that would be left with fewer
        batches than parameters are not tried.
    """
    points = sort_points(points)
    batch, tokens = points["batch_tokens"].to_numpy(), points["tokens"].to_numpy()
    offsets = group_offsets(points)
    kept: list[Array] = []
    left: list[tuple[Array, bool]] = []
    for begin, end in pairwise(offsets):
        rows = np.arange(begin, end)
        sizes = np.unique(batch[rows])
        if len(sizes) - 1 < LAW_PARAMETERS[law]:
            continue
        for size in sizes:
            kept.append(rows[batch[rows] != size])
            left.append((rows[batch[rows] == size], size in (sizes[0], sizes[-1])))
    if not kept:
        none = np.empty(0)
        return none, none, 0, 0
    result = fitting.fit(
        law,
        [(tokens / batch)[rows] for rows in kept],
        [tokens[rows] for rows in kept],
        errors="status",
    )
    inner: list[float] = []
    ends: list[float] = []
    unreachable = 0
    for problem, (rows, at_end) in enumerate(left):
        if not result.solved[problem]:
            continue
        params = {name: value[problem] for name, value in result.params.items()}
        expected = tokens_at_batch(law, params, batch[rows])
        reached = np.isfinite(expected)
        unreachable += int((~reached).sum())
        errors = np.log(tokens[rows][reached] / expected[reached])
        (ends if at_end else inner).extend(errors.tolist())
    return np.array(inner), np.array(ends), unreachable, int((~result.solved).sum())


def refute_classic(points: pl.DataFrame, sigma: float) -> list[tuple[float | None, float]]:
    """(N, target loss) of the groups with an interior minimum that the classic law cannot have.

    Args:
        points: as `tokens_steps.sort_points` takes them.
        sigma: standard deviation of log E of one point.
    """
    points = sort_points(points)
    out = []
    for (n, _, target), group in points.group_by(
        ["n_params", "lr", "target_loss"], maintain_order=True
    ):
        means = (
            group.group_by("batch_tokens")
            .agg(pl.col("tokens").log().mean().alias("log_e"), pl.len().alias("runs"))
            .sort("batch_tokens")
        )
        value, runs = means["log_e"].to_numpy(), means["runs"].to_numpy()
        best = int(np.argmin(value))
        error = sigma * np.sqrt(1 / runs[0] + 1 / runs[best])
        if 0 < best < len(value) - 1 and value[0] - value[best] > 3 * error:
            out.append((n, target))
    return out
