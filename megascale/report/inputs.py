"""What the report's paths hold: run logs, tables of (S, E) points, grids of runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from megascale.errors import DataError, FitError
from megascale.laws.grid.table import grid_names, grid_table, is_grid
from megascale.report.studies import find_studies, read_studies
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import RunTable, load_runs

TABLES = {".csv", ".tsv", ".parquet"}
POINT_COLUMNS: dict[str, tuple[str, ...]] = {
    "n_params": ("n_params", "N"),
    "lr": ("lr", "learning_rate"),
    "target_loss": ("target_loss",),
    "batch_tokens": ("batch_tokens", "B_tokens"),
    "tokens": ("tokens", "E_tokens", "E"),
    "run": ("run",),
    "log_error": ("log_error",),
}
"""Our column -> what tables call it, the first that is there."""


@dataclass(slots=True)
class Inputs:
    """Everything that was read.

    Attributes:
        runs: the logs' one table; None where there is no log.
        points: tables of (S, E) points by file, with columns of `POINT_COLUMNS`.
        grids: grids of runs by file: n_params, tokens, lr, batch_tokens, loss.
        studies: results of sweeps, as `read_studies` gives them.
        files: path, sha256, what it was read as, bytes.
        notes: what the reader should know, in words.
    """

    runs: RunTable | None = None
    points: dict[str, pl.DataFrame] = field(default_factory=dict)
    grids: dict[str, pl.DataFrame] = field(default_factory=dict)
    studies: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_inputs(
    paths: Sequence[str | Path],
    *,
    grids: Sequence[str | Path] = (),
    options: ReadOptions | None = None,
    format: str | None = None,
    workers: int = 1,
    cache: bool = True,
    progress: bool = False,
) -> Inputs:
    """Read what the paths hold, each table as what its columns say.

    Args:
        paths: logs, run directories, trees, globs; tables of points or grids among them.
        grids: tables to read as grids whatever their columns.
        options: what the logs do not say; its sequence length also counts for grids.
        format, workers, cache, progress: as `load_runs`.

    Raises:
        DataError: a path is missing or cannot be read, or a grid lacks a column.
    """
    found = Inputs()
    options = options or ReadOptions()
    logs: list[str | Path] = []
    found.studies = read_studies(paths, found.notes)
    found.files += [_file(Path(study["path"]), "study") for study in found.studies]
    for path in [*grids, *paths]:
        if find_studies([path]) == [Path(path)]:
            continue
        kind = "grid" if path in grids else _kind(Path(path), options, format)
        if kind == "log":
            logs.append(path)
            continue
        frame = _read(Path(path))
        if kind == "grid":
            found.grids[str(path)] = _grid(frame, Path(path), options, found.notes)
        else:
            found.points[str(path)] = _renamed(frame, POINT_COLUMNS)
        found.files.append(_file(Path(path), "LR-batch grid" if kind == "grid" else "E(S) points"))
    if logs:
        found.runs = load_runs(
            logs, format=format, options=options, workers=workers, cache=cache, progress=progress
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
    return found


def _kind(path: Path, options: ReadOptions, format: str | None) -> str:
    """`grid`, `points` or `log`, by a table's column names."""
    if format is not None or options.columns or path.suffix.lower() not in TABLES:
        return "log"
    if not path.is_file():
        return "log"
    frame = _read(path, rows=1)
    names = set(frame.columns)
    points = {ours for ours, theirs in POINT_COLUMNS.items() if names & set(theirs)}
    if {"target_loss", "batch_tokens", "tokens"} <= points:
        return "points"
    both = {"lr", "batch_tokens"} <= {
        name.replace("samples", "tokens") for name in grid_names(frame.columns)
    }
    if not both or not is_grid(frame):
        return "log"
    return "grid" if "run" not in names or is_grid(_read(path)) else "log"


def _read(path: Path, rows: int | None = None) -> pl.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path, n_rows=rows)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        return pl.read_csv(path, n_rows=rows, separator=separator, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as failure:
        raise DataError.of("table", str(path), f"cannot be read: {failure}") from None


def _renamed(frame: pl.DataFrame, columns: dict[str, tuple[str, ...]]) -> pl.DataFrame:
    chosen = []
    for ours, theirs in columns.items():
        name = next((name for name in theirs if name in frame.columns), None)
        if name is not None:
            column = pl.col(name).alias(ours)
            chosen.append(column if ours == "run" else column.cast(pl.Float64, strict=False))
    return frame.select(chosen)


def _grid(frame: pl.DataFrame, path: Path, options: ReadOptions, notes: list[str]) -> pl.DataFrame:
    try:
        table, said = grid_table(frame, str(path), seq_length=options.seq_length)
    except FitError as error:
        raise DataError(str(error)) from None
    notes += said
    return table


def _file(path: Path, read_as: str) -> dict[str, Any]:
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    return {"path": str(path), "sha256": digest, "read_as": read_as, "bytes": len(raw)}
