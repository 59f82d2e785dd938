"""Raw documents from txt, jsonl and parquet files, plain or compressed, in bounded batches.

Reading and cutting into batches happens in one process and depends on the files alone; parsing is
left to the workers (`tokenize.py`), so the output is the same for any number of them.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from megascale.errors import DataError
from megascale.extras import pip_command
from megascale.formats.json_text import JsonTextError, parse_json
from megascale.shipped import legal_path

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")
COMPRESSIONS = (".gz", ".zst")
BATCH_BYTES = 1 << 20
BATCH_DOCUMENTS = 2048
MOST_ARRAY_BYTES = 2**30
"""A JSON array is read whole; a larger one is refused."""
LARGE_TEXT_BYTES = 16 * 2**20
"""Plain text files above it are warned of where each is one document."""
_PARQUET_ROWS = 2048
_PEEK_BYTES = 64

Kind = Literal["text", "json", "string"]


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A document as it stands in its file: bytes to parse, or a string (None: a null) of a table.

    `line` counts lines (rows for parquet) from 1.
    """

    path: str
    line: int
    kind: Kind
    raw: bytes | str | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents that one worker encodes together; `input_bytes` of all inputs are read so far."""

    documents: tuple[RawDocument, ...]
    input_bytes: int


def find_inputs(inputs: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Files to read: the inputs as given, folders replaced by their files in sorted order.

    Returns:
        (files to read, files in folders left aside for their unknown suffix).

    Raises:
        DataError: an input does not exist, or nothing is left to read.
    """
    files: list[Path] = []
    aside: list[Path] = []
    for item in (legal_path(path, "INPUT", error=DataError) for path in inputs):
        if item.is_dir():
            known = (*JSON_SUFFIXES, *TEXT_SUFFIXES, ".parquet")
            for path in sorted(path for path in item.rglob("*") if path.is_file()):
                (files if _inner_suffix(path) in known else aside).append(path)
        elif item.is_file():
            files.append(item)
        else:
            raise DataError.of("INPUT", str(item), "no such file or folder")
    if not files:
        shown = ", ".join((*TEXT_SUFFIXES, *JSON_SUFFIXES, ".parquet"))
        rule = f"no file to read; folders are searched for {shown}, also with .gz or .zst"
        raise DataError.of("INPUT", ", ".join(map(str, inputs)), rule)
    return files, aside


def read_batches(
    files: Iterable[Path], *, text_field: str, document: Literal["file", "line"]
) -> Iterator[Batch]:
    """Cut files into batches of about 1 MiB, in order.

    Args:
        files: from `find_inputs`.
        text_field: key (jsonl) or column (parquet) that holds the text.
        document: what one document is in a plain text file.

    Raises:
        DataError: a file cannot be read or decompressed, or lacks the column.
    """
    pending: list[RawDocument] = []
    pending_bytes = done_bytes = 0
    for path in files:
        size = path.stat().st_size
        for raw, read_bytes in _read_file(path, text_field, document):
            pending.append(raw)
            pending_bytes += len(raw.raw or "")
            if pending_bytes >= BATCH_BYTES or len(pending) >= BATCH_DOCUMENTS:
                yield Batch(tuple(pending), done_bytes + min(read_bytes, size))
                pending, pending_bytes = [], 0
        done_bytes += size
    if pending:
        yield Batch(tuple(pending), done_bytes)


def _inner_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_file(
    path: Path, text_field: str, document: Literal["file", "line"]
) -> Iterator[tuple[RawDocument, int]]:
    suffix = _inner_suffix(path)
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path, text_field)
            return
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            stream = _decompressed(path, raw, stack)
            if suffix not in JSON_SUFFIXES and document == "file":
                yield RawDocument(str(path), 1, "text", stream.read()), raw.tell()
                return
            kind: Kind = "json" if suffix in JSON_SUFFIXES else "text"
            if kind == "json" and _begins_an_array(stream):
                yield from _read_array(path, stream)
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield RawDocument(str(path), number, kind, line.rstrip(b"\r\n")), raw.tell()
    except (OSError, EOFError, zlib.error) as failure:
        raise DataError.of("INPUT", str(path), f"cannot be read: {failure}") from None


def _begins_an_array(stream: IO[bytes]) -> bool:
    """Whether the first character that counts is `[`: one JSON array, not lines of objects."""
    peek = stream.peek(_PEEK_BYTES)[:_PEEK_BYTES]  # type: ignore[attr-defined]
    return peek.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _read_array(path: Path, stream: IO[bytes]) -> Iterator[tuple[RawDocument, int]]:
    """The items of a JSON array, counted from 1 in the place of lines."""
    data = stream.read(MOST_ARRAY_BYTES + 1)
    if len(data) > MOST_ARRAY_BYTES:
        rule = f"a JSON array of more than {MOST_ARRAY_BYTES:,} bytes; write it as JSON lines"
        raise DataError.of("INPUT", str(path), rule)
    try:
        items = parse_json(data)
    except JsonTextError as failure:
        raise DataError.of("INPUT", str(path), f"begins as a JSON array, but {failure}") from None
    size = path.stat().st_size
    for number, item in enumerate(items, start=1):
        raw = json.dumps(item, ensure_ascii=False).encode("utf-8")
        yield RawDocument(str(path), number, "json", raw), size * number // len(items)


def large_texts(files: Iterable[Path]) -> list[Path]:
    """Plain text files so large that they are hardly one document each."""
    return [
        path
        for path in files
        if _inner_suffix(path) not in (*JSON_SUFFIXES, ".parquet")
        and path.stat().st_size > LARGE_TEXT_BYTES
    ]


def _decompressed(path: Path, raw: IO[bytes], stack: ExitStack) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=raw)))
    if suffix == ".zst":
        try:
            import zstandard
        except ModuleNotFoundError:
            rule = f"reading .zst needs the package zstandard: {pip_command('zstandard')}"
            raise DataError.of("INPUT", str(path), rule) from None
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        return stack.enter_context(io.BufferedReader(_ZstdErrors(reader, zstandard.ZstdError)))
    return raw


class _ZstdErrors(io.RawIOBase):
    """A zstd reader whose errors are OSError, as those of every other file here."""

    def __init__(self, reader: IO[bytes], error: type[Exception]) -> None:
        self._reader, self._error = reader, error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            return self._reader.readinto(buffer)  # type: ignore[attr-defined]
        except self._error as failure:
            raise OSError(str(failure)) from None


def _read_parquet(path: Path, text_field: str) -> Iterator[tuple[RawDocument, int]]:
    import polars

    try:
        table = polars.scan_parquet(path)
        schema = table.collect_schema()
        if text_field not in schema or schema[text_field] not in (polars.String, polars.Null):
            strings = [name for name, dtype in schema.items() if dtype == polars.String]
            rule = f"{path} has no string column of this name"
            raise DataError.of("--text-field", text_field, rule, strings or None)
        rows = table.select(polars.len()).collect().item()
        size = path.stat().st_size
        for first in range(0, rows, _PARQUET_ROWS):
            column = table.select(text_field).slice(first, _PARQUET_ROWS).collect()[text_field]
            for offset, text in enumerate(column):
                row = first + offset + 1
                yield RawDocument(str(path), row, "string", text), size * row // rows
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as failure:
        raise DataError.of("INPUT", str(path), f"cannot be read as parquet: {failure}") from None
