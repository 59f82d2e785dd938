"""Tables in files, as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megascale.errors import FitError

TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
"""Suffixes of tables that can be read."""


def read_table(path: Path) -> Any:
    """A CSV, TSV, Parquet or JSON-lines table as a polars frame.

    Raises:
        FitError: the file is missing, of another kind, or cannot be read.
    """
    import polars

    readers = {
        ".csv": polars.read_csv,
        ".tsv": lambda p: polars.read_csv(p, separator="\t"),
        ".parquet": polars.read_parquet,
        ".jsonl": polars.read_ndjson,
        ".ndjson": polars.read_ndjson,
    }
    if path.suffix.lower() not in readers:
        raise FitError.of("POINTS", str(path), "must be one of " + ", ".join(readers))
    if not path.is_file():
        raise FitError.of("POINTS", str(path), "is no file")
    try:
        return readers[path.suffix.lower()](path)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise FitError.of("POINTS", str(path), f"cannot be read ({error})") from None
