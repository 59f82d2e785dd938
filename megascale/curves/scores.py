"""Downstream scores of two runs, task by task, at the last tokens that both were asked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megascale.formats.task_scores import TaskScore

CLEAR_ERRORS = 2.0
"""Standard errors from which on a difference is called one."""


@dataclass(frozen=True, slots=True)
class ScoreDifference:
    """One task's score of two runs.

    Attributes:
        task, metric, shots, limit: what was asked, as `TaskScore` has it.
        tokens: of both checkpoints.
        baseline, other: scores.
        difference: other - baseline.
        error: standard error of the difference, as of independent questions; None where a score
            has none. The same questions were asked, so it is rather too large.
    """

    task: str
    metric: str
    shots: int
    limit: int | None
    tokens: int
    baseline: float
    other: float
    difference: float
    error: float | None

    @property
    def clear(self) -> bool:
        """Whether the difference is more than the questions leave open."""
        return self.error is not None and abs(self.difference) > CLEAR_ERRORS * self.error

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"clear": self.clear}


def score_differences(
    baseline: Sequence[TaskScore], other: Sequence[TaskScore]
) -> list[ScoreDifference]:
    """One entry for each task, shots, metric and limit that both have at equal tokens, the last.

    Scores at unequal tokens are not compared: batches that differ step over each other's counts,
    and accuracy moves with tokens.
    """
    mine = {score.key: score for score in baseline}
    last: dict[tuple[str, str, int, int | None], ScoreDifference] = {}
    for score in sorted(other, key=lambda one: one.tokens):
        first = mine.get(score.key)
        if first is None:
            continue
        error = None
        if first.stderr is not None and score.stderr is not None:
            error = math.hypot(first.stderr, score.stderr)
        last[score.key[:4]] = ScoreDifference(
            score.task,
            score.metric,
            score.shots,
            score.limit,
            score.tokens,
            first.value,
            score.value,
            score.value - first.value,
            error,
        )
    return list(last.values())
