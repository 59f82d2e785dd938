"""The look of tables on the terminal, and of plain ones elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from megascale.formats.plain_table import plain_cell, plain_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 120
"""Of tables that do not go to a terminal."""


def empty_table(title: str, *columns: str, left: int = 0) -> Table:
    """A table without rows whose first `left` columns are text and the rest numbers."""
    from rich import box
    from rich.table import Table

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < left else "right", overflow="fold")
    return made


def wide_console() -> Console:
    """Standard output, at least `WIDTH` columns wide where it is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    return console


def text_table(frame: Any) -> str:
    """A polars frame as a plain table: numbers to four digits, words to the left."""
    import polars as pl

    rows = [[plain_cell(value) for value in row] for row in frame.iter_rows()]
    left = [at for at, kind in enumerate(frame.schema.values()) if kind == pl.String]
    return "\n".join(plain_lines(frame.columns, rows, left=left, indent="  "))


def print_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table: the first column to the left, the others to the right."""
    import typer

    for line in plain_lines(columns, rows):
        typer.echo(line)
