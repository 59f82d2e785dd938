"""Where two curves cross: their difference over common tokens, smoothed as a curve is.

The difference is taken point by point before it is smoothed, so that what both runs share drops
out: the noise of the same data, the bend of the same decay. Its scatter is measured on itself. A
crossing counts where the difference is beyond `SURE` standard errors somewhere on both sides of it,
back to the crossing before and on to the one after. At a constant learning rate a small batch
falls faster and stays higher (arXiv 2601.05034), so two batch sizes cross once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.curves.curve import Curve, mean_curve
from megascale.curves.smoothing import LEAST_LOCAL, Trend, joined_points, local_trend, scatter

SURE = 3.0
"""Standard errors by which each curve has to lead on its side of a crossing."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Two curves with the same loss after the same tokens.

    Attributes:
        tokens: where they cross.
        log_error: standard error of log tokens; None where too few points tell it.
        loss, loss_error: loss there, in nats per token.
        significance: the largest number of standard errors by which the first curve leads on the
            one side, or the second on the other, whichever is less; None where it is not known.
        second_leads: whether the second curve is the lower one after it.
    """

    tokens: float
    log_error: float | None
    loss: float
    loss_error: float | None
    significance: float | None
    second_leads: bool


def crossings(first: Curve, second: Curve) -> list[Crossing]:
    """Return every crossing of two curves, by tokens.

    Fewer than `scatter` needs of common points tell no error: every change of sign counts then.
    """
    lead = difference(first, second)
    if lead is None:
        return []
    low = np.log(max(first.tokens[0], second.tokens[0]))
    high = np.log(min(first.last, second.last))
    found = []
    for x, error, sure, second_leads in _sign_changes(lead):
        if not low <= x <= high:
            continue
        trends = (first.trend, second.trend)
        loss = float(np.mean([np.interp(x, one.x, one.loss) for one in trends]))
        slope = float(np.mean([np.interp(x, one.x, one.slope) for one in trends]))
        known = np.isfinite(error)
        found.append(
            Crossing(
                tokens=float(np.exp(x)),
                log_error=error if known else None,
                loss=loss,
                loss_error=abs(slope) * error if known else None,
                significance=sure if known else None,
                second_leads=second_leads,
            )
        )
    return found


def difference(first: Curve, second: Curve) -> Trend | None:
    """Return the first curve's loss minus the second's over their common tokens, smoothed.

    Returns:
        Knots at the points of the curve that has fewer; None where fewer than two are common.
    """
    first, second = first.whole or first, second.whole or second
    x_first, x_second = np.log(first.tokens), np.log(second.tokens)
    low, high = max(x_first[0], x_second[0]), min(x_first[-1], x_second[-1])
    counts = [((x >= low) & (x <= high)).sum() for x in (x_first, x_second)]
    x = x_first if counts[0] <= counts[1] else x_second
    x = x[(x >= low) & (x <= high)]
    if len(x) < 2:
        return None
    (loss_a, variance_a), (loss_b, variance_b) = (_between(c, x) for c in (first, second))
    lead, variance = loss_a - loss_b, variance_a + variance_b
    if first.window.kind == "none" and not first.is_validation:
        return joined_points(x, lead, np.sqrt(variance))
    known = np.isfinite(variance).all() and (variance > 0).all()
    weight = 1 / variance if known else np.ones_like(x)
    unit = scatter(x, lead, weight, records=len(x))
    return local_trend(x, lead, np.sqrt(unit / weight))


def _between(curve: Curve, x: Array) -> tuple[Array, Array]:
    """Loss and its variance by straight lines between points."""
    own = np.log(curve.tokens)
    left = np.clip(np.searchsorted(own, x, side="right") - 1, 0, max(len(own) - 2, 0))
    right = np.minimum(left + 1, len(own) - 1)
    gap = own[right] - own[left]
    share = np.where(gap > 0, (x - own[left]) / np.where(gap > 0, gap, 1.0), 0.0)
    loss = (1 - share) * curve.loss[left] + share * curve.loss[right]
    error = curve.error
    variance = ((1 - share) * error[left]) ** 2 + (share * error[right]) ** 2
    return loss, variance


def _sign_changes(lead: Trend) -> list[tuple[float, float, float, bool]]:
    """Log tokens, error, significance, and whether the second leads after, of every crossing."""
    sign = np.where(lead.loss > 0, 1, -1)
    starts = np.flatnonzero(np.diff(sign, prepend=0) != 0)
    known = np.isfinite(lead.error).all() and len(lead) >= LEAST_LOCAL
    # Runs that share their beginning differ by nothing there, without an error.
    score = np.where(lead.loss == 0, 0.0, np.inf)
    if known:
        np.divide(np.abs(lead.loss), lead.error, out=score, where=lead.error > 0)
    peak = np.maximum.reduceat(score, starts)
    sure = np.flatnonzero(peak >= SURE)
    found = []
    for before, after in pairwise(sure):
        if sign[starts[before]] == sign[starts[after]]:
            continue
        changes = starts[before + 1 : after + 1]
        at = int(changes[len(changes) // 2])
        y = lead.loss[at - 1 : at + 1]
        share = float(y[0] / (y[0] - y[1]))
        x = float(lead.x[at - 1] + share * (lead.x[at] - lead.x[at - 1]))
        error = _log_error(lead, at, int(sign[starts[after]])) if known else np.nan
        significance = float(min(peak[before], peak[after]))
        found.append((x, error, significance, bool(sign[starts[after]] > 0)))
    return found


def _log_error(lead: Trend, at: int, rises: int) -> float:
    """Standard error of a crossing's log tokens: a quarter of the way between leads of two errors.

    That is the error of the lead over its mean slope between the last place before where the one
    curve leads by two errors and the first place after where the other does. The slope at the
    crossing itself would not do: noise makes crossings where it is steep.

    Args:
        lead: with errors.
        at: first knot after the crossing.
        rises: sign of the lead after it.
    """
    score = rises * lead.loss / lead.error
    before = int(np.flatnonzero(score[:at] <= -2)[-1])
    after = at + int(np.flatnonzero(score[at:] >= 2)[0])
    left = np.interp(-2, score[before : before + 2], lead.x[before : before + 2])
    right = np.interp(2, score[after - 1 : after + 1], lead.x[after - 1 : after + 1])
    return float(right - left) / 4


@dataclass(frozen=True, slots=True)
class BatchCrossing(Crossing):
    """Where the larger of two batch sizes overtakes the smaller.

    Attributes:
        batch_small, batch_large: global batches in tokens.
        runs: runs that were compared.
        n_params, lr: of the group.
    """

    batch_small: float
    batch_large: float
    runs: int
    n_params: float | None
    lr: float | None


def by_setting(curves: Iterable[Curve]) -> dict[tuple[float | None, float | None], list[Curve]]:
    """Return the curves of constant batch by (N, learning rate)."""
    groups = defaultdict(list)
    for curve in curves:
        if curve.batch_tokens is not None:
            groups[(curve.n_params, curve.lr)].append(curve)
    return dict(groups)


def by_batch(curves: Iterable[Curve]) -> dict[float, list[Curve]]:
    """Return the curves by batch, smallest batch first; several of one batch are seeds."""
    groups = defaultdict(list)
    for curve in curves:
        if curve.batch_tokens is not None:
            groups[curve.batch_tokens].append(curve)
    return dict(sorted(groups.items()))


def find_crossings(curves: Iterable[Curve], *, all_pairs: bool = False) -> list[BatchCrossing]:
    """Say where larger batches overtake smaller ones, among runs of one model size and learning
    rate.

    Args:
        curves: of any settings; those whose batch changed are left out.
        all_pairs: every pair of batch sizes, not only neighbours.

    Returns:
        By setting, then by batch. Seeds of one batch are averaged first.
    """
    found = []
    for group in by_setting(curves).values():
        seeds = by_batch(group)
        means = [(batch, mean_curve(same), len(same)) for batch, same in seeds.items()]
        pairs = combinations(means, 2) if all_pairs else pairwise(means)
        for (small, low, few), (large, high, more) in pairs:
            found += [
                BatchCrossing(
                    **asdict(crossing),
                    batch_small=small,
                    batch_large=large,
                    runs=few + more,
                    n_params=low.n_params,
                    lr=low.lr,
                )
                for crossing in crossings(low, high)
                if crossing.second_leads
            ]
    return found


def crossing_table(crossings: list[BatchCrossing]) -> pl.DataFrame:
    """Return one row a crossing."""
    return pl.DataFrame([asdict(crossing) for crossing in crossings], infer_schema_length=None)
