"""Crossings: where the larger batch overtakes the smaller one at equal tokens.

At a constant learning rate a small batch falls faster and stays higher (arXiv 2601.05034), so the
difference of two curves changes its sign once. The change point is the split of the differences
that separates negative from positive best; its place is the root of a straight line through the
differences around it, with the line's own error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise

import numpy as np
import polars as pl

from megascale.curves.curve import Array, Curve, mean_curve

SPAN = 2.0
"""The line is drawn through points within this factor of the change point's tokens."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Two batch sizes with the same loss after the same tokens.

    Attributes:
        batch_small, batch_large: global batches in tokens.
        tokens: where they cross.
        log_error: standard error of log tokens.
        loss, loss_error: loss there, in nats per token.
        significance: how many standard errors the smaller batch leads by before the crossing or
            the larger one after it, whichever is less.
        runs: runs that were compared.
        n_params, lr: of the group.
    """

    batch_small: float
    batch_large: float
    tokens: float
    log_error: float
    loss: float
    loss_error: float
    significance: float
    runs: int
    n_params: float | None
    lr: float | None


def by_setting(curves: Iterable[Curve]) -> dict[tuple[float | None, float | None], list[Curve]]:
    """Curves of constant batch by (N, learning rate)."""
    groups = defaultdict(list)
    for curve in curves:
        if curve.batch_tokens is not None:
            groups[(curve.n_params, curve.lr)].append(curve)
    return dict(groups)


def by_batch(curves: Iterable[Curve]) -> dict[float, list[Curve]]:
    """Curves by batch, smallest batch first; several of one batch are seeds."""
    groups = defaultdict(list)
    for curve in curves:
        if curve.batch_tokens is not None:
            groups[curve.batch_tokens].append(curve)
    return dict(sorted(groups.items()))


def find_crossings(
    curves: Iterable[Curve], *, all_pairs: bool = False, min_significance: float = 2.0
) -> list[Crossing]:
    """Crossings among runs of one model size and learning rate each.

    Args:
        curves: of any settings; those whose batch changed are left out.
        all_pairs: every pair of batch sizes, not only neighbours.
        min_significance: crossings below it are left out.

    Returns:
        By setting, then by batch. Seeds of one batch are averaged first.
    """
    found = []
    for group in by_setting(curves).values():
        seeds = by_batch(group)
        means = [mean_curve(same) for same in seeds.values()]
        pairs = combinations(range(len(means)), 2) if all_pairs else pairwise(range(len(means)))
        counts = [len(same) for same in seeds.values()]
        for i, j in pairs:
            crossing = cross(means[i], means[j], runs=counts[i] + counts[j])
            if crossing is not None and crossing.significance >= min_significance:
                found.append(crossing)
    return found


def cross(small: Curve, large: Curve, *, runs: int = 2) -> Crossing | None:
    """Where `large` overtakes `small`, or None where it never does.

    Args:
        small, large: curves of the smaller and the larger batch.
        runs: how many runs they stand for.
    """
    low = max(small.tokens[0], large.tokens[0])
    high = min(small.tokens[-1], large.tokens[-1])
    coarse = small if len(small.tokens) <= len(large.tokens) else large
    grid = coarse.tokens[(coarse.tokens >= low) & (coarse.tokens <= high)]
    if len(grid) < 4:
        return None
    x = np.log(grid)
    lead = small.at(grid) - large.at(grid)
    variance = _variance(small, grid) + _variance(large, grid)
    if not np.isfinite(variance).all() or (variance <= 0).any():
        variance = np.full(len(grid), max(float(np.var(np.diff(lead))) / 2, 1e-300))
    weight = 1 / variance
    before = np.cumsum(weight * lead)
    score = before[-1] - 2 * before[:-1]
    split = int(np.argmax(score))
    z_before = -before[split] / np.sqrt(weight[: split + 1].sum())
    z_after = (before[-1] - before[split]) / np.sqrt(weight[split + 1 :].sum())
    if z_before <= 0 or z_after <= 0:
        return None
    place, error = _root(x, lead, weight, split)
    loss = float((small.at(np.exp(place)) + large.at(np.exp(place))) / 2)
    slope = float(np.interp(place, x[:-1], np.diff(small.at(grid)) / np.diff(x)))
    assert small.batch_tokens is not None
    assert large.batch_tokens is not None
    return Crossing(
        batch_small=small.batch_tokens,
        batch_large=large.batch_tokens,
        tokens=float(np.exp(place)),
        log_error=error,
        loss=loss,
        loss_error=abs(slope) * error,
        significance=float(min(z_before, z_after)),
        runs=runs,
        n_params=small.n_params,
        lr=small.lr,
    )


def _variance(curve: Curve, grid: Array) -> Array:
    return np.interp(np.log(grid), np.log(curve.tokens), curve.error**2)


def _root(x: Array, lead: Array, weight: Array, split: int) -> tuple[float, float]:
    """Root of the weighted line through the leads around the split, and its standard error."""
    middle = (x[split] + x[split + 1]) / 2
    near = np.abs(x - middle) <= np.log(SPAN)
    if near.sum() < 4:
        near[np.argsort(np.abs(x - middle))[:4]] = True
    u, v, w = x[near] - middle, lead[near], weight[near]
    design = np.stack([np.ones_like(u), u], axis=1)
    normal = np.linalg.inv(design.T @ (w[:, None] * design))
    intercept, slope = normal @ (design.T @ (w * v))
    scale = max(1.0, float((w * (v - intercept - slope * u) ** 2).sum()) / max(near.sum() - 2, 1))
    root = -intercept / slope if slope > 0 else np.inf
    if not u[0] <= root <= u[-1]:
        step = lead[split + 1] - lead[split]
        share = -lead[split] / step if step > 0 else 0.5
        place = x[split] + min(max(share, 0.0), 1.0) * (x[split + 1] - x[split])
        return float(place), float(u[-1] - u[0]) / np.sqrt(12)
    at = np.array([1.0, root])
    return float(middle + root), float(np.sqrt(scale * at @ normal @ at) / slope)


def crossing_table(crossings: list[Crossing]) -> pl.DataFrame:
    """One row a crossing."""
    return pl.DataFrame([asdict(crossing) for crossing in crossings])
