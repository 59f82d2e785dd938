"""The one place where a study meets the fitting engine: E(S) from runs at constant batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.runs.console import short_count
from megascale.sweep.finish import Answer
from megascale.sweep.results import RunResult
from megascale.sweep.study import Fit

COLUMNS = ("target", "law", "B_min", "B_opt", "E_min", "S_min", "rms log", "")


def fit_tokens_steps(results: Sequence[RunResult], wanted: Fit) -> list[Answer]:
    """Points (S, E) at several target losses, and the laws E(S) fitted to them.

    A failure is an answer too: too few batch sizes, or an engine that is not built, become notes.
    """
    title = "E(S): tokens against steps to a loss"
    try:
        from megascale import fitting
        from megascale.laws.curves import Curve
        from megascale.laws.extract import choose_targets, extract
    except ImportError as error:
        note = f"not fitted: the fitting engine is missing ({error}); install with a C++ compiler"
        return [Answer(title, COLUMNS, [], [note])]
    curves = [
        Curve(
            run=result.run,
            tokens=result.curve.tokens,
            loss=result.curve.loss,
            error=result.curve.loss * float("nan"),
            batch_tokens=float(result.batch[0]),
            n_params=float(result.parameters),
            lr=result.peak_lr,
            loss_kind=result.curve.kind,
        )
        for result in results
        if len(result.batch) == 1
    ]
    try:
        targets = choose_targets(curves, wanted.targets, min_batches=wanted.min_batches)
        points = extract(curves, targets, method="first").points
    except FitError as error:
        return [Answer(title, COLUMNS, [], [f"not fitted: {error}"])]
    table = Answer(
        "Tokens E and steps S to each target loss",
        ("target", "batch", "tokens E", "steps S"),
        [
            (
                f"{row['target_loss']:.3f}",
                short_count(round(row["batch_tokens"])),
                short_count(round(row["tokens"])),
                f"{row['steps']:,.0f}",
            )
            for row in points.sort(
                "target_loss", "batch_tokens", descending=[True, False]
            ).to_dicts()
        ],
        data=points.to_dicts(),
    )
    rows, data = [], []
    for target in targets:
        part = points.filter(points["target_loss"] == target)
        for law in wanted.laws:
            row, facts = _fit_one(fitting, law, target, part)
            rows.append(row)
            data.append(facts)
    notes = ["B_min, B_opt, E_min in tokens, S_min in steps; read them together with rms log"]
    return [table, Answer(title, COLUMNS, rows, notes, data)]


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
