"""Flat JSON objects, one a line: lingua's metrics.jsonl, W&B rows, anything with known keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from megascale.errors import DataError
from megascale.runs.readers import fields
from megascale.runs.readers.base import (
    INSTANTANEOUS,
    INTERVAL_MEAN,
    FileRead,
    ReadOptions,
    Source,
    exact_int,
)
from megascale.runs.readers.opening import ends_torn
from megascale.runs.readers.tabular import column_map, require_loss, rows_of

NAME = "jsonl"
ORDERED = False


_FACTORY = {"current_steps", "total_steps"}
"""LLaMA-Factory's `trainer_log.jsonl`: what its Trainer logs, means over the steps since."""


def sniff(head: bytes, path: str) -> bool:
    for line in head.split(b"\n")[:20]:
        record = _object(line)
        if record is None:
            return False
        if fields.find("loss", record) or any(fields.validations(record)):
            return True
    return False


def is_lines(data: bytes) -> bool:
    """Say whether the first line is an object of its own."""
    return _object(data.lstrip().split(b"\n", 1)[0]) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read every object's numbers under the names that are known, or that the user names.

    Raises:
        DataError: no key is a loss, or a named one is not there.
    """
    found = FileRead(source.path, NAME)
    listed = list(_records(source.data, found))
    names = list(dict.fromkeys(name for _, record in listed for name in record))
    mapped = column_map(names, options, str(source.path))
    sets = [] if "loss" in dict(options.columns) else list(fields.validations(names))
    missing = require_loss(mapped, sets, names)
    if missing:
        raise DataError.of("jsonl", str(source.path), missing)
    trainer = set(names) >= _FACTORY
    rows_of(listed, mapped, found, options, sets, INTERVAL_MEAN if trainer else INSTANTANEOUS)
    totals = [exact_int(record.get("total_steps")) for _, record in listed] if trainer else []
    if totals and totals[-1]:
        found.totals[""] = totals[-1]
    return found


def _records(data: bytes, found: FileRead) -> Iterator[tuple[int, dict[str, Any]]]:
    torn = data.count(b"\n") + 1 if ends_torn(data) else 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        record = _object(line)
        if record is not None:
            yield number, record
        elif number == torn:
            found.note("torn", "the last line was cut off while it was written", number)
        else:
            found.reject(number, "not a JSON object")


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
