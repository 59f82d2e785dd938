"""Predicted schedules as sentences, tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import typer

from megascale.propose.loss_interval import Estimated
from megascale.propose.prediction import PredictedSchedule
from megascale.propose.run_standing import MeasuredSoFar
from megascale.propose.schedule_law import ScheduleLaw
from megascale.units import short_count
from megascale.verbs.tables import print_lines

CURVE_ROWS = 6
"""Token counts of a curve that are printed."""
SCHEMA = "megascale.predict/1"


def prediction_verdict(
    found: Sequence[PredictedSchedule], so_far: Mapping[str, MeasuredSoFar], confidence: float
) -> str:
    """Return what is predicted, which schedule ends lowest and how surely."""
    sure = f"{100 * confidence:.0f} % interval"
    if len(found) == 1:
        (one,) = found
        text = (
            f"{one.name} ends at {_loss(one.end)} nats after "
            f"{short_count(round(one.history.total_tokens))} tokens ({sure})"
        )
        return f"{text}{_standing(one.name, so_far)}."
    first, *others = found
    if any(one.history.total_tokens != first.history.total_tokens for one in others):
        ends = ", ".join(f"{one.name} {_loss(one.end)}" for one in found)
        return f"The schedules have different total tokens, and are not compared: {ends} ({sure})."
    best = min(found, key=lambda one: one.end.value)
    if best is first:
        rival = min(others, key=lambda one: one.end.value)
        assert rival.against_first is not None
        gap, other = rival.against_first, rival
        low, high, value = gap.low, gap.high, gap.value
    else:
        assert best.against_first is not None
        low, high = -best.against_first.high, -best.against_first.low
        value, other = -best.against_first.value, first
    between = f"{value:.4f} nats [{low:.4f}, {high:.4f}] ({sure})"
    if low > 0:
        text = f"{best.name} ends lowest, below {other.name} by {between}"
    else:
        text = (
            f"The law cannot tell which ends lower: {best.name} is below {other.name} by {between}"
        )
    steps = best.steps / first.steps
    taken = "" if best is first else f", in {steps:.2f} of the steps"
    return f"{text}{taken}; it is the best of {len(found)} with probability {best.best:.2f}."


def print_predictions(
    found: Sequence[PredictedSchedule],
    so_far: Mapping[str, MeasuredSoFar],
    conditions: Mapping[str, Sequence[str]],
    confidence: float,
) -> None:
    """Print the verdict, a line a schedule, and the loss along each."""
    typer.echo(prediction_verdict(found, so_far, confidence))
    told: list[MeasuredSoFar] = []
    for name, standing in so_far.items() if len(found) > 1 else ():
        if not any(standing is other for other in told):  # a run's choices share its losses
            told.append(standing)
            typer.echo(f"{name}{_standing(name, so_far)}.".replace("; its", ": its", 1))
    for name, said in conditions.items():
        for words in said:
            typer.echo(f"warning: {name} has {words}: the law does not know what that does.")
    for schedule in found:
        for words in schedule.outside:
            typer.echo(f"{schedule.name} is outside what the law's runs have shown: {words}.")
    typer.echo("")
    ranked = sorted(found, key=lambda one: one.end.value)
    columns = ("schedule", "end loss", "low", "high", "- first", "low", "high", "best", "steps")
    print_lines(columns, [_row(one) for one in ranked])
    typer.echo("")
    rows: list[tuple[str, ...]] = []
    for one in found:
        places = np.linspace(0, len(one.tokens) - 1, CURVE_ROWS).round().astype(int)
        rows += [
            (
                one.name,
                short_count(round(float(one.tokens[at]))),
                f"{one.loss[at]:.4f}",
                f"{one.low[at]:.4f}",
                f"{one.high[at]:.4f}",
            )
            for at in places
        ]
    print_lines(("schedule", "tokens", "loss", "low", "high"), rows)


def prediction_document(
    found: Sequence[PredictedSchedule],
    so_far: Mapping[str, MeasuredSoFar],
    conditions: Mapping[str, Sequence[str]],
    law: ScheduleLaw,
    confidence: float,
) -> dict[str, Any]:
    """Return everything that is printed, and the curves, as plain JSON types."""
    return {
        "schema": SCHEMA,
        "verdict": prediction_verdict(found, so_far, confidence),
        "confidence": confidence,
        "law": {
            "forms": [fit.law.name for fit in law.fits],
            "level_error": law.level_error,
            "difference_error": law.difference_error,
        },
        "schedules": [
            {
                "name": one.name,
                "end": asdict(one.end),
                "against_first": None if one.against_first is None else asdict(one.against_first),
                "best": one.best,
                "steps": one.steps,
                "total_tokens": one.history.total_tokens,
                "outside": list(one.outside),
                "other_settings": list(conditions.get(one.name, ())),
                "measured_so_far": _so_far(so_far.get(one.name)),
                "curve": {
                    "tokens": one.tokens.tolist(),
                    "loss": one.loss.tolist(),
                    "low": one.low.tolist(),
                    "high": one.high.tolist(),
                },
            }
            for one in found
        ],
    }


def _so_far(one: MeasuredSoFar | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "tokens": one.tokens,
        "offset": one.offset,
        "losses": one.losses,
        "finished": one.finished,
    }


def _loss(end: Estimated) -> str:
    return f"{end.value:.4f} [{end.low:.4f}, {end.high:.4f}]"


def _standing(name: str, so_far: Mapping[str, MeasuredSoFar]) -> str:
    if name not in so_far:
        return ""
    one = so_far[name]
    side = "above" if one.offset > 0 else "below"
    return (
        f"; its {one.losses} last losses until {short_count(round(one.tokens))} tokens lie "
        f"{abs(one.offset):.4f} nats {side} the law, by which the prediction is moved"
    )


def _row(one: PredictedSchedule) -> tuple[str, ...]:
    gap = one.against_first
    against = ("", "", "")
    if gap is not None:
        against = (f"{gap.value:+.4f}", f"{gap.low:+.4f}", f"{gap.high:+.4f}")
    end = (f"{one.end.value:.4f}", f"{one.end.low:.4f}", f"{one.end.high:.4f}")
    return (one.name, *end, *against, f"{one.best:.2f}", f"{one.steps:,.0f}")
