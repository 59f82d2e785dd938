"""What the choice of a law of tokens and steps adds to the error of the best batch.

A band knows the noise, not the law. Laws that describe the same points put their best batches
apart, and how far is known. With Akaike weights w over the laws that have a best batch, and the law
c that was taken, the error of an estimate x grows to var(x_c) + sum of w_r (x_r - x_c)^2
(Buckland, Burnham and Augustin, Biometrics 53 (1997), 603, about the law that was taken instead of
the mean). A law that was taken although another describes the points far better is so widened by
nearly the whole distance to it; what no law of the family can say, this cannot say either.

Pooled AICc counts the points of all targets as if they were independent. Targets cut from the same
runs are not, so its differences are scaled by the share of them that are: the participation ratio
(tr S)^2 / tr(S^2) of the targets' correlation S between runs, over their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array
from megascale.laws.batch.select import Selection
from megascale.laws.batch.tokens_steps import TokensStepsFits
from megascale.laws.run_errors import residual_tables


@dataclass(frozen=True)
class Rival:
    """Another law on the same points, and its Akaike weight among all laws with a best batch."""

    fits: TokensStepsFits
    weight: float


def rivals_of(chosen: str, selection: Selection) -> list[Rival]:
    """The other laws with a best batch that were fitted to the same points.

    Args:
        chosen: the law that was taken.
        selection: of all laws.
    """
    known = {
        verdict.law: verdict.pooled_aicc
        for verdict in selection.verdicts
        if verdict.law != "classic" and np.isfinite(verdict.pooled_aicc)
    }
    if not known:
        return []
    best = min(known, key=known.__getitem__)
    share = independent_share(selection.fits[best])
    weight = {law: np.exp(-share * (value - known[best]) / 2) for law, value in known.items()}
    total = sum(weight.values())
    return [
        Rival(selection.fits[law], float(value / total))
        for law, value in weight.items()
        if law != chosen
    ]


def independent_share(fits: TokensStepsFits) -> float:
    """Independent targets over targets, from how a law's residuals move together in each run."""
    independent, count = 0.0, 0
    for table in residual_tables(fits.log_residuals(), *fits.layout()):
        size = np.sqrt((table**2).sum(axis=0))
        unit = table[:, size > 0] / size[size > 0]
        if unit.shape[1]:
            correlation = unit.T @ unit
            independent += np.trace(correlation) ** 2 / (correlation**2).sum()
            count += unit.shape[1]
    return independent / count if count else 1.0


def log_distances(
    fits: TokensStepsFits, rivals: Sequence[Rival], name: str
) -> list[tuple[float, Array]]:
    """(weight, log of the rival's over the law's own) of an optimum, one a group of the law.

    NaN where a rival has no such group, did not converge or has no such quantity. A rival's best
    batch outside the batches of the runs says no more than that: distances end there.
    """
    out = []
    own = fits.optimum()[name]
    batch = fits.points["batch_tokens"].to_numpy()
    furthest = np.log(batch.max() / batch.min())
    for rival in rivals:
        values = rival.fits.optimum()[name]
        known = {
            group: values[g] if rival.fits.result.converged[g] else np.nan
            for g, group in enumerate(rival.fits.groups)
        }
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(np.array([known.get(group, np.nan) for group in fits.groups]) / own)
        out.append((rival.weight, np.clip(ratio, -furthest, furthest)))
    return out
