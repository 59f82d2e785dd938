"""What start-up lines state, launch by launch."""

from __future__ import annotations

import re

import polars as pl

from megascale.runs.readers import stated
from megascale.runs.readers.base import FileRead, ReadOptions, rows_table
from megascale.runs.readers.launches import BATCH_SAMPLES, SEQ_LENGTH, STEPS, find_launches


def rows(*steps: tuple[int, int]) -> pl.DataFrame:
    return rows_table(
        {"line": line, "step": step, "loss": 1.0, "loss_kind": "instantaneous"}
        for line, step in steps
    )


PATTERNS = (
    (BATCH_SAMPLES, re.compile(rb"batch (\S+)")),
    (SEQ_LENGTH, re.compile(rb"length (\S+)")),
    (STEPS, re.compile(rb"steps (\S+)")),
)


def completed(text: bytes, table: pl.DataFrame, **options: int) -> FileRead:
    found = FileRead(path=None, table=table)
    launches = find_launches(text, PATTERNS, table["line"].to_list())
    return stated.with_statements(found, ReadOptions(**options), launches)


def test_a_length_that_changes_is_counted_in_tokens():
    text = b"batch 4\nlength 100\nx\nbatch 4\nlength 200\nx"
    found = completed(text, rows((3, 10), (6, 20)))
    assert found.table["tokens"].to_list() == [4000, 4000 + 8000]
    assert found.table["batch_tokens"].to_list() == [400, 800]
    assert found.runs[0].seq_length is None


def test_statements_that_are_no_counts_are_none():
    (launch,) = find_launches(b"batch nan\nbatch -4\nbatch 1,024\n", PATTERNS, [])
    assert launch.facts == {BATCH_SAMPLES: 1024}


def test_the_users_word_comes_first():
    found = completed(b"batch 4\nlength 100\nsteps 7\nx", rows((4, 10)), batch_samples=8)
    assert found.table["tokens"].to_list() == [8000]
    assert completed(b"batch 4\nlength 100\nsteps 7\n", rows((4, 5))).runs[0].d_tokens == 2800


def test_silence_is_said():
    found = completed(b"length 100\n", rows((2, 10)))
    assert [note.kind for note in found.notes] == ["missing_field"]
    assert found.table["tokens"].null_count() == 1


def test_the_plan_counts_each_launch_with_its_own_batch():
    text = b"batch 4\nlength 100\nsteps 30\nx\nbatch 8\nx"
    found = completed(text, rows((4, 10), (6, 20)))
    assert found.runs[0].d_tokens == 10 * 400 + 20 * 800
