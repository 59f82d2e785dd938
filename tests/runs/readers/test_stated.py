"""What start-up lines state, launch by launch."""

from __future__ import annotations

import re

import polars as pl
import pytest

from megascale.runs.readers import stated
from megascale.runs.readers.base import FileRead, ReadOptions, rows_table


def rows(*steps: tuple[int, int]) -> pl.DataFrame:
    return rows_table(
        {"line": line, "step": step, "loss": 1.0, "loss_kind": "instantaneous"}
        for line, step in steps
    )


@pytest.mark.parametrize(
    ("steps", "sizes", "right"),
    [
        ([(2, 10), (3, 20)], [(1, 64)], 64),
        ([(2, 10), (4, 20)], [(1, 64), (3, 64)], 64),
        # goes on after step 20
        ([(2, 10), (3, 20), (5, 30)], [(1, 64), (4, 128)], ((0, 64), (20, 128))),
        # goes back to 10 and repeats step 20
        ([(2, 10), (3, 20), (5, 20), (6, 30)], [(1, 64), (4, 128)], ((0, 64), (10, 128))),
        # begins anew
        ([(2, 10), (3, 20), (5, 10)], [(1, 64), (4, 128)], 128),
        # a launch that logged nothing
        ([(2, 10), (5, 20)], [(1, 64), (3, 999), (4, 128)], ((0, 64), (10, 128))),
        # thrice
        (
            [(2, 10), (4, 20), (6, 30)],
            [(1, 64), (3, 128), (5, 256)],
            ((0, 64), (10, 128), (20, 256)),
        ),
    ],
)
def test_batches_of_launches(steps, sizes, right):
    assert stated.launch_batches(rows(*steps), sizes) == right


PATTERNS = (
    (stated.BATCH_SAMPLES, re.compile(rb"batch (\S+)")),
    (stated.SEQ_LENGTH, re.compile(rb"length (\S+)")),
    (stated.STEPS, re.compile(rb"steps (\S+)")),
)


def completed(text: bytes, table: pl.DataFrame, **options: int) -> FileRead:
    found = FileRead(path=None, table=table)
    said = stated.statements(text, PATTERNS)
    return stated.completed(found, ReadOptions(**options), said)


def test_a_length_that_changes_is_counted_in_tokens():
    text = b"batch 4\nlength 100\nx\nbatch 4\nlength 200\nx"
    found = completed(text, rows((3, 10), (6, 20)))
    assert found.table["tokens"].to_list() == [4000, 4000 + 8000]
    assert found.table["batch_tokens"].to_list() == [400, 800]
    assert found.runs[0].seq_length is None


def test_statements_that_are_no_counts_are_none():
    said = stated.statements(b"batch nan\nbatch -4\nbatch 1,024\n", PATTERNS)
    assert said == {stated.BATCH_SAMPLES: [(3, 1024)]}


def test_the_users_word_comes_first():
    found = completed(b"batch 4\nlength 100\nsteps 7\nx", rows((4, 10)), batch_samples=8)
    assert found.table["tokens"].to_list() == [8000]
    assert completed(b"batch 4\nlength 100\nsteps 7\n", rows((4, 5))).runs[0].d_tokens == 2800


def test_silence_is_said():
    found = completed(b"length 100\n", rows((2, 10)))
    assert [note.kind for note in found.notes] == ["missing_field"]
    assert found.table["tokens"].null_count() == 1
