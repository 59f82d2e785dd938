"""`megascale predict --measured`: predictions that were written down, beside their runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from megascale.propose.prediction_check import CheckedPrediction


def show_check(written: Path, runs: Sequence[Path], as_json: bool) -> None:
    """Print which predictions hold their runs' last losses.

    Args:
        written: of `megascale predict --json`.
        runs: run directories, logs or trees of them.
        as_json: print JSON.

    Raises:
        DataError: see `check_predictions`; a log without losses.
    """
    from megascale.propose.prediction_check import check_measured, check_verdict, read_predictions
    from megascale.runs.table import load_runs
    from megascale.verbs.tables import print_lines

    predictions = read_predictions(written)
    checked = check_measured(predictions, load_runs(list(runs), cache=False))
    verdict = check_verdict(checked, predictions.confidence)
    if as_json:
        rows = [
            {
                "name": one.schedule.name,
                "predicted": one.schedule.end.model_dump(),
                "measured": one.measured,
                "inside": one.inside,
                "against_first": {
                    "predicted": one.schedule.against_first
                    and one.schedule.against_first.model_dump(),
                    "measured": one.against_first,
                },
            }
            for one in checked
        ]
        document = {"schema": "megascale.predict-check/1", "verdict": verdict, "schedules": rows}
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(verdict)
    typer.echo("")
    columns = ("schedule", "predicted", "low", "high", "measured", "off", "within", "steps")
    print_lines(columns, [_row(one) for one in checked])


def _row(one: CheckedPrediction) -> tuple[str, ...]:
    end = one.schedule.end
    return (
        one.schedule.name,
        f"{end.value:.4f}",
        f"{end.low:.4f}",
        f"{end.high:.4f}",
        f"{one.measured:.4f}",
        f"{one.measured - end.value:+.4f}",
        "yes" if one.inside else "no",
        f"{one.schedule.steps:,.0f}",
    )
