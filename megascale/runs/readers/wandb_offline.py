"""W&B's own file of a run, `run-ID.wandb`: what an offline run leaves until it is synchronised.

A log in LevelDB's layout: blocks of 32 KiB, records cut at their ends, each piece with its
checksum, length and place in the record. The records are protocol buffers; W&B's package has their
description.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from megascale.errors import DataError
from megascale.extras import pip_command
from megascale.runs.readers.base import FileRead, Source

MAGIC = b":W&B\xe1\xbe"
_HEADER = 7
_BLOCK = 32 * 2**10
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def history(source: Source, found: FileRead) -> tuple[list[tuple[int, dict[str, Any]]], dict]:
    """Return the rows of a run's history, with the number of their record, and what describes the
    run.

    Returns:
        Rows as `run.history()` gives them, and an object with `name`, `config` and `summary`.

    Raises:
        DataError: the package wandb is not installed, or too old to know the records.
    """
    record_of = _parser(source)
    rows: list[tuple[int, dict[str, Any]]] = []
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    about: dict[str, Any] = {"config": config, "summary": summary}
    for number, data in _records(source.data, found):
        record = record_of(data)
        if record is None:
            found.reject(number, "no record of W&B's")
            continue
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = _items(record.history.item)
            if record.history.HasField("step"):
                row.setdefault("_step", record.history.step.num)
            rows.append((number, row))
        elif kind == "run":
            config |= _items(record.run.config.update)
            about["name"] = record.run.display_name or record.run.run_id
        elif kind == "config":
            config |= _items(record.config.update)
        elif kind == "summary":
            summary |= _items(record.summary.update)
    return rows, about


def _parser(source: Source) -> Any:
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2
    except ImportError:
        rule = f"a .wandb file needs the package wandb; {pip_command('wandb')}, or export it"
        raise DataError.of("log", str(source.path), rule) from None

    record_type: Any = getattr(wandb_internal_pb2, "Record", None)  # made when it is imported

    def parse(data: bytes) -> Any:
        record = record_type()
        try:
            record.ParseFromString(data)
        except DecodeError:
            return None
        return record

    return parse


def _items(items: Any) -> dict[str, Any]:
    """Values by their names; those that are no JSON are left out."""
    values = {}
    for item in items:
        name = item.key or ".".join(item.nested_key)
        try:
            values[name] = json.loads(item.value_json)
        except (ValueError, RecursionError):
            continue
    return values


def _records(data: bytes, found: FileRead) -> Iterator[tuple[int, bytes]]:
    """Whole records, counted from 1; damaged ones are reported, and the next block read."""
    at, number, parts = _HEADER, 1, list[bytes]()
    while at < len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        if at + _HEADER > len(data):
            break
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        piece = data[at + _HEADER : at + _HEADER + length]
        if at + _HEADER + length > len(data) and length + _HEADER <= left:
            break
        if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum or not _FULL <= kind <= _LAST:
            found.reject(number, "a damaged record: its checksum does not agree")
            at, parts, number = at + left, [], number + 1
            continue
        at += _HEADER + length
        if kind in (_FULL, _FIRST):
            parts = []
        elif not parts:
            continue  # the rest of a damaged record
        parts.append(piece)
        if kind in (_FULL, _LAST):
            yield number, b"".join(parts)
            number, parts = number + 1, []
    if at < len(data) or parts:
        found.note("torn", "the last record was cut off while it was written", number)
