"""Scores on downstream tasks as a sentence and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import typer

from megascale.curves.scores import CLEAR_ERRORS, ScoreDifference
from megascale.formats.task_scores import TaskScore
from megascale.units import short_count
from megascale.verbs.tables import folded_rows, print_lines


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
    if error is not None and abs(change) < CLEAR_ERRORS * error:
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


def print_score_differences(baseline: str, scores: Mapping[str, Sequence[ScoreDifference]]) -> None:
    """Print downstream scores against the baseline's, a line a run and task; nothing without any.

    Args:
        baseline: name of the run that the others are compared with.
        scores: other runs' differences.
    """
    if not scores:
        return
    every = [one for own in scores.values() for one in own]
    clear = sum(one.clear for one in every)
    typer.echo(
        f"\nDownstream, against {baseline} at equal tokens: {clear} of {len(every)} differences "
        f"exceed {CLEAR_ERRORS:g} standard errors."
    )
    rows = [
        (
            name,
            one.task,
            str(one.shots),
            one.metric,
            short_count(one.tokens),
            f"{one.baseline:.4f}",
            f"{one.other:.4f}",
            f"{one.difference:+.4f}" + ("" if one.error is None else f" ± {one.error:.4f}"),
        )
        for name, own in scores.items()
        for one in own
    ]
    columns = ("run", "task", "shots", "metric", "tokens", "baseline", "score", "difference")
    print_lines(columns, rows)


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
