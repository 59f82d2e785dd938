"""The answers of a study: tables made from its finished runs, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from megascale.curves.crossing import SURE, crossings, difference
from megascale.curves.curve import Curve, mean_curve
from megascale.sweep.answer import Answer
from megascale.sweep.rate_scaling import rate_scaling_answers
from megascale.sweep.rate_transfer import rate_transfer_answer
from megascale.sweep.results import RunResult, Spread, compare_groups
from megascale.sweep.study import Finish
from megascale.units import CountError, duration, read_count, short_count


def answers(results: Sequence[RunResult], finish: Finish) -> list[Answer]:
    """Everything the study asks for, the table of all groups first."""
    found = [comparison(results, finish)]
    if finish.crossings is not None:
        found.append(crossing_answer(results, finish.crossings))
    if finish.optimum is not None:
        found.append(optimum(results, finish.optimum))
    if finish.rate_scaling:
        found += rate_scaling_answers(results)
    if finish.rate_transfer:
        found.append(rate_transfer_answer(results))
    if finish.grid is not None:
        found.append(grid(results, *finish.grid))
    if finish.fit is not None:
        from megascale.sweep.tokens_steps import tokens_steps_answers

        found += tokens_steps_answers(results, finish.fit)
    return found


def comparison(results: Sequence[RunResult], finish: Finish) -> Answer:
    """Each group: loss at the end and at equal tokens, against the baseline; tokens to a loss."""
    groups = compare_groups(results, targets=finish.targets, baseline=finish.baseline)
    targets = list(groups[0].tokens_to)
    columns = ["run", "tokens", "steps", "time", "final loss", "at equal tokens"]
    compared = any(group.against is not None for group in groups)
    if compared:
        columns.append("- baseline")
    columns += [f"tokens to {target:g}" for target in targets]
    rows = []
    for group in groups:
        row = [
            group.group,
            short_count(group.tokens),
            f"{group.steps:,.0f}",
            duration(group.seconds),
            group.loss.text(),
            "-" if group.loss_at_equal is None else group.loss_at_equal.text(),
        ]
        if compared:
            row.append("-" if group.against is None else group.against.text("+.4f"))
        row += [
            "-" if group.branch else _tokens(spread, group.first_tokens.get(target))
            for target, spread in group.tokens_to.items()
        ]
        rows.append(tuple(row))
    kind = "/".join(sorted({result.curve.loss_kind for result in results}))
    equal = sorted({group.equal_tokens for group in groups})
    notes = [
        f"loss: {kind}, nats per token; ± is the standard deviation over "
        f"{groups[0].loss.count} seeds"
        if groups[0].loss.count > 1
        else f"loss: {kind}, nats per token; one seed, so differences carry no error",
        f"equal tokens: {', '.join(short_count(tokens) for tokens in equal)}",
    ]
    if compared:
        rivals = sorted({group.baseline for group in groups if group.baseline is not None})
        notes.append(f"baseline: {', '.join(rivals)}; differences are taken seed by seed")
    data = [group.to_dict() for group in groups]
    return Answer("Runs compared", tuple(columns), rows, notes, data)


def crossing_answer(results: Sequence[RunResult], axis: str) -> Answer:
    """Where the curve of the next point of an axis comes down through that of the one before."""
    rows, data = [], []
    for others, members in _along(results, axis).items():
        for (small, low), (large, high) in pairwise(members.items()):
            first, second = (mean_curve([one.curve for one in group]) for group in (low, high))
            found = crossings(first, second)
            last = found[-1] if found and found[-1].second_leads else None
            where, loss = "never", "-"
            if last is not None:
                spread = "" if last.log_error is None else f" ± {100 * last.log_error:.0f} %"
                where, loss = f"{short_count(round(last.tokens))}{spread}", f"{last.loss:.3f}"
            elif not found and _leads(second, first):
                where = "before the first point"
            rows.append((others or "all", small, large, where, loss))
            known = {} if last is None else asdict(last)
            facts = {key: known.get(key) for key in ("tokens", "log_error", "loss", "significance")}
            data.append({"of": others, "from": small, "to": large} | facts)
    notes = [
        "tokens: from there to the end the second is lower; means over seeds; a crossing counts "
        f"where each leads by {SURE:g} standard errors on its side"
    ]
    columns = ("runs", "first", "second", "tokens", "loss")
    return Answer(f"Crossings along {axis}", columns, rows, notes, data)


def _leads(one: Curve, other: Curve) -> bool:
    """Whether a curve is the lower one at every common point."""
    lead = difference(other, one)
    return lead is not None and bool((lead.loss > 0).all())


def optimum(results: Sequence[RunResult], axis: str) -> Answer:
    """The best point of a numeric axis: the lowest run, and a parabola in log(value) around it.

    The parabola is Eq. 2 of arXiv 2601.05049 (loss quadratic in the logarithm of the learning
    rate), through the lowest point and its neighbours.
    """
    rows, data = [], []
    for others, members in _along(results, axis).items():
        x = np.array([_number(group[0].values[axis]) for group in members.values()])
        y = np.array([float(np.mean([one.loss for one in group])) for group in members.values()])
        order = np.argsort(x)
        x, y = x[order], y[order]
        best = int(np.argmin(y))
        vertex = _vertex(x, y, best)
        at_edge = best in (0, len(x) - 1)
        rows.append(
            (
                others or "all",
                f"{x[best]:.4g}",
                f"{y[best]:.4f}",
                "-" if vertex is None else f"{vertex:.4g}",
                "at the edge of the grid: widen it" if at_edge else "",
            )
        )
        data.append(
            {
                "of": others,
                "axis": axis,
                "values": x.tolist(),
                "losses": y.tolist(),
                "best": x[best],
                "loss": y[best],
                "parabola": vertex,
                "at_edge": at_edge,
            }
        )
    columns = ("runs", f"best {axis}", "final loss", "parabola's optimum", "")
    return Answer(f"Best {axis}", columns, rows, data=data)


def grid(results: Sequence[RunResult], down: str, across: str) -> Answer:
    """Final losses as a table of two axes, the lowest marked."""
    rows, data = [], []
    by_others: dict[str, list[RunResult]] = {}
    for result in results:
        by_others.setdefault(_others(result, {down, across}), []).append(result)
    labels_across = list(dict.fromkeys(result.point[across] for result in results))
    for others, members in by_others.items():
        cells: dict[tuple[str, str], list[float]] = {}
        for result in members:
            cells.setdefault((result.point[down], result.point[across]), []).append(result.loss)
        mean = {place: float(np.mean(losses)) for place, losses in cells.items()}
        lowest = min(mean, key=lambda place: mean[place])
        for label in dict.fromkeys(result.point[down] for result in members):
            row = [f"{others} {label}".strip()]
            for column in labels_across:
                value = mean.get((label, column))
                mark = " *" if (label, column) == lowest else ""
                row.append("-" if value is None else f"{value:.4f}{mark}")
            rows.append(tuple(row))
        data += [
            {"of": others, down: place[0], across: place[1], "loss": loss}
            for place, loss in mean.items()
        ]
    notes = ["* the lowest; - a run that is missing"]
    return Answer(f"Final loss, {down} by {across}", (down, *labels_across), rows, notes, data)


def _tokens(spread: Spread | None, before: int | None) -> str:
    if spread is None:
        return "not reached" if before is None else f"before {short_count(before)}"
    text = short_count(round(spread.mean))
    if spread.deviation is None:
        return text
    return f"{text} ± {100 * spread.deviation / spread.mean:.0f} %"


def _others(result: RunResult, axes: set[str]) -> str:
    labels = [label for axis, label in result.point.items() if axis not in axes]
    return " ".join(filter(None, [result.arm, *labels]))


def _along(results: Sequence[RunResult], axis: str) -> dict[str, dict[str, list[RunResult]]]:
    """Runs by everything but the axis, then by their point on it."""
    found: dict[str, dict[str, list[RunResult]]] = {}
    for result in results:
        members = found.setdefault(_others(result, {axis}), {})
        members.setdefault(result.point[axis], []).append(result)
    return found


def _number(value: Any) -> float:
    try:
        return float(read_count(value))
    except CountError:
        return float(value)


def _vertex(x: np.ndarray, y: np.ndarray, best: int) -> float | None:
    """Optimum of the parabola through the lowest point and its neighbours; None at an edge."""
    if not 0 < best < len(x) - 1:
        return None
    near = slice(best - 1, best + 2)
    square, slope, _ = np.polyfit(np.log(x[near]), y[near], 2)
    return float(np.exp(-slope / (2 * square))) if square > 0 else None
