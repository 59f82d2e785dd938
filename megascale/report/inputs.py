"""What the report's paths hold: run logs, tables of (S, E) points, grids of runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from megascale.errors import DataError, FitError
from megascale.formats.law_file import LawFile, read_law_file
from megascale.formats.schedule_law_file import ScheduleLawFile, read_schedule_law
from megascale.laws.grid.table import grid_table
from megascale.laws.law_files import NKind
from megascale.report.documents import SCHEDULE_LAW, find_documents
from megascale.report.studies import read_studies
from megascale.runs.check import mixed_logs
from megascale.runs.files import own_schema
from megascale.runs.inputs import (
    GRID,
    LAW_FILE,
    LOGS,
    POINTS,
    PREDICTIONS,
    STUDY,
    WORDS,
    Recognised,
    recognise,
)
from megascale.runs.measured import point_rows
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import RunTable, load_runs

READ_AS = {
    GRID: "LR-batch grid",
    POINTS: "E(S) points",
    LAW_FILE: "law file",
    PREDICTIONS: "predictions",
    STUDY: "study",
}
"""What the page says that a file was read as."""


@dataclass(slots=True)
class Inputs:
    """Everything that was read.

    Attributes:
        runs: the logs' one table; None where there is no log.
        points: tables of (S, E) points by file, with the columns of `point_rows`.
        grids: grids of runs by file: n_params, tokens, lr, batch_tokens, loss.
        grid_kinds: which parameters N counts there.
        laws: law files among the paths.
        schedule_laws: laws of whole schedules among the paths and in their trees.
        predictions: files of written predictions, likewise.
        studies: results of sweeps, as `read_studies` gives them.
        files: path, sha256, what it was read as, bytes.
        notes: what the reader should know, in words.
    """

    runs: RunTable | None = None
    points: dict[str, pl.DataFrame] = field(default_factory=dict)
    grids: dict[str, pl.DataFrame] = field(default_factory=dict)
    grid_kinds: dict[str, NKind] = field(default_factory=dict)
    laws: list[LawFile] = field(default_factory=list)
    schedule_laws: list[ScheduleLawFile] = field(default_factory=list)
    predictions: list[Path] = field(default_factory=list)
    studies: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_inputs(
    paths: Sequence[str | Path],
    *,
    grids: Sequence[str | Path] = (),
    options: ReadOptions | None = None,
    loss: str = "auto",
    format: str | None = None,
    join: bool = False,
    workers: int = 1,
    cache: bool = True,
    progress: bool = False,
) -> Inputs:
    """Read what the paths hold, as `megascale.runs.inputs.recognise` says it.

    Args:
        paths: logs, run directories, trees, globs; tables of points, grids and law files among
            them.
        grids: tables to read as grids whatever their columns.
        options: what the paths do not say: columns and sequence length count for tables too.
        loss: which losses of a grid: "auto", "train" or "validation".
        format, join, workers, cache, progress: as `load_runs`.

    Raises:
        DataError: a path is missing or cannot be read, a table is of no kind that the report
            shows, or one of `grids` lacks a column.
    """
    found = Inputs()
    options = options or ReadOptions()
    logs: list[str | Path] = []
    found.studies = read_studies(paths, found.notes)
    found.files += [_file(Path(study["path"]), "study") for study in found.studies]
    _add_documents(found, paths)
    for path in grids:
        _add_grid(found, recognise(path, stated=options.columns, wanted=GRID), options, loss, True)
    for path in paths:
        held = recognise(path, stated=options.columns, format=format)
        if held.holds == STUDY:
            if held.path.is_dir():
                logs.append(path)
        elif held.holds == LOGS:
            logs.append(path)
        elif held.holds == LAW_FILE and own_schema(held.path) != SCHEDULE_LAW:
            found.laws.append(read_law_file(held.path))
            found.files.append(_file(held.path, READ_AS[LAW_FILE]))
        elif held.holds in (LAW_FILE, PREDICTIONS):
            continue  # with the documents
        elif held.holds == GRID:
            _add_grid(found, held, options, loss, False)
        elif held.holds == POINTS:
            _add_points(found, held, options)
        else:
            raise DataError.of("path", str(path), f"holds {WORDS[held.holds]}: {held.reason}")
    if logs:
        found.runs = load_runs(
            logs,
            format=format,
            options=options,
            join=join,
            workers=workers,
            cache=cache,
            progress=progress,
        )
        found.files += [
            {
                "path": str(read.path),
                "sha256": read.sha256,
                "read_as": read.format,
                "bytes": read.path.stat().st_size,
            }
            for read in found.runs.files
        ]
        found.notes += [
            f"passed over {reason.split('. Nearest legal')[0]}" for _, reason in found.runs.skipped
        ]
        for read in found.runs.files:
            if read.malformed_count:
                found.notes.append(f"{read.path}: {read.malformed_count} malformed lines")
        found.notes += [f"{place}: {message}" for place, message in mixed_logs(found.runs)]
    return found


def _add_documents(found: Inputs, paths: Sequence[str | Path]) -> None:
    for path, schema in find_documents(paths).items():
        if schema == SCHEDULE_LAW:
            found.schedule_laws.append(read_schedule_law(path))
            found.files.append(_file(path, "law of whole schedules"))
        else:
            found.predictions.append(path)
            found.files.append(_file(path, READ_AS[PREDICTIONS]))


def _add_grid(
    found: Inputs, held: Recognised, options: ReadOptions, loss: str, asked: bool
) -> None:
    """A grid under our names; one that was not asked for and lacks a column is a note."""
    assert held.frame is not None
    try:
        table, said, sized = grid_table(
            held.frame,
            str(held.path),
            columns=options.columns,
            seq_length=options.seq_length,
            loss=loss,
            n_kind="any",
        )
    except FitError as error:
        if asked:
            raise DataError(str(error)) from None
        found.notes.append(f"no grid is drawn: {error}")
    else:
        found.grids[str(held.path)] = table
        found.grid_kinds[str(held.path)] = sized.kind
        found.notes += said
    found.files.append(_file(held.path, READ_AS[GRID]))


def _add_points(found: Inputs, held: Recognised, options: ReadOptions) -> None:
    assert held.frame is not None
    try:
        table, said = point_rows(
            held.frame, str(held.path), stated=options.columns, seq_length=options.seq_length
        )
    except FitError as error:
        raise DataError(str(error)) from None
    found.points[str(held.path)] = table
    found.notes += said
    found.files.append(_file(held.path, READ_AS[POINTS]))


def _file(path: Path, read_as: str) -> dict[str, Any]:
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    return {"path": str(path), "sha256": digest, "read_as": read_as, "bytes": len(raw)}
