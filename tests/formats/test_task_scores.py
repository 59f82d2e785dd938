"""Scores of checkpoints: written, read back, refused where they are none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from megascale.errors import DataError
from megascale.formats.task_scores import (
    TASKS_FILE,
    TaskScore,
    append_scores,
    missing_scores,
    read_scores,
)

ONE = TaskScore("mmlu", "acc", 0.25, 0.01, 5, 1000, None, 2_000_000, 100, "step-00000100", "0.4")
LATER = replace(ONE, tokens=4_000_000, step=200, checkpoint="step-00000200", value=0.3)


def test_scores_come_back_and_newer_ones_replace_older(tmp_path):
    assert read_scores(tmp_path) == []
    append_scores(tmp_path, [LATER, ONE])
    append_scores(tmp_path, [replace(ONE, value=0.26)])
    assert read_scores(tmp_path) == [replace(ONE, value=0.26), LATER]


def test_a_torn_last_line_is_passed_over_and_written_past(tmp_path):
    append_scores(tmp_path, [ONE])
    path = tmp_path / TASKS_FILE
    path.write_text(path.read_text() + '{"schema": "megascale.ta')
    assert read_scores(tmp_path) == [ONE]
    append_scores(tmp_path, [LATER])
    with pytest.raises(DataError, match=r"tasks\.jsonl:2"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"value": "high"},
        {"value": float("nan")},
        {"shots": True},
        {"tokens": 1.5},
        {"schema": "megascale.tasks/9"},
    ],
)
def test_a_line_that_is_no_score_is_refused(tmp_path, change):
    append_scores(tmp_path, [ONE, LATER])
    first, second = (tmp_path / TASKS_FILE).read_text().splitlines()
    broken = json.dumps(json.loads(first) | change)
    (tmp_path / TASKS_FILE).write_text(f"{broken}\n{second}\n")
    with pytest.raises(DataError, match=r"tasks\.jsonl:1"):
        read_scores(tmp_path)


def test_what_has_no_score_yet(tmp_path):
    have = [ONE, replace(ONE, task="own", limit=10)]
    assert missing_scores(have, ["mmlu", "own"], [0, 5], None, ONE.tokens) == [
        ("mmlu", 0),
        ("own", 0),
        ("own", 5),
    ]
    assert missing_scores(have, ["own"], [5], 10, ONE.tokens) == []
    assert missing_scores(have, ["own"], [5], 10, LATER.tokens) == [("own", 5)]
