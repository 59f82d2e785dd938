"""The file of a law of whole schedules: several fitted forms, what their runs have shown, how they
predicted schedules that were left out. No numpy, no torch.

`docs/formats/schedule-law.md` describes the format (`megascale.schedule-law/2`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from megascale.errors import DataError
from megascale.formats.json_text import JsonTextError, parse_json
from megascale.formats.law_conditions import Part
from megascale.formats.law_file import Input
from megascale.shipped import locate

SCHEMA = "megascale.schedule-law/2"
MOST_BYTES = 64 * 2**20
MOST_DRAWS = 2_000
MOST_FORMS = 16
PLACES = 40
"""Even shares of a run whose middles an outline has."""

Positive = Annotated[float, Field(gt=0)]
Span = tuple[Positive, Positive]


class FittedForm(Part):
    """One form with its parameters, in the order of `parameters`."""

    name: str = Field(description="of the form, as megascale.fitting names it")
    parameters: list[str]
    values: list[float] = Field(description="the best parameters")
    draws: list[list[float]] = Field(
        max_length=MOST_DRAWS, description="replicates of a bootstrap over whole runs"
    )
    lr_scale: Positive = Field(description="learning rate at which e = 1")
    batch_scale: Positive = Field(description="tokens at which the batch's powers are 1")
    progress_scale: Positive = Field(description="where the excess loss is a")
    n_params_scale: Positive | None = Field(
        None, description="N at which L_inf, a and c are; null for a law of one size"
    )
    weight_norm: tuple[Positive, Annotated[float, Field(ge=0)], Positive] | None = Field(
        None,
        description="RMS of the weights at token 0, its growth and reference: of forms in the "
        "learning rate over the weights' size",
    )
    rms: float = Field(ge=0, description="of the fit to all runs, nats")
    left_out: dict[str, float] = Field(
        description="predicted minus measured last loss of each schedule, by fits without it"
    )

    @model_validator(mode="after")
    def _whole(self) -> FittedForm:
        size = len(self.parameters)
        if len(self.values) != size or any(len(draw) != size for draw in self.draws):
            raise ValueError("values and draws have one number a parameter")
        return self


class SeenByRuns(Part):
    """Ranges of the runs behind the law; outside them it is not to be trusted."""

    tokens: Positive = Field(description="of the longest run")
    batch: Span = Field(description="tokens")
    batch_decayed: Span | None = Field(None, description="of runs whose learning rate decays")
    peak: Span = Field(description="largest learning rates")
    decay_share: Span | None = Field(None, description="decays as shares of their runs")
    final_ratio: tuple[float, float] | None = Field(
        None, description="last learning rate over the peak, of runs that decay"
    )
    n_params: Span | None = Field(None, description="parameters N; null where not known")
    warmup_tokens: float = Field(0.0, ge=0, description="middle of the runs' warmups")
    shapes: tuple[Literal["linear", "1-sqrt", "cosine", "exponential"], ...] = Field(
        (), description="of the decays"
    )


class OutlineOfSchedule(Part):
    """Batch and learning rate of a schedule at the middles of even shares of its tokens."""

    total_tokens: Positive
    peak: Positive = Field(description="largest learning rate")
    batch: tuple[Positive, ...] = Field(min_length=PLACES, max_length=PLACES, description="tokens")
    rate: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        min_length=PLACES, max_length=PLACES, description="learning rate over the peak"
    )
    residual: float = Field(
        description="predicted minus measured last loss, by the forms fitted to all runs, nats"
    )


class SettingsOfRuns(Part):
    """What else held in all runs, by their configs; null where it is not known or they differ."""

    weight_decay: float | None = Field(None, ge=0)
    optimizer: str | None = None
    architecture: str | None = Field(None, description="shape of the model, in words")
    sequence_length: int | None = Field(None, gt=0, description="tokens")
    data: str | None = Field(None, description="names of the sources and of their files")


class ScheduleLawFile(Part):
    """See the module."""

    schema_: Literal["megascale.schedule-law/2"] = Field("megascale.schedule-law/2", alias="schema")
    name: str
    loss: str = Field(description="kind of loss that was fitted")
    from_tokens: float = Field(ge=0, description="losses before were left out")
    confidence: float = Field(gt=0, lt=1)
    forms: list[FittedForm] = Field(min_length=1, max_length=MOST_FORMS)
    seen: SeenByRuns
    weight_decay: float | None = Field(None, description="of all runs; null where not known")
    settings: SettingsOfRuns = SettingsOfRuns()
    outlines: dict[str, OutlineOfSchedule] = Field(
        description="of the schedules that were left out, by their names in `forms`"
    )
    schedules: int = Field(ge=1, description="different schedules among the runs")
    runs: int = Field(ge=1)
    inputs: list[Input] = Field(default_factory=list)
    diagnostics: dict[str, Any] = Field(default_factory=dict)

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.model_dump(by_alias=True, mode="json"), indent=1) + "\n"


def is_schedule_law(path: str | Path) -> bool:
    """Whether a file says that it is a law of whole schedules."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return b'"megascale.schedule-law/' in head


def read_schedule_law(path: str | Path) -> ScheduleLawFile:
    """Read and check a law file.

    Raises:
        DataError: it cannot be read, is too large, is no JSON, or breaks a rule.
    """
    found = locate(path, "laws")
    try:
        if found.stat().st_size > MOST_BYTES:
            rule = f"is larger than {MOST_BYTES // 2**20} MiB: no law file is"
            raise DataError.of("law file", str(path), rule)
        content = parse_json(found.read_bytes())
    except OSError as failure:
        raise DataError.of("law file", str(path), f"cannot be read: {failure.strerror}") from None
    except JsonTextError as failure:
        raise DataError.of("law file", str(path), str(failure)) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        said = content.get("schema") if isinstance(content, dict) else None
        rule = f"is no law of whole schedules: its schema is {said!r}, not {SCHEMA!r}"
        raise DataError.of("law file", str(path), rule, "megascale fit RUNS --law schedule")
    try:
        law = ScheduleLawFile.model_validate(content)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        where = ".".join(map(str, item["loc"])) or "file"
        raise DataError.of(f"{path}: {where}", "", item["msg"]) from None
    numbers = [v for form in law.forms for row in (form.values, *form.draws) for v in row]
    if not all(math.isfinite(value) for value in numbers):
        raise DataError.of(f"{path}: forms", "", "hold a number that is not finite")
    return law
