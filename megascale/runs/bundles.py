"""What was read from many small logs, kept in few files.

A small log is read about as fast as an entry of its own is looked up, so entries of one call share
a file: a table of all their rows, and what else each gave with its place in it. Entries are named
by content, as in `cache`. The folder holds few bundles: when there are too many, what the call at
hand uses becomes one, and the others are deleted.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from megascale.runs.cache import Replacing, file_of_report, report_of_file
from megascale.runs.readers.base import READER_VERSION, SCHEMA, FileRead

MOST_BUNDLES = 8


class Bundles:
    """Small logs that were read before. Damage or a full disk only make it miss."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "runs" / f"small-{READER_VERSION}"
        self._places: dict[str, tuple[Path, dict[str, Any]]] = {}
        self._tables: dict[Path, pl.DataFrame | None] = {}
        self._indices = sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
        for path in self._indices:
            try:
                index = json.loads(path.read_bytes())
                self._places |= {key: (path, report) for key, report in index.items()}
            except (OSError, ValueError, AttributeError, RecursionError):
                continue

    def load(self, key: str, path: Path) -> FileRead | None:
        """Return what was read from such a file before; None if nothing usable is there."""
        index, report = self._places.get(key, (None, {}))
        if index is None:
            return None
        table = self._table(index)
        try:
            start, height = report["rows"]
            if table is None or start + height > table.height:
                return None
            return file_of_report(report, table.slice(start, height), path)
        except (KeyError, TypeError, ValueError):
            return None

    def _table(self, index: Path) -> pl.DataFrame | None:
        if index not in self._tables:
            try:
                table = pl.read_ipc(index.with_suffix(".arrow"))
                self._tables[index] = table if dict(table.schema) == SCHEMA else None
            except (OSError, pl.exceptions.PolarsError):
                self._tables[index] = None
        return self._tables[index]

    def store(self, new: Mapping[str, FileRead], used: Mapping[str, FileRead]) -> None:
        """Keep what was read; without effect where the folder cannot be written.

        Args:
            new: by key, what was not there.
            used: by key, what was.
        """
        if not new:
            return
        crowded = len(self._indices) >= MOST_BUNDLES
        kept = {**used, **new} if crowded else dict(new)
        index, start = {}, 0
        for key, read in kept.items():
            index[key] = report_of_file(read) | {"rows": (start, read.table.height)}
            start += read.table.height
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{uuid.uuid4().hex}.json"
            with Replacing(path.with_suffix(".arrow")) as name:
                table = pl.concat([read.table for read in kept.values()], rechunk=True)
                table.write_ipc(name, compression="lz4")
            with Replacing(path) as name:
                Path(name).write_text(json.dumps(index, default=str), encoding="utf-8")
            for old in self._indices if crowded else []:
                old.unlink(missing_ok=True)
                old.with_suffix(".arrow").unlink(missing_ok=True)
        except OSError:
            return
