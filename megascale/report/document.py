"""The report as one document of plain JSON types: what the page, the figures and --json show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megascale import __version__
from megascale.formats.law_file import LawFile
from megascale.laws.law_files import json_types
from megascale.report import batch as batch_sections
from megascale.report import grid as grid_sections
from megascale.report.batch import best_batch_section, given_lines, tokens_steps_section
from megascale.report.calculator import Defaults, calculator
from megascale.report.courses import run_courses
from megascale.report.curves import compared_runs, crossing_rows, drawn_curves, run_rows
from megascale.report.documents import predictions_section
from megascale.report.grid import grid_section
from megascale.report.inputs import Inputs
from megascale.report.schedule_law import schedule_law_section
from megascale.report.verdicts import verdicts

if TYPE_CHECKING:
    from megascale.laws.findings import Findings

SCHEMA = "megascale.report/1"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose.

    Attributes:
        title: of the page.
        laws: law files for the calculator.
        models: presets for the calculator.
        defaults: of the calculator's fields.
    """

    title: str = "megascale report"
    laws: Sequence[LawFile] = ()
    models: Sequence[Path] = ()
    defaults: Defaults = field(default_factory=Defaults)


def build_document(inputs: Inputs, findings: Findings, settings: Settings) -> dict[str, Any]:
    """Everything the report says, section by section.

    A section without data is `{"empty": why, and what would fill it}`.

    Args:
        inputs: what was read.
        findings: what `find_all` found in it.
        settings: of the page.

    Raises:
        UserError: a model's file cannot be read.
    """
    steps, best = _batch(findings)
    if "empty" not in best:
        best["given"] = given_lines(settings.laws)
    own = None if findings.batches is None else findings.batches.law
    of_grids = [law for grid in findings.grids.values() for law in grid.laws]
    laws = [*settings.laws, *([] if own is None else [own]), *of_grids]
    notes = list(inputs.notes)
    predictions = [predictions_section(path, inputs.runs, notes) for path in inputs.predictions]
    laws_of_schedules = [schedule_law_section(law, inputs.runs) for law in inputs.schedule_laws]
    said = [one["verdict"] for one in predictions or laws_of_schedules if one["verdict"]]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "title": settings.title,
        "version": __version__,
        "verdicts": [*said, *verdicts(findings, own)],
        "notes": notes,
        "studies": inputs.studies,
        "curves": _curves(inputs, findings),
        "schedule_laws": laws_of_schedules,
        "predictions": predictions,
        "tokens_steps": steps,
        "best_batch": best,
        "grids": _grids(findings),
        "calculator": calculator(laws, settings.models, settings.defaults),
        "own_law": None if own is None else own.name,
        "provenance": {
            "version": __version__,
            "files": inputs.files,
            "laws": [{"name": x.name, "sha256": x.sha256, "source": x.source} for x in laws],
        },
    }
    return json_types(document)


def _curves(inputs: Inputs, findings: Findings) -> dict[str, Any]:
    if inputs.runs is None or findings.runs is None:
        return {"empty": "No run log among the inputs: give run directories, logs or trees."}
    return {
        "runs": run_rows(inputs.runs),
        "curves": drawn_curves(inputs.runs),
        "courses": run_courses(inputs.runs),
        "compared": compared_runs(findings.runs.growing),
        "crossings": crossing_rows(findings.runs.crossings),
        "dropped": [{"run": d.run, "reason": d.reason} for d in findings.runs.dropped],
    }


def _batch(findings: Findings) -> tuple[dict[str, Any], dict[str, Any]]:
    """E(S) and the best batch."""
    if findings.batches is None:
        empty = {"empty": f"Nothing to fit: {findings.no_batches} {batch_sections.NEEDS}"}
        return empty, dict(empty)
    return tokens_steps_section(findings.batches), best_batch_section(findings.batches)


def _grids(findings: Findings) -> dict[str, Any]:
    if not findings.grids:
        why = " ".join(findings.no_grids) or "No grid of finished runs among the inputs."
        return {"empty": f"{why} {grid_sections.NEEDS}"}
    grids = [{"path": path, **grid_section(grid)} for path, grid in findings.grids.items()]
    return {"grids": grids, "left_out": findings.no_grids}


def document_summary(document: dict[str, Any]) -> dict[str, Any]:
    """What was found, without the drawn points: for --json."""
    curves, steps = document["curves"], document["tokens_steps"]
    best, grids = document["best_batch"], document["grids"]
    return {
        "schema": SCHEMA,
        "title": document["title"],
        "version": document["version"],
        "verdicts": document["verdicts"],
        "studies": document["studies"],
        "runs": curves if "empty" in curves else curves["runs"],
        "crossings": [] if "empty" in curves else curves["crossings"],
        "tokens_steps": steps
        if "empty" in steps
        else {key: steps[key] for key in ("from", "chosen", "verdicts", "refuted", "tables")},
        "best_batch": best
        if "empty" in best
        else {
            "law": best["law"],
            "rows": best["rows"],
            "power": best["power"]
            and {k: v for k, v in best["power"].items() if k not in ("d", "lines")},
            "no_power": best["no_power"],
        },
        "grids": grids
        if "empty" in grids
        else [
            {
                "path": grid["path"],
                "runs": grid["runs"],
                "refit": grid["refit"],
                "regret": grid["regret"],
                "cells": [
                    {
                        key: value
                        for key, value in cell.items()
                        if key in ("n_params", "tokens", "best", "edge", "local_minima")
                    }
                    | {"quadratic": _without_cloud(cell["quadratic"])}
                    for cell in grid["cells"]
                ],
            }
            for grid in grids["grids"]
        ],
        "provenance": document["provenance"],
        "notes": document["notes"],
    }


def _without_cloud(quadratic: dict[str, Any] | None) -> dict[str, Any] | None:
    return quadratic and {key: value for key, value in quadratic.items() if key != "cloud"}
