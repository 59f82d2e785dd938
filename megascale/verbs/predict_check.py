"""`megascale predict --measured`: predictions that were written down, beside their runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from megascale.propose.prediction_check import CheckedPrediction, WrittenLoss


def show_check(written: Path, runs: Sequence[Path], as_json: bool) -> None:
    """Print which predictions hold their runs' last losses.

    Args:
        written: of `megascale predict --json`.
        runs: run directories, logs or trees of them.
        as_json: print JSON.

    Raises:
        DataError: see `check_predictions`; a log without losses.
    """
    from megascale.curves.smoothing import Window
    from megascale.curves.table import curves_from_table
    from megascale.propose.prediction_check import check_predictions, read_predictions
    from megascale.runs.table import load_runs
    from megascale.verbs.tables import print_lines

    predictions = read_predictions(written)
    table = load_runs(list(runs), cache=False).table
    curves = curves_from_table(table, window=Window(), phase="all").curves
    finals = {curve.run: (curve.last, curve.final) for curve in curves}
    checked = check_predictions(predictions, finals)
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


def check_verdict(checked: Sequence[CheckedPrediction], confidence: float) -> str:
    """Return how many predictions held, and how the schedules stand against the first."""
    inside = sum(one.inside for one in checked)
    many = (
        f"{inside} of {len(checked)} predicted ends hold"
        if len(checked) > 1
        else ("The predicted end holds" if inside else "The predicted end does not hold")
    )
    worst = max(abs(one.measured - one.schedule.end.value) for one in checked)
    said = [
        f"{many} the measured loss within the {100 * confidence:.0f} % interval; the farthest is "
        f"off by {worst:.3f} nats."
    ]
    for one in checked[1:]:
        gap = one.schedule.against_first
        if gap is None or one.against_first is None:
            continue
        steps = one.schedule.steps / checked[0].schedule.steps
        said.append(
            f"{one.schedule.name} against {checked[0].schedule.name}: predicted {_gap(gap)}, "
            f"measured {one.against_first:+.4f} nats, in {steps:.2f} of the steps."
        )
    return " ".join(said)


def _gap(gap: WrittenLoss) -> str:
    return f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"


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
