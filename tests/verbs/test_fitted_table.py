"""Tables on narrow terminals: no number is split, and no column is lost."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from megascale.verbs.fitted_table import column_groups, taken
from megascale.verbs.tables import empty_table

NUMBERS = ("125_000_744_960", "2_097_152", "+4.86%", "59,605", "3.000e-04", "1.234", "10 x 1")
HEADS = ("from tokens", "batch asked", "moved", "steps", "peak rate", "loss", "micro-batches")


def shown(width: int, rows: int = 3) -> list[str]:
    table = empty_table("Batch schedule", "segment", *HEADS, left=1)
    for number in range(rows):
        table.add_row(f"number {number}", *NUMBERS)
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40])
def test_no_number_is_split_and_none_is_lost(width: int) -> None:
    lines = shown(width)
    text = "\n".join(lines)
    for number in NUMBERS:
        assert len(re.findall(rf"(?<!\S){re.escape(number)}(?!\S)", text)) == 3
    assert all(len(line.rstrip()) <= width for line in lines)
    for word in ("segment", *" ".join(HEADS).split()):
        assert word in text
    assert text.count("Batch schedule") == 1


def test_a_wide_terminal_has_one_table() -> None:
    assert sum("number 1" in line for line in shown(200)) == 1
    assert sum("number 1" in line for line in shown(60)) > 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(10, 80))
def test_groups_hold_every_column_once_and_fit(needed: list[int], width: int) -> None:
    groups = column_groups(needed, width)
    assert [0, *(at for group in groups for at in group[1:])] == list(range(len(needed)))
    assert all(group[0] == 0 for group in groups)
    assert all(len(g) <= 2 or taken([needed[at] for at in g]) <= width for g in groups)
