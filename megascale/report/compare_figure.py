"""One figure of two runs: losses, their difference, and batch against consumed tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megascale.errors import DataError
from megascale.runs.compare import Comparison, Curve, smoothed


def draw_comparison(a: Curve, b: Curve, found: Comparison, path: str | Path) -> Path:
    """Write a PNG, SVG or PDF (by `path`'s suffix).

    Args:
        a, b: the runs.
        found: their comparison, for window and crossings.
        path: file to write; its folder must exist.

    Raises:
        DataError: the file cannot be written, or its suffix names no format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, (loss_axis, gap_axis, batch_axis) = plt.subplots(
        3, 1, sharex=True, figsize=(8, 7), height_ratios=[3, 1.3, 1], layout="constrained"
    )
    for curve, colour in ((a, "#2a5d9f"), (b, "#c8553d")):
        grid = np.linspace(curve.middle[0], curve.tokens[-1], 300)
        loss_axis.plot(curve.middle, curve.loss, color=colour, alpha=0.25, linewidth=0.8)
        smooth = smoothed(curve, grid, found.window_tokens)[0]
        loss_axis.plot(grid, smooth, color=colour, linewidth=1.5, label=curve.name)
        batch_axis.step(
            np.append(0, curve.tokens),
            np.append(curve.batch[:1], curve.batch),
            where="pre",
            color=colour,
        )
    grid = np.linspace(max(a.middle[0], b.middle[0]), min(a.tokens[-1], b.tokens[-1]), 300)
    (loss_a, error_a), (loss_b, error_b) = (smoothed(c, grid, found.window_tokens) for c in (a, b))
    gap, error = loss_b - loss_a, 2 * np.hypot(error_a, error_b)
    gap_axis.fill_between(grid, gap - error, gap + error, color="grey", alpha=0.25, linewidth=0)
    gap_axis.plot(grid, gap, color="#444444", linewidth=1.2)
    gap_axis.axhline(0, color="black", linewidth=0.6)
    for tokens in found.crossings:
        for axis in (loss_axis, gap_axis):
            axis.axvline(tokens, color="grey", linestyle=":", linewidth=0.8)
    loss_axis.set_ylabel("loss (nats per token)")
    loss_axis.legend(frameon=False)
    gap_axis.set_ylabel("B - A\n(band: 2 s.e.)")
    batch_axis.set_ylabel("batch (tokens)")
    batch_axis.set_ylim(bottom=0)
    batch_axis.yaxis.set_major_formatter(EngFormatter())
    batch_axis.set_xlabel("consumed tokens")
    batch_axis.xaxis.set_major_formatter(EngFormatter())
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
