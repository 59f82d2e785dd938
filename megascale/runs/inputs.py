"""What a path holds: run logs, points, a grid of final losses, a law file or a study.

`recognise` says it by what stands in the file, with the reason, and every verb asks it: what one
takes for a grid is a grid for all. A table is told by its columns, in the words of
`megascale.runs.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from megascale.errors import UserError
from megascale.runs.files import STUDY_FOLDER, STUDY_RESULTS, bare, is_law_file
from megascale.runs.readers import csv, detect, jsonl, opening
from megascale.runs.table_file import TABLES, table_of
from megascale.runs.vocabulary import (
    GRID,
    LOGS,
    POINTS,
    UNSTATED,
    Kind,
    column_words,
    find_column,
    find_columns,
    our_name,
)

Holds = Literal["logs", "points", "grid", "law file", "study", "table"]
"""What a path may hold; "table" is one that is none of the others."""
LAW_FILE: Holds = "law file"
STUDY: Holds = "study"
TABLE: Holds = "table"
WORDS: dict[Holds, str] = {
    LOGS: "run logs",
    POINTS: "a table of points",
    GRID: "a table of final losses",
    LAW_FILE: "a law file",
    STUDY: "a study",
    TABLE: "a table of another kind",
}
"""Each in words."""

_ANY_TABLE = (csv, jsonl)
"""Readers that take a table by the names of its columns alone."""
_HEAD_ROWS = 64
"""Rows that tell most logs; only what may be points or a grid is read whole."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a path holds.

    Attributes:
        path: as it was given.
        holds: what it is.
        reason: why it is taken for that, in words.
        frame: of a table of points, a grid or another table, as it is in the file.
        columns: our columns -> the table's; of points and grids.
    """

    path: Path
    holds: Holds
    reason: str
    frame: pl.DataFrame | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """`PATH holds run logs: why`."""
        return f"{self.path} holds {WORDS[self.holds]}: {self.reason}"


def recognise(
    path: str | Path,
    *,
    stated: Sequence[tuple[str, str]] = (),
    constant: Collection[str] = (),
    format: str | None = None,
    wanted: Kind | None = None,
) -> Recognised:
    """Return what a path holds.

    Args:
        path: a file, directory, tree or glob.
        stated: (ours, theirs) columns that the user names.
        constant: our columns of which the user gives the one value that all rows have.
        format: of logs, as the user names it: what the path holds are logs then.
        wanted: what a table is to be read as, whatever its columns.

    Raises:
        DataError: a table is wanted and cannot be read as one.
    """
    path = Path(path)
    if path.is_dir():
        if (path / STUDY_FOLDER / STUDY_RESULTS).is_file():
            return Recognised(path, STUDY, f"its results are in {STUDY_FOLDER}/{STUDY_RESULTS}")
        return Recognised(path, LOGS, "a directory is searched for logs")
    if not path.is_file():
        return Recognised(path, LOGS, "a pattern is searched for logs")
    if path.name == STUDY_RESULTS and path.parent.name == STUDY_FOLDER:
        return Recognised(path, STUDY, "a study's results")
    if is_law_file(path):
        return Recognised(path, LAW_FILE, "its schema is megascale.law")
    if format is not None:
        return Recognised(path, LOGS, f"it is to be read as {format}")
    if wanted in (POINTS, GRID):
        frame = table_of(path)
        return Recognised(
            path, wanted, "it is to be read as such", frame,
            find_columns(frame.columns, wanted, stated),
        )  # fmt: skip
    if Path(bare(path.name)).suffix.lower() not in TABLES:
        return Recognised(path, LOGS, "it is no table by its name")
    data, _ = opening.decompressed(path, opening.raw_bytes(path))
    reader = detect.reader_of(data, str(path))
    table = path.suffix.lower() == ".parquet" or reader in (None, *_ANY_TABLE)
    if not table and reader is not None:
        return Recognised(path, LOGS, f"records in the format {reader.NAME}")
    try:
        kind, reason = kind_of_table(table_of(path, data, rows=_HEAD_ROWS), stated, constant)
        if kind == LOGS:
            return Recognised(path, LOGS, reason)
        frame = table_of(path, data)
    except UserError:
        if reader is None:
            raise
        return Recognised(path, LOGS, f"records in the format {reader.NAME}")
    kind, reason = kind_of_table(frame, stated, constant)
    if kind == LOGS:
        return Recognised(path, LOGS, reason)
    if kind is not None:
        columns = find_columns(frame.columns, kind, stated)
        return Recognised(path, kind, reason, frame, columns)
    return Recognised(path, TABLE, "; ".join(_nearly(frame, stated, constant)), frame)


def kind_of_table(
    frame: pl.DataFrame,
    stated: Sequence[tuple[str, str]] = (),
    constant: Collection[str] = (),
) -> tuple[Kind | None, str]:
    """Return which kind of table this is, by its columns, and why; None where it is none.

    Points have two of tokens, steps and batch, and say that they are counted to a loss: by a
    column of target losses, or by the field's letters S and E. A grid has N, D, a loss, and a
    learning rate or batch, in one row a run. Logs have a loss, and count steps, tokens or samples
    from row to row.
    """
    names = frame.columns
    points = find_columns(names, POINTS, stated)
    measured = sum(any(name in points for name in group) for group in _MEASURES)
    if measured >= 2 and _counts_to_a_loss(points, stated):
        shown = ", ".join(
            points[name] for name in ("target_loss", "tokens", "steps") if name in points
        )
        return POINTS, f"its columns {shown} count tokens or steps to a loss"
    grid = find_columns(names, GRID, stated)
    series = _is_series(frame, names, grid)
    if not missing({*grid, *constant}, GRID) and not series:
        shown = ", ".join(grid[name] for name in grid if name in _GRID_SHOWN)
        return GRID, f"its columns {shown} are one finished run a row"
    logs = find_columns(names, LOGS, stated)
    counter = next((logs[name] for name in ("step", "tokens", "samples") if name in logs), None)
    loss = logs.get("loss", logs.get("validation"))
    finished = not series and bool({"run", "n_params"} & {*grid})
    if loss is not None and counter is not None and not finished:
        return LOGS, f"its column {loss} goes along {counter}"
    return None, ""


def missing(columns: Collection[str], kind: Kind) -> list[list[str]]:
    """Return what a table lacks to be of a kind: groups of our columns, of which one each is
    needed.
    """
    return [group for group in NEEDED[kind] if not any(name in columns for name in group)]


def lacks(names: Sequence[str], gone: Sequence[Sequence[str]], kind: Kind, what: str = "") -> str:
    """Return one sentence on what a table lacks.

    Args:
        names: of its columns.
        gone: groups of our columns, of which one each is needed and none is there.
        kind: that it was to be.
        what: for what it was to be used; else the kind in words.
    """
    listed = "; ".join(" or ".join(column_words(name, kind) for name in group) for group in gone)
    unclear = [
        f"{name} says no unit: --columns {' or '.join(f'{ours}={name}' for ours in meant)}"
        for name, meant in UNSTATED.items()
        if name in names and any(set(meant) & set(group) for group in gone)
    ]
    found = ", ".join(list(names)[:12]) + (", ..." if len(names) > 12 else "")
    parts = [f"for {what or WORDS[kind]} these columns are missing: {listed}", *unclear]
    return "; ".join(parts) + f"; found: {found}"


NEEDED: dict[Kind, list[list[str]]] = {
    LOGS: [["loss", "validation"], ["step", "tokens", "samples"]],
    POINTS: [["tokens", "batch_tokens"], ["steps", "batch_tokens"]],
    GRID: [
        ["n_params", "active_params"],
        ["tokens"],
        ["loss", "validation"],
        ["lr", "batch_tokens", "batch_samples"],
    ],
}
"""Groups of columns of every kind of table, of which it has one each."""
_MEASURES = (("tokens",), ("steps",), ("batch_tokens", "batch_samples"))
_GRID_SHOWN = ("n_params", "tokens", "loss", "validation", "lr", "batch_tokens", "batch_samples")
_LETTERS = {"S", "E", "E_tokens", "steps_to_loss", "steps_to_target", "tokens_to_loss",
            "tokens_to_target"}  # fmt: skip
"""Names that say that tokens or steps are counted to a loss."""


def _nearly(
    frame: pl.DataFrame, stated: Sequence[tuple[str, str]], constant: Collection[str]
) -> list[str]:
    """What a table lacks for each kind, the nearest first."""
    found = {
        kind: find_columns(frame.columns, kind, stated) | dict.fromkeys(constant, "")
        for kind in NEEDED
    }
    order = sorted(NEEDED, key=lambda kind: len(missing(found[kind], kind)))
    said = []
    for kind in order:
        gone = missing(found[kind], kind)
        if gone:
            listed = ", ".join(" or ".join(group) for group in gone)
            said.append(f"for {WORDS[kind]} it lacks {listed}")
    return said or ["it does not say what its rows are"]


def _counts_to_a_loss(points: Mapping[str, str], stated: Sequence[tuple[str, str]]) -> bool:
    given = {our_name(ours, POINTS) for ours, _ in stated}
    target = points.get("target_loss")
    named = target is not None and (
        "target_loss" in given or (find_column("target_loss", [target], POINTS) == target
        and target not in ("loss", "L"))
    )  # fmt: skip
    letters = any(points.get(name) in _LETTERS for name in ("steps", "tokens"))
    return named or (letters and ("steps" in points or target is not None))


def _is_series(frame: pl.DataFrame, names: Sequence[str], grid: Mapping[str, str]) -> bool:
    """Whether several rows belong to one run: rows have a step, or runs repeat."""
    run = grid.get("run")
    if run is not None and len(frame) > 1:
        return bool(frame[run].n_unique() < len(frame))
    return find_column("step", names) is not None
