"""The look of tables on the terminal and of plain ones elsewhere, and the folding of long ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from megascale.formats.plain_table import plain_cell, plain_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 120
"""Of tables that do not go to a terminal."""

HEAD, TAIL = 8, 3
"""Rows of a long table that are shown at its start and at its end."""

Item = TypeVar("Item")


def empty_table(title: str, *columns: str, left: int = 0) -> Table:
    """A table without rows whose first `left` columns are text and the rest numbers."""
    from rich import box

    from megascale.verbs.fitted_table import FittedTable

    made = FittedTable(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < left else "right", overflow="fold")
    return made


def folded(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item], Sequence[Item]]:
    """Head, middle and tail of a long table; the middle, which is not shown, holds two at least.

    A table that is hardly longer than head and tail is all head.
    """
    if len(items) <= HEAD + TAIL + 1:
        return items, items[:0], items[:0]
    return items[:HEAD], items[HEAD : len(items) - TAIL], items[len(items) - TAIL :]


def folded_rows(
    items: Sequence[Item], cells: Callable[[Item], Sequence[str]]
) -> list[Sequence[str]]:
    """The rows of a table, whose middle is one row that says how many are left out.

    Args:
        items: what the table has a row of.
        cells: an item's row; called for those that are shown alone.
    """
    head, middle, tail = folded(items)
    rows = [cells(item) for item in head]
    if middle:
        rows.append([f"… {len(middle):,} more", *("…" for _ in rows[0][1:])])
    return [*rows, *(cells(item) for item in tail)]


def folded_names(names: Sequence[str], separator: str) -> str:
    """Names in one line; of many the first and the last ones, and how many stand between."""
    head, middle, tail = folded(names)
    between = [f"… {len(middle):,} more …"] if middle else []
    return separator.join([*head, *between, *tail])


def wide_console() -> Console:
    """Standard output, at least `WIDTH` columns wide where it is no terminal."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the command line knows what that means

    console = Piped()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    return console


def text_table(frame: Any) -> str:
    """A polars frame as a plain table: numbers to four digits, words to the left."""
    import polars as pl

    rows = [[plain_cell(value) for value in row] for row in frame.iter_rows()]
    left = [at for at, kind in enumerate(frame.schema.values()) if kind == pl.String]
    width = terminal_width()
    return "\n".join(plain_lines(frame.columns, rows, left=left, indent="  ", width=width))


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None where it is none."""
    import shutil
    import sys

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table: the first column to the left, the others to the right; on a terminal
    that is too narrow in parts, below each other.
    """
    import typer

    for line in plain_lines(columns, rows, width=terminal_width()):
        typer.echo(line)
