"""Files of multiple-choice questions as tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from megascale.errors import DataError

MOST_CHOICES = len(string.ascii_uppercase)
LETTERS = "{{ 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[:choices|length] | list }}"
PROMPT = (
    "{{ question | trim }}\n"
    "{% for choice in choices %}{{ 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[loop.index0] }}. {{ choice }}\n"
    "{% endfor %}Answer:"
)
"""As the harness asks MMLU: the question, lettered choices, and the letter to be completed."""


def read_questions(path: str | Path) -> list[dict[str, Any]]:
    """Read a file of questions.

    Args:
        path: JSON lines with `question` (text), `choices` (2 to 26 texts) and `answer` (a letter,
            or the number of the choice from 0); other keys are kept.

    Returns:
        One dictionary a question, with `answer` as a number.

    Raises:
        DataError: the file cannot be read, has no question, or a line is not as above.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as failure:
        raise DataError.of("task file", str(path), f"cannot be read: {failure}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(_question(line, f"{path}:{number}"))
    if not found:
        raise DataError.of("task file", str(path), "has no question")
    return found


def _question(line: str, place: str) -> dict[str, Any]:
    rule = "must be a JSON object with question, choices and answer"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError.of("question", place, rule) from None
    if not isinstance(record, dict):
        raise DataError.of("question", place, rule)
    question, choices, answer = (record.get(key) for key in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        raise DataError.of(f"{place}: question", question, "must be a text")
    if (
        not isinstance(choices, list)
        or not 2 <= len(choices) <= MOST_CHOICES
        or not all(isinstance(choice, str) for choice in choices)
    ):
        raise DataError.of(f"{place}: choices", choices, f"must be 2 to {MOST_CHOICES} texts")
    letters = string.ascii_uppercase[: len(choices)]
    if isinstance(answer, str) and answer.strip().upper() in list(letters):
        answer = letters.index(answer.strip().upper())
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        rule = f"must be a letter from A to {letters[-1]}, or a number from 0 to {len(choices) - 1}"
        raise DataError.of(f"{place}: answer", answer, rule)
    return record | {"answer": answer}


def question_task(name: str, questions: Path) -> dict[str, Any]:
    """Return the harness's description of a task over a file that `write_questions` made.

    Solved examples come from the same file; the harness never shows a question its own answer.
    """
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": PROMPT,
        "doc_to_choice": LETTERS,
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def write_questions(questions: list[dict[str, Any]], path: Path) -> None:
    """Write checked questions as JSON lines of question, choices and answer."""
    kept = ("question", "choices", "answer")
    lines = [json.dumps({key: one[key] for key in kept}, ensure_ascii=False) for one in questions]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
