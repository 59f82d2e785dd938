"""Tables in files, as they are."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from megascale.errors import FitError
from megascale.formats.parquet import read_parquet
from megascale.runs.files import bare
from megascale.runs.readers import opening

TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
"""Suffixes of tables that can be read, before that of a compression."""


def table_of(path: Path, data: bytes | None = None, *, rows: int | None = None) -> pl.DataFrame:
    """Return a CSV, TSV, Parquet or JSON-lines table, compressed or not.

    Texts may be separated by commas, tabs or semicolons, whatever the suffix.

    Args:
        path: of the file.
        data: its bytes, decompressed, where they are known.
        rows: read so many alone.

    Raises:
        FitError: the file is missing, of another kind, or cannot be read.
    """
    suffix = Path(bare(path.name)).suffix.lower()
    if suffix not in TABLES:
        raise FitError.of("table", str(path), f"must be one of {', '.join(TABLES)}")
    if not path.is_file():
        raise FitError.of("table", str(path), "is no file")
    if data is None:
        data, _ = opening.decompressed(path, opening.raw_bytes(path))
    source = io.BytesIO(data)
    try:
        if suffix == ".parquet":
            return read_parquet(data, rows=rows)
        if suffix in (".jsonl", ".ndjson"):
            frame = pl.read_ndjson(source, infer_schema_length=None)
            return frame if rows is None else frame.head(rows)
        first = data[: data.find(b"\n") if b"\n" in data else len(data)].decode("utf-8", "replace")
        separator = max(",\t;", key=first.count)
        frame = pl.read_csv(
            source,
            n_rows=rows,
            separator=separator,
            infer_schema_length=None,
            encoding="utf8-lossy",
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise FitError.of("table", str(path), f"cannot be read ({reason})") from None
    return frame.rename(lambda name: name.strip().lstrip("\ufeff"))
