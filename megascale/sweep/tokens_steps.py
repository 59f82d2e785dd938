"""The one place where a study meets the fitting engine: E(S) from runs at constant batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.sweep.answer import Answer
from megascale.sweep.results import RunResult
from megascale.sweep.study import Fit
from megascale.units import short_count

NOTE = "B_min, B_opt and E_min in tokens, S_min in steps; rms log: of the fit in log E"
COLUMNS = ("target", "law", "B_min", "B_opt", "E_min", "S_min", "rms log", "")


def tokens_steps_answers(results: Sequence[RunResult], wanted: Fit) -> list[Answer]:
    """Points (S, E) at several target losses, and the laws E(S) fitted to them.

    Runs of one arm, model size and learning rate are fitted together, their seeds too. A failure is
    an answer as well: too few batch sizes, or an engine that is not built, become notes.
    """
    try:
        from megascale import fitting
        from megascale.laws.batch.points import at_peak_rate, choose_targets, extract
    except ImportError as error:
        note = f"not fitted: the fitting engine is missing ({error}); install with a C++ compiler"
        return [Answer("E(S)", COLUMNS, [], [note])]
    settings: dict[tuple[str, int, float], list[RunResult]] = {}
    for result in results:
        if len(result.batch) == 1:
            setting = (result.arm, result.parameters, result.peak_lr)
            settings.setdefault(setting, []).append(result)
    found = []
    for (arm, parameters, peak_lr), members in settings.items():
        name = f"{arm} " if arm else ""
        of = f"{name}{short_count(parameters)} parameters without embeddings, LR {peak_lr:g}"
        curves = [member.curve for member in members]
        try:
            targets = choose_targets(curves, wanted.targets, min_batches=wanted.min_batches)
            points = extract(curves, targets).points
        except FitError as error:
            found.append(Answer(f"E(S) of {of}", COLUMNS, [], [f"not fitted: {error}"]))
            continue
        points = points.sort("target_loss", "batch_tokens", descending=[True, False])
        found.append(_points(of, points))
        rows, data = [], []
        for target in targets:
            part = at_peak_rate(points.filter(points["target_loss"] == target))
            for law in wanted.laws:
                row, facts = _fit_one(fitting, law, target, part)
                rows.append(row)
                data.append(facts)
        found.append(Answer(f"E(S) of {of}", COLUMNS, rows, [NOTE], data))
    return found


def _points(of: str, points: Any) -> Answer:
    rows = [
        (
            f"{row['target_loss']:.3f}",
            short_count(round(row["batch_tokens"])),
            short_count(round(row["tokens"])),
            f"{row['steps']:,.0f}",
        )
        for row in points.to_dicts()
    ]
    title = f"Tokens E and steps S to each loss, {of}"
    return Answer(title, ("target", "batch", "tokens E", "steps S"), rows, [], points.to_dicts())


def _fit_one(
    fitting: Any, law: str, target: float, points: Any
) -> tuple[tuple[str, ...], dict[str, Any]]:
    facts: dict[str, Any] = {"target_loss": target, "law": law, "points": len(points)}
    try:
        result = fitting.fit(law, points["steps"].to_numpy(), points["tokens"].to_numpy())
    except FitError as error:
        return _row(target, law, {}, str(error)), facts | {"error": str(error)}
    values: dict[str, float] = {}
    for name in COLUMNS[2:6]:
        try:
            value = float(np.ravel(result[name])[0])
        except (KeyError, FitError):
            continue
        if np.isfinite(value):
            values[name] = value
    values["rms log"] = float(result.rms[0])
    note = "" if bool(result.converged[0]) else "not converged"
    return _row(target, law, values, note), facts | values | {"converged": not note}


def _row(target: float, law: str, values: dict[str, float], note: str) -> tuple[str, ...]:
    cells = [short_count(round(values[name])) if name in values else "-" for name in COLUMNS[2:5]]
    steps = f"{values['S_min']:,.0f}" if "S_min" in values else "-"
    rms = f"{values['rms log']:.3f}" if "rms log" in values else "-"
    return (f"{target:.3f}", law, *cells, steps, rms, note)
