"""Scores on downstream tasks as a sentence and a table."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from megascale.formats.task_scores import TaskScore
from megascale.units import short_count
from megascale.verbs.tables import folded_rows, print_lines

CLEAR = 2.0
"""Standard errors from which on a change is called one."""


def score_verdict(scores: Sequence[TaskScore]) -> str:
    """Return how far the scores of the task with most questions rose from first to last."""
    if not scores:
        return "No score."
    main = max(scores, key=lambda one: (one.metric == "acc", one.samples))
    own = [one for one in scores if one.key[:3] == main.key[:3]]
    first, last = own[0], own[-1]
    what = f"{main.task}, {main.shots} shots: {main.metric} {_with_error(last)}"
    if first is last:
        return f"{what} after {short_count(last.tokens)} tokens, of {last.samples:,} questions."
    change = last.value - first.value
    text = f"{what} after {short_count(last.tokens)} tokens, {change:+.3f}"
    error = None
    if first.stderr is not None and last.stderr is not None:
        error = float((first.stderr**2 + last.stderr**2) ** 0.5)
        text += f" ± {error:.3f}"
    text += f" since {short_count(first.tokens)}, of {last.samples:,} questions"
    if error is not None and abs(change) < CLEAR * error:
        return text + ": no change that these questions can show."
    return text + "."


def print_scores(scores: Sequence[TaskScore]) -> None:
    """Print the verdict, then one line a task, number of shots and checkpoint."""
    typer.echo(score_verdict(scores))
    if not scores:
        return
    typer.echo()
    print_lines(
        ("task", "shots", "metric", "tokens", "value", "error", "questions"),
        folded_rows(list(scores), _row),
    )


def _row(score: TaskScore) -> tuple[str, ...]:
    return (
        score.task,
        str(score.shots),
        score.metric,
        short_count(score.tokens),
        f"{score.value:.4f}",
        "" if score.stderr is None else f"{score.stderr:.4f}",
        f"{score.samples:,}",
    )


def _with_error(score: TaskScore) -> str:
    error = "" if score.stderr is None else f" ± {score.stderr:.3f}"
    return f"{score.value:.3f}{error}"
