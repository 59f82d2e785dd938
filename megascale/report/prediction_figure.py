"""Predicted loss curves over the batch and learning rate that they are predicted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megascale.errors import DataError
from megascale.propose.prediction import PredictedSchedule


def draw_predictions(
    found: Sequence[PredictedSchedule], confidence: float, path: str | Path
) -> None:
    """Draw curves with their bands, and under them batch and learning rate on the same axis.

    Args:
        found: schedules.
        confidence: of the bands, for the legend.
        path: .png, .svg or .pdf.

    Raises:
        DataError: the file cannot be written, or its ending names no format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, middle, bottom) = pyplot.subplots(
        3, 1, sharex=True, figsize=(7.5, 7.5), height_ratios=[3, 1, 1], layout="constrained"
    )
    for one in found:
        (line,) = top.plot(one.tokens, one.loss, label=one.name)
        color = line.get_color()
        top.fill_between(one.tokens, one.low, one.high, color=color, alpha=0.12, linewidth=0)
        history = one.history
        edges = history.tokens
        middle.step(edges, np.append(history.batch, history.batch[-1]), where="post", color=color)
        rate = np.column_stack([history.lr_start, history.lr_end]).ravel()
        bottom.plot(np.column_stack([edges[:-1], edges[1:]]).ravel(), rate, color=color)
    top.set_ylabel(f"loss (nats), {100 * confidence:.0f} % bands")
    top.legend(fontsize="small")
    middle.set_ylabel("batch (tokens)")
    middle.set_yscale("log", base=2)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("consumed tokens")
    for axis in (top, middle, bottom):
        axis.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=160)
    except (OSError, ValueError) as failure:
        raise DataError.of("--plot", str(path), f"cannot be written: {failure}") from None
    finally:
        pyplot.close(figure)
