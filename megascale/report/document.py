"""The report as one document of plain JSON types: what the page, the figures and --json show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from megascale import __version__
from megascale.curves.curve import Curve
from megascale.curves.smoothing import Window
from megascale.curves.table import curves_from_table
from megascale.errors import UserError
from megascale.formats.law_file import Input, LawFile
from megascale.laws.law_files import plain
from megascale.report import batch as batch_sections
from megascale.report import grid as grid_sections
from megascale.report.batch import (
    best_batch_section,
    given_lines,
    points_of_curves,
    tokens_steps_section,
)
from megascale.report.calculator import Defaults, calculator
from megascale.report.curves import crossing_rows, drawn_curves, run_rows
from megascale.report.grid import grid_of_runs, grid_section
from megascale.report.inputs import Inputs

SCHEMA = "megascale.report/1"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose.

    Attributes:
        title: of the page.
        loss: which losses the laws are fitted to: auto, train, validation or validation:SET.
        window: smoothing before the laws.
        phase: "stable" leaves warmup and decay out of the laws.
        targets: losses for E(S), or how many; None chooses them.
        family: law of tokens and steps for the best batches; None takes the best by AICc.
        replicates: bootstrap.
        laws: law files for the calculator.
        models: presets for the calculator.
        defaults: of the calculator's fields.
    """

    title: str = "megascale report"
    loss: str = "auto"
    window: Window = field(default_factory=Window)
    phase: Literal["stable", "all"] = "stable"
    targets: int | Sequence[float] | None = None
    family: str | None = None
    replicates: int = 200
    laws: Sequence[LawFile] = ()
    models: Sequence[Path] = ()
    defaults: Defaults = field(default_factory=Defaults)


def build_document(inputs: Inputs, settings: Settings) -> dict[str, Any]:
    """Everything the report says, section by section.

    A section without data is `{"empty": why, and what would fill it}`.

    Raises:
        UserError: a choice of the user's cannot be met (`settings.family`, a model's file).
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "title": settings.title,
        "version": __version__,
        "notes": list(inputs.notes),
    }
    document["studies"] = inputs.studies
    document["curves"], curves = _curves(inputs, settings)
    document["tokens_steps"], document["best_batch"], own = _batch(inputs, settings, curves)
    if "empty" not in document["best_batch"]:
        document["best_batch"]["given"] = given_lines(settings.laws)
    document["grids"] = _grids(inputs, settings)
    laws = [*settings.laws, *([] if own is None else [own])]
    document["calculator"] = calculator(laws, settings.models, settings.defaults)
    document["own_law"] = None if own is None else own.name
    document["provenance"] = {
        "version": __version__,
        "files": inputs.files,
        "laws": [{"name": law.name, "sha256": law.sha256, "source": law.source} for law in laws],
    }
    return plain(document)


def _curves(inputs: Inputs, settings: Settings) -> tuple[dict[str, Any], list[Curve]]:
    if inputs.runs is None:
        return {"empty": "No run log among the inputs: give run directories, logs or trees."}, []
    loaded = inputs.runs
    sizes = {run.run: run.meta.n_params for run in loaded.runs}
    smooth = curves_from_table(
        loaded.table,
        n_params=sizes,
        loss=settings.loss,
        window=settings.window,
        phase=settings.phase,
    )
    section = {
        "runs": run_rows(loaded),
        "curves": drawn_curves(loaded),
        "crossings": crossing_rows(smooth),
        "dropped": [{"run": d.run, "reason": d.reason} for d in smooth.dropped],
    }
    return section, smooth.constant_batch()


def _batch(
    inputs: Inputs, settings: Settings, curves: list[Curve]
) -> tuple[dict[str, Any], dict[str, Any], LawFile | None]:
    """E(S) and the best batch: from tables of points where there are any, else from the curves."""
    files = [Input(path=f["path"], sha256=f["sha256"]) for f in inputs.files]
    reasons: list[str] = []
    sources = list(inputs.points.values())
    if sources:
        points = sources[0] if len(sources) == 1 else _stacked(sources)
        files = [i for i in files if i.path in inputs.points]
    else:
        found, reasons = points_of_curves(curves, settings.targets)
        if found is None:
            why = "; ".join(reasons) or "no two runs differ in their batch alone"
            empty = {"empty": f"Nothing to fit: {why}. {batch_sections.NEEDS}"}
            return empty, empty, None
        points = found
    try:
        section, fits, optimal = tokens_steps_section(
            points, law=settings.family, replicates=settings.replicates
        )
    except UserError as error:
        if settings.family is not None:
            raise
        empty = {"empty": f"Nothing to fit: {error} {batch_sections.NEEDS}"}
        return empty, empty, None
    section["from"] = "a table of points" if sources else "the loss curves"
    section["left_out"] = reasons
    best, own = best_batch_section(fits, optimal, [] if sources else curves, files)
    return section, best, own


def _stacked(frames: list[Any]) -> Any:
    import polars as pl

    return pl.concat(frames, how="diagonal")


def _grids(inputs: Inputs, settings: Settings) -> dict[str, Any]:
    """Tables of finished runs; without one, the runs of the logs where these make a grid."""
    tables = dict(inputs.grids)
    if not tables and inputs.runs is not None:
        table = grid_of_runs(inputs.runs, settings.loss, settings.window)
        tables = {} if table is None else {"the runs' logs": table}
    if not tables:
        return {"empty": f"No grid of finished runs among the inputs. {grid_sections.NEEDS}"}
    grids, reasons = [], []
    for path, table in tables.items():
        try:
            grids.append({"path": path, **grid_section(table)})
        except UserError as error:
            reasons.append(f"{path}: {error}")
    if not grids:
        return {"empty": f"{'; '.join(reasons)} {grid_sections.NEEDS}"}
    return {"grids": grids, "left_out": reasons}


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """What was found, without the drawn points: for --json."""
    curves, steps = document["curves"], document["tokens_steps"]
    best, grids = document["best_batch"], document["grids"]
    return {
        "schema": SCHEMA,
        "title": document["title"],
        "version": document["version"],
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
