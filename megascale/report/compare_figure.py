"""One figure of compared runs: losses, differences from the first, batch, by consumed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megascale.curves.compare import Comparison, Curve, smoothed
from megascale.errors import DataError
from megascale.units import short_count

COLOURS = ("#2a5d9f", "#c8553d", "#4f8a4c", "#8757a5", "#b08a2e", "#3c8f97", "#a3476f", "#6b6b6b")


def draw_comparison(curves: Sequence[Curve], found: Sequence[Comparison], path: str | Path) -> Path:
    """Write a PNG, SVG or PDF (by `path`'s suffix).

    Args:
        curves: the baseline and the others.
        found: comparisons of the others with the baseline, for window and crossings.
        path: file to write; its folder must exist.

    Raises:
        DataError: the file cannot be written, or its suffix names no format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    counts = FuncFormatter(lambda value, _: short_count(int(value)))

    figure, (loss_axis, gap_axis, batch_axis) = plt.subplots(
        3, 1, sharex=True, figsize=(8, 7), height_ratios=[3, 1.3, 1], layout="constrained"
    )
    window = found[0].window_tokens
    baseline = curves[0]
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        grid = np.linspace(curve.middle[0], curve.tokens[-1], 300)
        loss_axis.plot(curve.middle, curve.loss, color=colour, alpha=0.25, linewidth=0.8)
        smooth = smoothed(curve, grid, window)[0]
        loss_axis.plot(grid, smooth, color=colour, linewidth=1.5, label=curve.name)
        batch_axis.step(
            np.append(0, curve.tokens),
            np.append(curve.batch[:1], curve.batch),
            where="pre",
            color=colour,
        )
        if curve is baseline:
            continue
        low, high = (
            max(baseline.middle[0], curve.middle[0]),
            min(baseline.tokens[-1], curve.tokens[-1]),
        )
        grid = np.linspace(low, high, 300)
        (first, error_first), (second, error_second) = (
            smoothed(one, grid, window) for one in (baseline, curve)
        )
        gap, error = second - first, 2 * np.hypot(error_first, error_second)
        gap_axis.fill_between(grid, gap - error, gap + error, color=colour, alpha=0.15, linewidth=0)
        gap_axis.plot(grid, gap, color=colour, linewidth=1.2)
    gap_axis.axhline(0, color="black", linewidth=0.6)
    for tokens in (tokens for one in found for tokens in one.crossings):
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
        axis.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    try:
        figure.savefig(path, dpi=140)
    except (OSError, ValueError) as failure:
        raise DataError.of("--plot", str(path), str(failure), "a path ending in .png") from None
    finally:
        plt.close(figure)
    return path
