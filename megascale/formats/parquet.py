"""Parquet files, read in a process of their own.

A damaged file can make the reader (polars 2.1) ask for exabytes, of which the whole process dies
where no exception can be caught, and makes it print stack traces of its own. So a child reads the
file and hands the table back in Arrow's format.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys

import polars as pl

CHILD = """
import io, os, sys
import polars as pl
rows = int(sys.argv[1])
try:
    table = pl.read_parquet(io.BytesIO(sys.stdin.buffer.read()), n_rows=None if rows < 0 else rows)
    table.write_ipc(sys.stdout.buffer)
except BaseException as error:
    sys.stdout.buffer.write(str(error).partition(chr(10))[0].encode("utf-8", "replace")[:200])
    sys.stdout.flush()
    os._exit(3)
"""
SECONDS = 600
"""So long may a file take."""


def read_parquet(data: bytes, *, rows: int | None = None) -> pl.DataFrame:
    """The table in the bytes of a Parquet file.

    Args:
        data: the file.
        rows: read so many alone.

    Raises:
        OSError: the bytes are no Parquet file, or damaged.
    """
    environment = os.environ | {"RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(-1 if rows is None else rows)],
            input=data,
            capture_output=True,
            check=False,
            env=environment,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"not read within {SECONDS} s: damaged") from None
    if done.returncode == 3:
        raise OSError(done.stdout.decode("utf-8", "replace"))
    if done.returncode:
        raise OSError("its reader broke down on it: damaged")
    return pl.read_ipc(io.BytesIO(done.stdout))
