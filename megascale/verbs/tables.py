"""The look of tables on the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table


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
