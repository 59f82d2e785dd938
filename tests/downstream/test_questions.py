"""Files of questions at their border."""

from __future__ import annotations

import json

import pytest

from megascale.downstream.questions import read_questions
from megascale.errors import DataError

GOOD = {"question": "Which?", "choices": ["a", "b", "c"], "answer": "B"}


def test_answers_are_letters_or_numbers(tmp_path):
    path = tmp_path / "q.jsonl"
    lines = [GOOD, GOOD | {"answer": " c "}, GOOD | {"answer": 0, "subject": "x"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert [one["answer"] for one in read_questions(path)] == [1, 2, 0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "must be a JSON object"),
        ("[" * 5000, "must be a JSON object"),
        ("[]", "must be a JSON object"),
        (json.dumps(GOOD | {"question": " "}), "question"),
        (json.dumps(GOOD | {"choices": ["a"]}), "2 to 26 texts"),
        (json.dumps(GOOD | {"choices": ["a", 1]}), "2 to 26 texts"),
        (json.dumps(GOOD | {"answer": "D"}), "from A to C"),
        (json.dumps(GOOD | {"answer": 3}), "from 0 to 2"),
        (json.dumps(GOOD | {"answer": True}), "from 0 to 2"),
    ],
)
def test_other_lines_are_refused_by_place(tmp_path, line, says):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(DataError, match=says) as refused:
        read_questions(path)
    assert "q.jsonl:2" in str(refused.value)


def test_files_without_questions_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\x00")
    for name, says in (("empty", "no question"), ("latin", "cannot be read"), ("gone", "cannot")):
        with pytest.raises(DataError, match=says):
            read_questions(tmp_path / f"{name}.jsonl")
