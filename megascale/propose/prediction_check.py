"""Predictions that were written down, beside the runs they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megascale.curves.smoothing import Window
from megascale.curves.table import curves_from_table
from megascale.errors import DataError
from megascale.formats.json_text import read_json
from megascale.runs.table import RunTable

SCHEMA = "megascale.predict/1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class WrittenLoss(_Part):
    """A predicted loss in nats."""

    value: float
    low: float
    high: float


class WrittenSchedule(_Part):
    """A schedule as `megascale predict --json` wrote it."""

    name: str
    end: WrittenLoss
    against_first: WrittenLoss | None
    steps: Annotated[float, Field(gt=0)]
    total_tokens: Annotated[float, Field(gt=0)]


class WrittenPredictions(_Part):
    """What `megascale predict --json` wrote."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    schedules: Annotated[list[WrittenSchedule], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class CheckedPrediction:
    """One prediction and what was measured.

    Attributes:
        schedule: as it was predicted.
        measured: last loss of its run.
        against_first: measured difference to the first schedule's run; None for that itself.
    """

    schedule: WrittenSchedule
    measured: float
    against_first: float | None

    @property
    def inside(self) -> bool:
        """Whether the measured loss lies in the predicted interval."""
        return self.schedule.end.low <= self.measured <= self.schedule.end.high


def read_predictions(path: str | Path) -> WrittenPredictions:
    """Read what `megascale predict --json` wrote.

    Raises:
        DataError: it cannot be read or is something else.
    """
    content = read_json(path, "predictions")
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        rule = f"is not of schema {SCHEMA}"
        raise DataError.of("predictions", str(path), rule, "megascale predict ... --json")
    try:
        return WrittenPredictions.model_validate(content)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        where = ".".join(map(str, item["loc"]))
        raise DataError.of(f"{path}: {where}", "", item["msg"]) from None


def check_measured(
    written: WrittenPredictions, table: RunTable, prefix: str = ""
) -> list[CheckedPrediction]:
    """Set predictions beside the last losses of runs, smoothed as every verb smooths them.

    Args:
        written: the predictions.
        table: of the runs' logs.
        prefix: of the runs' names before those of the schedules.

    Raises:
        DataError: as `check_predictions`; a log without losses.
    """
    curves = curves_from_table(table.table, window=Window(), phase="all").curves
    finals = {
        curve.run.removeprefix(prefix): (curve.last, curve.final)
        for curve in curves
        if curve.run.startswith(prefix)
    }
    return check_predictions(written, finals)


def check_predictions(
    written: WrittenPredictions, finals: Mapping[str, tuple[float, float]]
) -> list[CheckedPrediction]:
    """Set predictions beside measured last losses.

    Args:
        written: the predictions.
        finals: by run: (consumed tokens, last loss), for every schedule that was predicted.

    Raises:
        DataError: a schedule has no run, or its run is not at its end.
    """
    out: list[CheckedPrediction] = []
    for one in written.schedules:
        if one.name not in finals:
            raise DataError.of(
                "runs", one.name, "has no run among them", sorted(finals)[:4] or None
            )
        tokens, loss = finals[one.name]
        if abs(tokens - one.total_tokens) > 0.01 * one.total_tokens:
            rule = f"has come to {tokens:,.0f} of the {one.total_tokens:,.0f} tokens predicted"
            raise DataError.of("run", one.name, rule)
        first = out[0].measured if out else None
        known = first is not None and one.against_first is not None
        against = loss - first if known and first is not None else None
        out.append(CheckedPrediction(one, loss, against))
    return out


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
