"""One figure of a planned schedule: the front of loss against cost, batches, learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megascale.report.figure_style import drawing, save_figure
from megascale.units import short_count

if TYPE_CHECKING:
    from megascale.propose.best_schedule import BestSchedule
    from megascale.propose.plan_outcome import PlanOutcome

COLOURS = {"opponent": "#6b6b6b", "chosen": "#2a5d9f", "proposal": "#4f8a4c"}
RULE_COLOUR = "#c8553d"


def draw_best_schedule(
    found: BestSchedule, chosen: PlanOutcome, path: str | Path, width: float | None = None
) -> Path:
    """Write a PNG, SVG or PDF (by `path`'s suffix).

    Args:
        found: of the planner.
        chosen: the plan that is recommended.
        path: file to write; its folder must exist.
        width: inches; None as drawn.

    Raises:
        DataError: as `save_figure`.
    """
    with drawing() as plt:
        return save_figure(_best_schedule(plt, found, chosen), [path], "--plot", width=width)[0]


def _best_schedule(plt: Any, found: BestSchedule, chosen: PlanOutcome) -> Any:
    from matplotlib.ticker import FuncFormatter

    counts = FuncFormatter(lambda value, _: short_count(int(value)))
    figure = plt.figure(figsize=(10, 4.5), layout="constrained")
    axes: Any = figure.subplot_mosaic([["front", "batch"], ["front", "rate"]])
    shown = {"opponent": found.opponent, "proposal": found.proposal, "chosen": chosen}
    shown = {n: o for n, o in shown.items() if n == "opponent" or o.plan != found.opponent.plan}
    if "chosen" in shown and shown["chosen"].plan == found.proposal.plan:
        shown.pop("proposal", None)
    _front(axes["front"], found, shown)
    for name, one in shown.items():
        colour = COLOURS[name]
        edges = np.array([start for start, _ in one.plan.batches] + [one.plan.total_tokens])
        heights = np.array([size for _, size in one.plan.batches])
        axes["batch"].stairs(heights, edges, baseline=None, color=colour, label=name, linewidth=1.5)
        tokens = np.linspace(0, one.plan.total_tokens, 400)
        history = one.plan.history()
        at = np.searchsorted(history.tokens, tokens[:-1], side="right") - 1
        share = (tokens[:-1] - history.tokens[at]) / np.diff(history.tokens)[at]
        rate = history.lr_start[at] + share * (history.lr_end[at] - history.lr_start[at])
        axes["rate"].plot(tokens[:-1], rate, color=colour, linewidth=1.2)
    axes["batch"].set_yscale("log", base=2)
    sizes = {size for one in shown.values() for _, size in one.plan.batches}
    axes["batch"].set_yticks(sorted(sizes), minor=False)
    axes["batch"].yaxis.set_major_formatter(counts)
    axes["batch"].minorticks_off()
    axes["batch"].set_ylabel("batch (tokens)")
    axes["batch"].legend(frameon=False, fontsize=8)
    axes["rate"].set_ylabel("learning rate")
    axes["rate"].set_xlabel("consumed tokens")
    for name in ("batch", "rate"):
        axes[name].xaxis.set_major_formatter(counts)
    for axis in axes.values():
        axis.grid(alpha=0.25)
    return figure


def plan_costs(found: BestSchedule) -> tuple[str, Any]:
    """The name of what a plan costs under the objective, and the function that reads it."""
    if found.objective == "time":
        return "hours", lambda one: one.seconds / 3600
    if found.objective == "cost":
        return "cost", lambda one: one.cost
    return "steps", lambda one: one.steps


def _front(axis: Any, found: BestSchedule, shown: dict[str, PlanOutcome]) -> None:
    name, cost = plan_costs(found)

    def bars(outcomes: list[PlanOutcome], **style: Any) -> None:
        middle = np.array([one.difference.value for one in outcomes])
        low = middle - np.array([one.difference.low for one in outcomes])
        high = np.array([one.difference.high for one in outcomes]) - middle
        spread = np.maximum([low, high], 0)  # a mean may lie outside a skewed interval
        axis.errorbar([cost(one) for one in outcomes], middle, yerr=spread, capsize=2, **style)

    bars(list(found.front), fmt="o-", color="#9db6d3", label="front", markersize=4)
    for rule, one in found.rivals.items():
        bars([one], fmt="x", color=RULE_COLOUR)
        axis.annotate(rule, (cost(one), one.difference.value), fontsize=7, color=RULE_COLOUR)
    for label, one in shown.items():
        bars([one], fmt="s", color=COLOURS[label], label=label, markersize=5)
    axis.axhline(0, color="#6b6b6b", linewidth=0.8)
    axis.set_xlabel(name)
    level = f"{100 * found.confidence:.3g} %"
    axis.set_ylabel(f"end loss minus the best fixed batch's (nats, {level})")
    axis.legend(frameon=False, fontsize=8)
