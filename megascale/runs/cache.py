"""What was read from a log, kept under the hash of its content.

A cache entry is named by the content's hash, the format, the user's statements and the version of
the readers, so it can be stale only if a reader changes without its version.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from megascale.runs.readers.base import (
    READER_VERSION,
    SCHEMA,
    FileRead,
    MalformedRecord,
    Note,
    ReadOptions,
    RunMeta,
)

SMALLEST_BYTES = 256 * 2**10
"""Smaller files share a cache entry: see `bundles`."""


class ReadCache:
    """A folder of tables that were read before. Damage or a full disk only make it miss."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "runs"

    def key(self, sha256: str, format_name: str, options: ReadOptions) -> str:
        """Return the name of the entry for a file's content read in this way."""
        text = f"{READER_VERSION}\n{sha256}\n{format_name}\n{options.key()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, key: str, path: Path) -> FileRead | None:
        """Return what was read from such a file before; None if nothing usable is there."""
        try:
            with (self.directory / f"{key}.json").open("rb") as file:
                report = json.load(file)
            table = pl.read_ipc(self.directory / f"{key}.arrow")
            if dict(table.schema) != SCHEMA:
                return None
            return file_of_report(report, table, path)
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
            return None

    def store(self, key: str, read: FileRead) -> None:
        """Keep what was read; without effect where the folder cannot be written."""
        report = report_of_file(read)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with Replacing(self.directory / f"{key}.arrow") as name:
                read.table.write_ipc(name, compression="lz4")
            with Replacing(self.directory / f"{key}.json") as name:
                Path(name).write_text(json.dumps(report, default=str), encoding="utf-8")
        except OSError:
            return


def report_of_file(read: FileRead) -> dict[str, Any]:
    """Return what a file gave besides its table, as JSON types."""
    return {
        "format": read.format,
        "sha256": read.sha256,
        "runs": [asdict(run) for run in read.runs],
        "malformed": [asdict(line) for line in read.malformed],
        "malformed_count": read.malformed_count,
        "notes": [asdict(note) for note in read.notes],
        "superseded": read.superseded,
    }


def file_of_report(report: dict[str, Any], table: pl.DataFrame, path: Path) -> FileRead:
    """Return the inverse of `report_of_file`, for a file of that content at `path`.

    Raises:
        KeyError, TypeError: the report is of another kind.
    """
    return FileRead(
        path=path,
        format=report["format"],
        sha256=report["sha256"],
        table=table,
        runs=[RunMeta(**run) for run in report["runs"]],
        malformed=[MalformedRecord(**line) for line in report["malformed"]],
        malformed_count=report["malformed_count"],
        notes=[Note(**note) for note in report["notes"]],
        superseded=report["superseded"],
    )


class Replacing:
    """A temporary file that takes the place of `path` when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> str:
        descriptor, self._name = tempfile.mkstemp(dir=self.path.parent)
        os.close(descriptor)
        return self._name

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            os.replace(self._name, self.path)
        else:
            os.unlink(self._name)
