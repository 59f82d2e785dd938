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
    width: int | None = None,
) -> list[str]:
    """Return the columns padded to their widest cell, two blanks between them; no blanks at a
    line's end.

    Args:
        columns: heads.
        rows: texts, one a column.
        left: which columns are text, to the left; the others are numbers, to the right.
        indent: before every line.
        width: of the terminal; columns that do not fit stand below the others, after a blank line,
            each part beginning with the first column. None puts all in one line.
    """
    widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
    lines: list[str] = []
    for part in _parts(widths, None if width is None else width - len(indent)):
        lines += [""] * bool(lines)
        for row in (columns, *rows):
            cells = [
                row[at].ljust(widths[at]) if at in left else row[at].rjust(widths[at])
                for at in part
            ]
            lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def _parts(widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Which columns stand side by side, in order; each part has another beside the first."""
    parts = [[0]] if widths else []
    for at in range(1, len(widths)):
        held = [*parts[-1], at]
        taken = sum(widths[one] for one in held) + 2 * (len(held) - 1)
        if room is not None and taken > room and len(parts[-1]) > 1:
            parts.append([0, at])
        else:
            parts[-1].append(at)
    return parts


def plain_cell(value: Any) -> str:
    """Return a number to four digits; - for what is not there."""
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
