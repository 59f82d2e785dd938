"""Parquet files, whole and damaged: a table, or one error."""

from __future__ import annotations

import io

import polars as pl
import pytest

from megascale.errors import FitError
from megascale.formats.parquet import read_parquet
from megascale.runs.table_file import table_of

DAMAGED = "tests/borders/damaged.parquet"
"""One changed byte, for which polars 2.1 asks for 2 exabytes and the process dies."""


def test_a_table_comes_back_as_it_was():
    frame = pl.DataFrame({"n": [1, 2, 3], "name": ["a", None, "é"], "x": [0.5, float("nan"), None]})
    file = io.BytesIO()
    frame.write_parquet(file)
    assert read_parquet(file.getvalue()).equals(frame)
    assert read_parquet(file.getvalue(), rows=2).equals(frame.head(2))


def test_a_file_that_kills_its_reader_is_one_message(repository, capfd):
    path = repository / DAMAGED
    with pytest.raises(OSError, match="damaged"):
        read_parquet(path.read_bytes())
    with pytest.raises(FitError, match=r"damaged\.parquet: cannot be read"):
        table_of(path)
    assert capfd.readouterr().err == ""


def test_what_is_no_parquet_is_said():
    with pytest.raises(OSError, match=r"\w"):
        read_parquet(b"not a table")
