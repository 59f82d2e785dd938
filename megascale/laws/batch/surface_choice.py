"""Whether one loss surface says more of a study than a law at every target loss.

A law of tokens and steps has parameters of its own at every target; a surface has five for all of
them. With few batch sizes only the surface can be determined. With enough of them both predict
batches that were left out, and the surface is taken unless it predicts them clearly worse, since it
has fewer parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from megascale.curves.crossing import by_setting
from megascale.curves.curve import Curve
from megascale.errors import FitError
from megascale.laws.batch.points import at_peak_rate
from megascale.laws.batch.select import Selection
from megascale.laws.batch.surface import MIN_BATCHES, fit_surfaces

ENOUGH_BATCHES = 6
"""Batch sizes below which laws at every target are not determined."""
CLEARLY = 1.5
"""A law at every target is taken where its errors at batches left out are so much smaller."""
ABOVE = 1.1
"""Losses above so many times the highest target are left out of a surface."""


@dataclass(frozen=True, slots=True)
class SurfaceChoice:
    """The surface beside the laws at every target.

    Attributes:
        taken: whether the surface is to be taken.
        reason: why, in a sentence.
        held_out: rms of log E at inner batches that the surface was not fitted to; NaN where it
            was not asked.
    """

    taken: bool
    reason: str
    held_out: float


def surface_curves(curves: Sequence[Curve]) -> list[Curve]:
    """The curves of the one setting that has enough batch sizes for a surface; none where several
    have, or none has.
    """
    able = [
        group
        for group in by_setting(curves).values()
        if len({curve.batch_tokens for curve in group}) >= MIN_BATCHES
    ]
    return able[0] if len(able) == 1 else []


def few_batches(curves: Sequence[Curve]) -> SurfaceChoice | None:
    """The surface, where the runs of the only setting have too few batch sizes for anything else.

    Args:
        curves: of constant batch.

    Returns:
        None where there are enough of them, too few for a surface, or several such settings.
    """
    sizes = {curve.batch_tokens for curve in surface_curves(curves)}
    if not MIN_BATCHES <= len(sizes) < ENOUGH_BATCHES:
        return None
    reason = (
        f"{len(sizes)} batch sizes determine one loss surface, but no law at every target loss, "
        f"which needs {ENOUGH_BATCHES}"
    )
    return SurfaceChoice(True, reason, float("nan"))


def surface_or_laws(
    curves: Sequence[Curve], points: pl.DataFrame, selection: Selection, law: str
) -> SurfaceChoice | None:
    """Compare the surface with the law that was taken, by batches left out.

    Args:
        curves: of constant batch.
        points: extracted from them.
        selection: of the laws fitted to these points.
        law: the one that was taken.

    Returns:
        None where the curves are of several settings or no batch could be left out.
    """
    able = surface_curves(curves)
    if not able:
        return None
    held_out = surface_held_out(able, points)
    own = next(verdict.held_out for verdict in selection.verdicts if verdict.law == law)
    if not np.isfinite(held_out) or not np.isfinite(own):
        return None
    taken = held_out <= CLEARLY * own
    errors = f"off by {100 * held_out:.2g} % against {100 * own:.2g} % of {law}"
    verdict = f"as well, with fewer parameters: {errors}" if taken else f"clearly worse: {errors}"
    reason = f"one loss surface predicts the tokens of batches it has not seen {verdict}"
    return SurfaceChoice(taken, reason, held_out)


def surface_held_out(curves: Sequence[Curve], points: pl.DataFrame) -> float:
    """Root mean square error of log E at inner batches, each predicted by a surface without it.

    Args:
        curves: of constant batch, one N and learning rate.
        points: extracted from them.

    Returns:
        NaN where no surface could be fitted without a batch.
    """
    counted = at_peak_rate(points)
    below = ABOVE * float(counted["target_loss"].max())  # type: ignore[arg-type]
    errors: list[float] = []
    for batch in sorted({curve.batch_tokens or 0.0 for curve in curves})[1:-1]:
        others = [curve for curve in curves if curve.batch_tokens != batch]
        try:
            (surface,) = fit_surfaces(others, below_loss=below)
        except FitError:
            continue
        own = counted.filter(pl.col("batch_tokens") == batch)
        for target, tokens in own.select("target_loss", "tokens").iter_rows():
            said = float(surface.tokens_to(target, batch))
            if np.isfinite(said) and said > 0:
                errors.append(np.log(said / tokens))
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")
