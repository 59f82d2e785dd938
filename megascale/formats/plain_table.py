"""Tables as plain lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def plain_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[int] = (0,),
    indent: str = "",
) -> list[str]:
    """Return the columns padded to their widest cell, two blanks between them; no blanks at a
    line's end.

    Args:
        columns: heads.
        rows: texts, one a column.
        left: which columns are text, to the left; the others are numbers, to the right.
        indent: before every line.
    """
    widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
    lines = []
    for row in (columns, *rows):
        cells = [
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def plain_cell(value: Any) -> str:
    """Return a number to four digits; - for what is not there."""
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
