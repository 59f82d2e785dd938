"""Tables as CSV hold no formula that a spreadsheet would run."""

from __future__ import annotations

import csv

import polars as pl
import pytest

from megascale.formats.csv_output import write_csv


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("-1.5e-3", "-1.5e-3"),
        ("+4", "+4"),
        ("-", "-"),
        ("run-1", "run-1"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_cells_and_heads(tmp_path, cell, written):
    file = tmp_path / "t.csv"
    write_csv(pl.DataFrame({"run": [cell], f"{cell}x": [1.5], "n": [-3]}), file)
    with file.open(newline="") as stream:
        heads, row = csv.reader(stream)
    assert row == [written, "1.5", "-3"]
    assert (
        heads[1] == ("'" if written != cell or cell in ("-1.5e-3", "+4", "-") else "") + f"{cell}x"
    )
