"""The one table as a file: CSV or Parquet."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from megascale.errors import ConfigError, RunError
from megascale.formats.csv_output import write_csv
from megascale.runs.table import RunTable

SUFFIXES = (".csv", ".parquet")
RUN_COLUMNS = ("n_params", "d_tokens", "seq_length", "format", "sha256")


def export_table(
    loaded: RunTable, path: str | Path, *, with_runs: bool = False, with_seconds: bool = False
) -> Path:
    """Write the rows, the columns of `readers.base.SCHEMA` in order.

    Args:
        loaded: what `load_runs` gave.
        path: ends in .csv or .parquet; its folder must exist.
        with_runs: add what is known of the run to each of its rows: N, planned D, sequence
            length, format, sha256 of its files.
        with_seconds: write the column `seconds` too.

    Raises:
        ConfigError: another suffix.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError.of("output", str(path), "must end in .csv or .parquet", SUFFIXES)
    table = loaded.table if with_seconds else loaded.table.drop("seconds")
    if with_runs:
        table = table.join(
            loaded.run_frame().select("run", *RUN_COLUMNS),
            on="run",
            how="left",
            maintain_order="left",
        )
    try:
        if path.suffix == ".csv":
            write_csv(table, path)
        else:
            table.write_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as failure:
        rule = f"cannot be written: {str(failure).partition(chr(10))[0]}"
        raise RunError.of("output", str(path), rule) from None
    return path
