"""What every console format owes, whatever its patterns."""

from __future__ import annotations

import re

import pytest

from megascale.runs.readers import detect
from megascale.runs.readers.base import ReadOptions
from megascale.runs.readers.line_format import OF_INTERVAL, OF_STEP, PER_STEP, LineFormat
from tests.runs.readers.helpers import kinds, read_as
from tests.runs.readers.samples import CONSOLES


@pytest.mark.parametrize("name", sorted(set(CONSOLES) - {"hf-stdout"}))
def test_a_cut_log_gives_no_false_number(name):
    """Whatever the place of the cut, every loss is one of the whole log, at its step."""
    text, reader = CONSOLES[name], detect.READERS[name]
    columns = ("step", "loss", "loss_kind")
    whole = set(read_as(reader, text).table.select(columns).rows())
    begun = text.index("[batch=2") if name == "composer" else 0  # which loss is shown is known
    for size in range(begun, len(text), 3):
        rows = set(read_as(reader, text[:size]).table.select(columns).rows())
        assert rows <= whole, size


@pytest.mark.parametrize("name", sorted(CONSOLES))
def test_colours_and_other_line_ends_change_nothing(name):
    text, reader = CONSOLES[name], detect.READERS[name]
    whole = read_as(reader, text).table
    coloured = "".join(f"\x1b[32m{line}\x1b[0m\n" for line in text.splitlines())
    assert read_as(reader, coloured).table.drop("line").equals(whole.drop("line"))
    if name != "hf-stdout":
        assert read_as(reader, text.replace("\n", "\r\n")).table.equals(whole)


FORM = LineFormat(
    NAME="made-up",
    sign=re.compile(rb"at \d+"),
    literal=b"at",
    record=re.compile(r"at (?P<step>\d+) loss (?P<loss>\S+) (?:in (?P<seconds>\S+) )?"),
)


def with_duration(kind: str) -> LineFormat:
    return LineFormat(FORM.NAME, FORM.sign, FORM.literal, FORM.record, duration=kind)


@pytest.mark.parametrize(
    ("duration", "right"),
    [
        (OF_STEP, [2.0, None, 2.0]),
        (PER_STEP, [2.0, 20.0, 2.0]),
        (OF_INTERVAL, [2.0, 2.0, 2.0]),
    ],
)
def test_what_a_duration_says_of_the_time_between_lines(duration, right):
    text = "at 1 loss 9 in 2 \nat 11 loss 8 in 2 \nat 12 loss 7 in 2 \n"
    table = read_as(with_duration(duration), text).table
    assert table["seconds"].to_list() == right


def test_what_is_no_loss_or_not_finite_is_reported():
    found = read_as(FORM, "at 1 loss nan \nat 2 loss 9 \nat 3 loss what \n")
    assert found.table["step"].to_list() == [2]
    assert "nonfinite_loss" in kinds(found)
    assert [line.line for line in found.malformed] == [3]


def test_the_users_batch_is_taken_where_the_log_has_none():
    options = ReadOptions(batch_samples=((0, 4), (1, 8)), seq_length=10)
    found = read_as(FORM, "at 1 loss 9 \nat 2 loss 8 \n", options)
    assert found.table["tokens"].to_list() == [40, 120]
