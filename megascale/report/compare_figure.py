"""One figure of compared runs: losses, differences from the first, batch, by consumed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megascale.report.figure_style import drawing, line_colours, save_figure
from megascale.units import short_count

if TYPE_CHECKING:
    from megascale.curves.compare import Comparison
    from megascale.curves.curve import Curve


def draw_comparison(
    curves: Sequence[Curve],
    found: Sequence[Comparison],
    path: str | Path,
    width: float | None = None,
) -> Path:
    """Write a PNG, SVG or PDF (by `path`'s suffix).

    Args:
        curves: the baseline and the others.
        found: comparisons of the others with the baseline, for their crossings.
        path: file to write; its folder must exist.
        width: inches; None as drawn.

    Raises:
        DataError: as `save_figure`.
    """
    with drawing() as plt:
        return save_figure(_comparison(plt, curves, found), [path], "--plot", width=width)[0]


def _comparison(plt: Any, curves: Sequence[Curve], found: Sequence[Comparison]) -> Any:
    from matplotlib.ticker import FuncFormatter

    counts = FuncFormatter(lambda value, _: short_count(int(value)))

    figure, (loss_axis, gap_axis, batch_axis) = plt.subplots(
        3, 1, sharex=True, figsize=(8, 7), height_ratios=[3, 1.3, 1], layout="constrained"
    )
    baseline = curves[0]
    for curve, colour in zip(curves, line_colours(len(curves)), strict=True):
        grid = np.linspace(curve.tokens[0], curve.last, 300)
        if curve.placed is not None:
            raw = curve.placed
            loss_axis.plot(raw.tokens, raw.loss, color=colour, alpha=0.25, linewidth=0.8)
        loss_axis.plot(grid, curve.at(grid), color=colour, linewidth=1.5, label=curve.run)
        if curve.clock is not None:
            batch_axis.step(
                np.append(0, curve.clock.tokens),
                np.append(curve.clock.batch[:1], curve.clock.batch),
                where="pre",
                color=colour,
            )
        if curve is baseline:
            continue
        low = max(baseline.tokens[0], curve.tokens[0])
        grid = np.linspace(low, min(baseline.last, curve.last), 300)
        gap = curve.at(grid) - baseline.at(grid)
        error = 2 * np.hypot(curve.error_at(grid), baseline.error_at(grid))
        gap_axis.fill_between(grid, gap - error, gap + error, color=colour, alpha=0.15, linewidth=0)
        gap_axis.plot(grid, gap, color=colour, linewidth=1.2)
    gap_axis.axhline(0, color="black", linewidth=0.6)
    for tokens in (crossing.tokens for one in found for crossing in one.crossings):
        for axis in (loss_axis, gap_axis):
            axis.axvline(tokens, color="grey", linestyle=":", linewidth=0.8)
    loss_axis.set_ylabel("loss (nats per token)")
    loss_axis.legend(frameon=False)
    gap_axis.set_ylabel("from the first\n(band: 2 s.e.)")
    batch_axis.set_ylabel("batch (tokens)")
    batch_axis.set_ylim(bottom=0)
    batch_axis.yaxis.set_major_formatter(counts)
    batch_axis.set_xlabel("consumed tokens")
    batch_axis.xaxis.set_major_formatter(counts)
    for axis in (loss_axis, gap_axis, batch_axis):
        axis.grid(alpha=0.25)
    return figure
