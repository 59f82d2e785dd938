"""Tables as CSV that a spreadsheet shows and never runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_RUNS = r"^[=@\t\r]|^[+-]."
_NUMBER = r"^[+-][0-9.]+(?:[eE][+-]?[0-9]+)?$"


def write_csv(table: pl.DataFrame, path: str | Path) -> None:
    """Write a table; a text that a spreadsheet would take for a formula gets a ' before it.

    That is a text that begins with =, @, a tab or a carriage return, or with + or - and is no
    number: names of runs and words from foreign logs may be anything.

    Raises:
        OSError: the file cannot be written.
    """
    import polars as pl

    texts = [name for name, kind in table.schema.items() if kind == pl.String]
    guarded = table.with_columns(_guarded(pl.col(name)).alias(name) for name in texts)
    heads = pl.Series(table.columns, dtype=pl.String).to_frame("head")
    names = heads.select(_guarded(pl.col("head"))).to_series().to_list()
    guarded.rename(dict(zip(table.columns, names, strict=True))).write_csv(path)


def _guarded(text: pl.Expr) -> pl.Expr:
    import polars as pl

    formula = text.str.contains(_RUNS) & ~text.str.contains(_NUMBER)
    return pl.when(formula).then(pl.concat_str(pl.lit("'"), text)).otherwise(text)
