"""Long tables are folded, wide ones stand in parts below each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.formats.plain_table import plain_lines
from megascale.verbs.tables import HEAD, TAIL, folded, folded_names, folded_rows


@given(st.integers(0, 200))
def test_parts_are_the_whole_and_only_what_saves_lines_is_folded(count):
    items = list(range(count))
    head, middle, tail = folded(items)
    assert [*head, *middle, *tail] == items
    assert len(middle) != 1
    rows = folded_rows(items, lambda item: [str(item), "x"])
    assert len(rows) == min(count, HEAD + TAIL + 1)


@pytest.mark.parametrize("count", [HEAD + TAIL + 2, 1000])
def test_the_middle_row_says_how_many(count):
    made: list[int] = []

    def cells(item: int) -> list[str]:
        made.append(item)
        return [str(item), "x", "y"]

    rows = folded_rows(range(count), cells)
    assert rows[HEAD] == [f"… {count - HEAD - TAIL:,} more", "…", "…"]
    assert rows[-1] == [str(count - 1), "x", "y"]
    assert len(made) == HEAD + TAIL  # rows that are not shown are not made


def test_names_in_one_line():
    assert folded_names(["1M", "2M"], " > ") == "1M > 2M"
    line = folded_names([str(i) for i in range(100)], " > ")
    assert line == "0 > 1 > 2 > 3 > 4 > 5 > 6 > 7 > … 89 more … > 97 > 98 > 99"


@given(st.lists(st.integers(1, 12), min_size=2, max_size=9), st.integers(1, 5), st.integers(24, 90))
def test_columns_that_do_not_fit_stand_below_and_no_cell_is_lost(widths, rows, room):
    columns = [f"{at}" * width for at, width in enumerate(widths)]
    table = [[f"{row}{at}" for at in range(len(widths))] for row in range(rows)]
    parts = "\n".join(plain_lines(columns, table, width=room)).split("\n\n")
    assert max(len(line) for part in parts for line in part.splitlines()) <= max(room, 26)
    shown = [[line.split() for line in part.splitlines()] for part in parts]
    for row in range(rows + 1):
        whole = [cell for part in shown for cell in part[row][1:]]
        assert [shown[0][row][0], *whole] == [columns, *table][row]
        assert {part[row][0] for part in shown} == {[columns, *table][row][0]}
