"""A table whose numbers are never split: columns that do not fit stand below the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table


class FittedTable(Table):
    """A rich table that is shown in several parts where the terminal is too narrow for one.

    Every part begins with the first column. Columns justified to the right are numbers; texts may
    be broken between words.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        measured = [self._measured(console, options, number) for number in range(len(self.columns))]
        needed = [need for need, _ in measured]
        natural = [whole for _, whole in measured]
        groups = column_groups(needed, options.max_width - 1)
        if len(groups) == 1 and taken(natural) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        for number, group in enumerate(groups):
            widths = spread([needed[at] for at in group], [natural[at] for at in group],
                            options.max_width)  # fmt: skip
            first, last = number == 0, number == len(groups) - 1
            yield self._part(group, widths, first=first, last=last)

    def _measured(self, console: Console, options: ConsoleOptions, number: int) -> tuple[int, int]:
        """Width that a column needs at least, and the one that breaks nothing."""
        column = self.columns[number]
        cells: list[Any] = list(column._cells)
        wide = options.update(width=10_000, max_width=10_000)
        sizes = [Measurement.get(console, wide, cell) for cell in cells]
        head = Measurement.get(console, wide, column.header)
        whole = max([head.maximum, *(size.maximum for size in sizes)])
        number_column = column.justify == "right"
        least = [size.maximum if number_column else size.minimum for size in sizes]
        return max([head.minimum, *least]), whole

    def _part(
        self, group: Sequence[int], widths: Sequence[int], *, first: bool, last: bool
    ) -> Table:
        made = Table(
            title=self.title if first else None,
            title_justify=self.title_justify,
            title_style=self.title_style,
            caption=self.caption if last else None,
            box=self.box,
            padding=self.padding,
        )
        for at, width in zip(group, widths, strict=True):
            column = self.columns[at]
            made.add_column(column.header, justify=column.justify, width=width, overflow="fold")
        for number, row in enumerate(self.rows):
            cells = [self.columns[at]._cells[number] for at in group]
            made.add_row(*cells, style=row.style, end_section=row.end_section)
        return made


def taken(widths: Sequence[int]) -> int:
    """Width of a table of such columns: a blank after each, one between two, one at either end."""
    return sum(widths) + 2 * len(widths) + 1


def column_groups(needed: Sequence[int], width: int) -> list[list[int]]:
    """Which columns stand together, in order; each group begins with the first column.

    A column that fits with no other stands alone with the first.
    """
    groups = [[0]] if needed else []
    for at in range(1, len(needed)):
        held = groups[-1]
        if len(held) > 1 and taken([needed[one] for one in (*held, at)]) > width:
            groups.append([0, at])
        else:
            held.append(at)
    return groups


def spread(needed: Sequence[int], natural: Sequence[int], width: int) -> list[int]:
    """What each column gets: its need, and of the room that is left up to its natural width."""
    widths, left = list(needed), width - taken(needed)
    for at, (need, whole) in enumerate(zip(needed, natural, strict=True)):
        more = max(0, min(whole - need, left))
        widths[at] += more
        left -= more
    return widths
