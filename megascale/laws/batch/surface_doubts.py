"""What speaks against the best batch of one loss surface, in words."""

from __future__ import annotations

from megascale.laws.batch.study import left_open
from megascale.laws.batch.surface import PARAMETERS, SurfaceFit

SURE_BATCHES = 6
"""Batch sizes below which the surface's best batch is warned of."""
SURE_FREEDOM = 4
"""Degrees of freedom between runs below which its band is."""


def surface_doubts(surface: SurfaceFit, confidence: float) -> list[str]:
    """Warnings of a surface, as `from_points.doubts` gives them for laws of tokens and steps.

    Args:
        surface: the fit.
        confidence: of its band.
    """
    out = []
    if not surface.result.solved[0]:
        out.append("loss_surface: the fit did not converge")
    if surface.batches < SURE_BATCHES:
        out.append(
            f"loss_surface has {len(PARAMETERS)} parameters, and {surface.batches} batch sizes "
            f"were run; with fewer than {SURE_BATCHES} its best batch can be far off where the "
            "loss is no such surface"
        )
    if surface.freedom < SURE_FREEDOM:
        out.append(
            f"its band rests on {surface.freedom:.0f} degrees of freedom, of {surface.runs} runs: "
            "further seeds or batch sizes make it narrower"
        )
    weak = surface.result.weak(0)
    if weak:
        out.append(f"loss_surface: the runs hardly determine {', '.join(weak)}")
    said = left_open(surface.power(), [None], confidence)
    return [*out, said] if said else out
