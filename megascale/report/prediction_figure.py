"""Predicted loss curves over the batch and learning rate that they are predicted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megascale.propose.prediction import PredictedSchedule
from megascale.report.figure_style import drawing, line_colours, save_figure


def draw_predictions(
    found: Sequence[PredictedSchedule],
    confidence: float,
    path: str | Path,
    width: float | None = None,
) -> None:
    """Draw curves with their bands, and under them batch and learning rate on the same axis.

    A schedule outside what the law's runs have shown is dashed.

    Args:
        found: schedules.
        confidence: of the bands, for the legend.
        path: .png, .svg or .pdf.
        width: inches; None as drawn.

    Raises:
        DataError: as `save_figure`.
    """
    with drawing() as plt:
        save_figure(_predictions(plt, found, confidence), [path], "--plot", width=width)


def _predictions(plt: Any, found: Sequence[PredictedSchedule], confidence: float) -> Any:
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, sharex=True, figsize=(7.5, 7.5), height_ratios=[3, 1, 1], layout="constrained"
    )
    for one, color in zip(found, line_colours(len(found)), strict=True):
        style = "--" if one.outside else "-"
        top.plot(one.tokens, one.loss, style, color=color, label=one.name)
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
    return figure
