"""Reading a piece of text as a log file would be read."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from megascale.runs.readers import detect
from megascale.runs.readers.base import FileRead, ReadOptions, Source, filled
from megascale.runs.readers.restarts import keep_last


def read_as(
    reader: ModuleType, data: bytes | str, options: ReadOptions | None = None, **companions: bytes
) -> FileRead:
    """What a reader gives for these bytes, completed and each step once, as in `load_runs`."""
    options = options or ReadOptions()
    raw = data.encode() if isinstance(data, str) else data
    named = {name.replace("_", "."): value for name, value in companions.items()}
    found = filled(reader.read(Source(Path("log"), raw, named), options), options)
    kept = keep_last(found.table, ordered=reader.ORDERED)
    found.table = kept.table
    found.superseded += kept.superseded
    return found


def recognised(data: bytes | str) -> str | None:
    """The name of the format that these bytes are taken for."""
    raw = data.encode() if isinstance(data, str) else data
    reader = detect.reader_of(raw, "log")
    return None if reader is None else reader.NAME


def kinds(found: FileRead) -> list[str]:
    """The kinds of a file's notes."""
    return [note.kind for note in found.notes]
