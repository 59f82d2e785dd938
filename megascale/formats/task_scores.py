"""Scores of a run's checkpoints on downstream tasks: `tasks.jsonl` in its directory. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from megascale.errors import DataError

TASKS_FILE = "tasks.jsonl"
SCHEMA = "megascale.tasks/1"


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One task's score of one checkpoint.

    Attributes:
        task: its name in lm-evaluation-harness, or that of a file of questions.
        metric: as the harness calls it: acc, acc_norm, exact_match.
        value: usually a share between 0 and 1.
        stderr: standard error of `value` over the questions, or None.
        shots: solved examples before each question.
        samples: questions asked; limit: how many at most, None for all.
        tokens, step: of the checkpoint.
        checkpoint: its folder's name.
        harness: version of lm-evaluation-harness.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    shots: int
    samples: int
    limit: int | None
    tokens: int
    step: int
    checkpoint: str
    harness: str

    @property
    def key(self) -> tuple[str, str, int, int | None, int]:
        """What is measured, by which a newer score replaces an older one."""
        return (self.task, self.metric, self.shots, self.limit, self.tokens)


_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str,), "metric": (str,), "checkpoint": (str,), "harness": (str,),
    "value": (int, float), "stderr": (int, float, type(None)),
    "shots": (int,), "samples": (int,), "limit": (int, type(None)),
    "tokens": (int,), "step": (int,),
}  # fmt: skip


def read_scores(run: str | Path) -> list[TaskScore]:
    """Return the scores in a run's directory by task, shots, metric and tokens; [] without any.

    A torn last line is passed over: a writer was killed there.

    Raises:
        DataError: another line is no score.
    """
    path = Path(run) / TASKS_FILE
    if not path.is_file():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as failure:
        raise DataError.of("tasks", str(path), f"cannot be read: {failure.strerror}") from None
    found: dict[tuple[str, str, int, int | None, int], TaskScore] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            score = _score(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as failure:
            if number == len(lines):
                continue
            raise DataError.of("tasks", f"{path}:{number}", f"is no score: {failure}") from None
        found[score.key] = score
    return sorted(found.values(), key=_order)


def append_scores(run: str | Path, scores: Iterable[TaskScore]) -> None:
    """Add scores to those of a run.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(run) / TASKS_FILE
    text = "".join(json.dumps({"schema": SCHEMA, **asdict(score)}) + "\n" for score in scores)
    try:
        with path.open("ab+") as file:
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")
            file.write(text.encode())
    except OSError as failure:
        raise DataError.of("tasks", str(path), f"cannot be written: {failure.strerror}") from None


def missing_scores(
    have: Sequence[TaskScore],
    tasks: Sequence[str],
    shots: Sequence[int],
    limit: int | None,
    tokens: int,
) -> list[tuple[str, int]]:
    """Return the (task, shots) of a checkpoint that have no score over as many questions yet."""
    known = {
        (score.task, score.shots)
        for score in have
        if score.tokens == tokens and score.limit == limit
    }
    return [(task, count) for task in tasks for count in shots if (task, count) not in known]


def _score(record: Any) -> TaskScore:
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}")
    values: dict[str, Any] = {}
    for field in fields(TaskScore):
        value = record[field.name]
        if not isinstance(value, _TYPES[field.name]) or isinstance(value, bool):
            raise TypeError(f"{field.name} = {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field.name} is not finite")
        values[field.name] = value
    return TaskScore(**values)


def _order(score: TaskScore) -> tuple[str, int, str, int, int]:
    return (score.task, score.shots, score.metric, score.limit or 0, score.tokens)
