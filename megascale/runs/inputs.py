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

from megascale.errors import DataError, UserError
from megascale.runs.files import STUDY_FOLDER, STUDY_RESULTS, bare, own_schema
from megascale.runs.readers import csv, detect, fields, jsonl, opening, wandb
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
from megascale.shipped import legal_path

Holds = Literal["logs", "points", "grid", "law file", "predictions", "study", "table"]
"""What a path may hold; "table" is one that is none of the others."""
LAW_FILE: Holds = "law file"
PREDICTIONS: Holds = "predictions"
STUDY: Holds = "study"
TABLE: Holds = "table"
WORDS: dict[Holds, str] = {
    LOGS: "run logs",
    POINTS: "a table of points",
    GRID: "a table of final losses",
    LAW_FILE: "a law file",
    PREDICTIONS: "predictions",
    STUDY: "a study",
    TABLE: "a table of another kind",
}
"""Each in words."""

_DOCUMENTS: dict[str, Holds] = {
    "megascale.law": LAW_FILE,
    "megascale.schedule-law": LAW_FILE,
    "megascale.predict": PREDICTIONS,
}
_ANY_TABLE = (csv, jsonl)
"""Readers that take a table by the names of its columns alone."""
_HEAD_BYTES = 2**19
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
    path = legal_path(path, "path", error=DataError)
    if path.is_dir():
        if (path / STUDY_FOLDER / STUDY_RESULTS).is_file():
            return Recognised(path, STUDY, f"its results are in {STUDY_FOLDER}/{STUDY_RESULTS}")
        return Recognised(path, LOGS, "a directory is searched for logs")
    if not path.is_file():
        return Recognised(path, LOGS, "a pattern is searched for logs")
    if path.name == STUDY_RESULTS and path.parent.name == STUDY_FOLDER:
        return Recognised(path, STUDY, "a study's results")
    schema = own_schema(path)
    if schema in _DOCUMENTS:
        return Recognised(path, _DOCUMENTS[schema], f"its schema is {schema}")
    if format is not None:
        return Recognised(path, LOGS, f"it is to be read as {format}")
    if wanted in (POINTS, GRID):
        frame = table_of(path)
        return Recognised(
            path, wanted, "it is to be read as such", frame,
            find_columns(frame.columns, wanted, stated),
        )  # fmt: skip
    suffix = Path(bare(path.name)).suffix.lower()
    if suffix not in TABLES:
        return Recognised(path, LOGS, "it is no table by its name")
    head = _head(path, whole=suffix == ".parquet")
    reader = detect.reader_of(head, str(path))
    if reader is not None and reader not in (wandb, *_ANY_TABLE):
        return Recognised(path, LOGS, f"records in the format {reader.NAME}")
    try:
        kind, reason = kind_of_table(table_of(path, head, rows=_HEAD_ROWS), stated, constant)
        if kind == LOGS:
            return Recognised(path, LOGS, reason)
        frame = table_of(path)
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
    if reader is wandb and not find_column("run", frame.columns, GRID) and suffix != ".parquet":
        return Recognised(path, LOGS, f"records in the format {reader.NAME}")
    return Recognised(path, TABLE, "; ".join(_nearly(frame, stated, constant)), frame)


def _head(path: Path, *, whole: bool) -> bytes:
    """The beginning of a file, decompressed, up to the end of a line; all of it where wanted."""
    try:
        with path.open("rb") as file:
            raw = file.read() if whole else file.read(_HEAD_BYTES)
    except OSError as failure:
        raise DataError.of("path", str(path), f"cannot be read: {failure.strerror}") from None
    data, _ = opening.decompressed(path, raw)
    if whole or len(raw) < _HEAD_BYTES:
        return data
    return data[: data.rfind(b"\n") + 1] or data


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
    if not missing(points, POINTS) and _counts_to_a_loss(points, stated):
        shown = ", ".join(
            points[name] for name in ("target_loss", "tokens", "steps") if name in points
        )
        return POINTS, f"its columns {shown} count tokens or steps to a loss"
    grid = find_columns(names, GRID, stated)
    series = _is_series(frame, names, grid)
    if not missing({*grid, *constant}, GRID) and not series:
        shown = ", ".join(grid[name] for name in _GRID_SHOWN if name in grid)
        return GRID, f"its columns {shown} are one finished run a row"
    logs = find_columns(names, LOGS, stated)
    counter = next((logs[name] for name in ("step", "tokens", "samples") if name in logs), None)
    loss = logs.get("loss", next((name for name, _ in fields.validations(names)), None))
    if loss is not None and counter is not None and (series or not {"run", "n_params"} & {*grid}):
        return LOGS, f"its column {loss} goes along {counter}"
    return None, ""


def missing(columns: Collection[str], kind: Kind) -> list[list[str]]:
    """Return what a table lacks to be of a kind: groups of our columns, of which one each is
    needed.
    """
    if kind == POINTS:
        gone = [group for group in _MEASURES if not any(name in columns for name in group)]
        if len(gone) == 2:
            return [[name for group in gone for name in group]]
        return list(_MEASURES[:2]) if len(gone) == 3 else []
    return [group for group in _NEEDED[kind] if not any(name in columns for name in group)]


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


_NEEDED: dict[Kind, list[list[str]]] = {
    GRID: [
        ["n_params", "active_params"],
        ["tokens"],
        ["loss", "validation"],
        ["lr", "batch_tokens", "batch_samples"],
    ],
    LOGS: [["loss", "validation"], ["step", "tokens", "samples"]],
    POINTS: [],
}
"""Groups of columns of every kind of table, of which it has one each; points have `_MEASURES`."""
_MEASURES = [["steps"], ["tokens"], ["batch_tokens", "batch_samples"]]
"""Of these points have two."""
_SETTINGS = ("n_params", "active_params", "lr", "batch_tokens", "batch_samples")
_GRID_SHOWN = (
    "n_params",
    "active_params",
    "tokens",
    "loss",
    "validation",
    "lr",
    "batch_tokens",
    "batch_samples",
)
_LETTERS = {"S", "E", "E_tokens", "steps_to_loss", "steps_to_target", "tokens_to_loss",
            "tokens_to_target"}  # fmt: skip
"""Names that say that tokens or steps are counted to a loss."""


def _nearly(
    frame: pl.DataFrame, stated: Sequence[tuple[str, str]], constant: Collection[str]
) -> list[str]:
    """What a table lacks for each kind, the nearest first."""
    said = []
    for kind in _NEEDED:
        found = find_columns(frame.columns, kind, stated)
        gone = missing({*found, *constant}, kind)
        if kind == POINTS and not _counts_to_a_loss(found, stated):
            gone.append(["target_loss"])
        if gone:
            listed = ", ".join(" or ".join(group) for group in gone)
            said.append((len(gone), f"for {WORDS[kind]} it lacks {listed}"))
    return [text for _, text in sorted(said, key=lambda one: one[0])]


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
    """Whether several rows belong to one run: rows have a step, runs repeat, or only the tokens
    differ from row to row."""
    run = grid.get("run")
    if run is not None and len(frame) > 1:
        return bool(frame[run].n_unique() < len(frame))
    if find_column("step", names) is not None:
        return True
    tokens = grid.get("tokens")
    settings = [grid[name] for name in _SETTINGS if name in grid]
    if tokens is None or len(frame) < 3 or frame[tokens].n_unique() < len(frame):
        return False
    return all(frame[name].n_unique() == 1 for name in settings)
