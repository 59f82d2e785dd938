"""The look of tables on the terminal, and the folding of long ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich import box
from rich.table import Table

HEAD, TAIL = 8, 3
"""Rows of a long table that are shown at its start and at its end."""

Item = TypeVar("Item")


def empty_table(title: str, *columns: str, left: int = 0) -> Table:
    """A table without rows whose first `left` columns are text and the rest numbers."""
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
