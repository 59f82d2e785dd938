"""Plain CSV (or tab or semicolon separated), by a column map or by the names of its columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from megascale.errors import DataError
from megascale.runs.readers import fields
from megascale.runs.readers.base import FileRead, ReadOptions, Source
from megascale.runs.readers.opening import ends_torn
from megascale.runs.readers.tabular import column_map, require_loss, rows_of

NAME = "csv"
ORDERED = False


def sniff(head: bytes, path: str) -> bool:
    """Accept a header whose names include a loss; anything else needs `--format csv` and a column
    map.
    """
    header = column_names(head)
    if header is None or len(header) < 2:
        return False
    return fields.find("loss", header) is not None or any(fields.validations(header))


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read a table of points or curves.

    Raises:
        DataError: no header, a column that is not there, or none that is a loss.
    """
    found = FileRead(source.path, NAME)
    header = column_names(source.data)
    if not header:
        raise DataError.of("csv", str(source.path), "has no header line with column names")
    mapped = column_map(header, options, str(source.path))
    stated = dict(options.columns)
    sets = [] if "loss" in stated and "validation" not in stated else _sets(header, mapped)
    missing = require_loss(mapped, sets, header)
    if missing:
        raise DataError.of("csv", str(source.path), f"{missing}; name it with --columns loss=NAME")
    rows_of(records(source.data, header, found), mapped, found, options, sets)
    return found


def _sets(header: list[str], mapped: dict[str, str]) -> list[tuple[str, str]]:
    main = mapped.get("validation")
    others = [pair for pair in fields.validations(header) if pair[1] and pair[0] != main]
    return ([(main, "")] if main else []) + [
        pair for pair in others if pair[0] not in mapped.values()
    ]


def _delimiter(line: str) -> str:
    return max(",\t;", key=line.count)


def column_names(data: bytes) -> list[str] | None:
    """Return the column names in the first line; None where it cannot be one."""
    line, _, _ = data.lstrip(b"\xef\xbb\xbf").partition(b"\n")
    if not line.strip() or len(line) > 2**16 or b"\0" in line:
        return None
    text = line.decode("utf-8", "replace").rstrip("\r")
    try:
        return [name.strip() for name in next(csv.reader([text], delimiter=_delimiter(text)))]
    except (csv.Error, StopIteration):
        return None


def records(
    data: bytes, header: list[str], found: FileRead
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the line number and cells of every row with as many cells as the header."""
    text = data.decode("utf-8-sig", "replace")
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(first))
    torn = ends_torn(data)
    previous: tuple[int, list[str]] | None = None
    rows = _rows(reader, found)
    next(rows, None)
    for number, cells in rows:
        if previous is not None:
            yield from _record(*previous, header, found, last=False)
        previous = (number, cells)
    if previous is not None:
        yield from _record(*previous, header, found, last=torn)


def _rows(reader: Any, found: FileRead) -> Iterator[tuple[int, list[str]]]:
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as failure:
            found.reject(number, f"no CSV row: {failure}")
            continue
        if cells:
            yield number, cells


def _record(
    number: int, cells: list[str], header: list[str], found: FileRead, *, last: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    if len(cells) == len(header):
        yield number, dict(zip(header, cells, strict=True))
    elif last and len(cells) < len(header):
        found.note("torn", "the last line was cut off while it was written", number)
    else:
        found.reject(number, f"{len(cells)} cells under {len(header)} columns")
