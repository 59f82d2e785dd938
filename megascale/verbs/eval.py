"""`megascale eval`: checkpoints of a run on downstream tasks."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megascale.verbs.options import AsJson

if TYPE_CHECKING:
    from megascale.downstream.harness import Asked
    from megascale.formats.task_scores import TaskScore

MOST_SHOTS = 100
_NAME = re.compile(r"[A-Za-z0-9_-]+")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="""Examples:

  megascale eval runs/mine --tasks mmlu,cmmlu --shots 0,5

  megascale eval runs/mine/checkpoints/step-… --task-file questions.jsonl --limit 200

Needs pip install 'megascale[eval]'. Scores are kept in the run's tasks.jsonl; what has a score is
not asked again."""
)
def eval_(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run directory, for all its checkpoints, or one checkpoint."
        ),
    ],
    tasks: Annotated[
        str, typer.Option(help="Tasks or groups of lm-evaluation-harness, with commas.")
    ] = "",
    task_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="Multiple-choice questions of your own, as JSON lines of question, choices and "
            "answer; the file's name is the task's. Repeat."
        ),
    ] = None,
    shots: Annotated[
        str, typer.Option(help="Solved examples before each question, with commas.")
    ] = "0",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask so many questions of a task, the first ones.")
    ] = None,
    questions_at_once: Annotated[
        int, typer.Option(min=1, max=4096, help="Questions in a forward pass.")
    ] = 8,
    device: Annotated[str, typer.Option(help="Where the model runs, as torch names it.")] = "cpu",
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json instead of the one the run names.")
    ] = None,
    eos_id: Annotated[
        int | None, typer.Option(min=0, help="End-of-document token instead of the data's own.")
    ] = None,
    again: Annotated[bool, typer.Option(help="Ask again what has a score.")] = False,
    as_json: AsJson = False,
) -> None:
    """Accuracy of a run's checkpoints on multiple-choice and other tasks, against tokens."""
    from megascale.downstream.harness import (
        Asked,
        known_tasks,
        quieten,
        require_harness,
        score_checkpoint,
    )
    from megascale.downstream.runs import find_run
    from megascale.errors import ConfigError
    from megascale.formats.task_scores import append_scores, missing_scores, read_scores

    files = _files(task_file or [])
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names and not files:
        raise ConfigError.of("--tasks", None, "says nothing to ask", "--tasks mmlu")
    counts = _counts(shots)
    require_harness()
    quieten()
    found = find_run(run, tokenizer, eos_id)
    known_tasks(names, _say)
    asked = Asked(names, files, counts, limit, questions_at_once, device)
    every = [*names, *files]
    for place, saved in enumerate(found.checkpoints, start=1):
        have = [] if again else read_scores(found.path)
        wanted = missing_scores(have, every, counts, limit, saved.tokens)
        if not wanted:
            continue
        _say(f"checkpoint {place} of {len(found.checkpoints)}, {saved.path.name}")
        for scores in score_checkpoint(saved, found.tokenizing, asked, wanted):
            append_scores(found.path, scores)
    tokens = {saved.tokens for saved in found.checkpoints}
    _show([one for one in read_scores(found.path) if one.tokens in tokens], asked, as_json)


def _files(paths: Sequence[Path]) -> dict[str, Path]:
    """Files of questions by the name of their task.

    Raises:
        ConfigError: two of one name.
        DataError: a file is none of questions.
    """
    from megascale.downstream.questions import read_questions
    from megascale.errors import ConfigError

    found: dict[str, Path] = {}
    for path in paths:
        name = path.name.partition(".")[0]
        if not _NAME.fullmatch(name):
            rule = "names a task, and must be of letters, digits, _ and -"
            raise ConfigError.of("--task-file", path.name, rule, "questions.jsonl")
        if name in found:
            raise ConfigError.of("--task-file", name, "two files of this name are one task")
        read_questions(path)
        found[name] = path
    return found


def _counts(text: str) -> list[int]:
    """Numbers of shots.

    Raises:
        ConfigError: one is no whole number from 0 to `MOST_SHOTS`.
    """
    from megascale.errors import ConfigError

    found = []
    for word in text.split(","):
        if not word.strip().isdecimal() or int(word) > MOST_SHOTS:
            rule = f"must be whole numbers from 0 to {MOST_SHOTS}, with commas"
            raise ConfigError.of("--shots", text, rule, "0,5")
        found.append(int(word))
    return sorted(set(found))


def _say(text: str) -> None:
    typer.echo(f"megascale: {text}", err=True)
    sys.stderr.flush()


def _show(scores: list[TaskScore], asked: Asked, as_json: bool) -> None:
    from megascale.verbs.task_tables import print_scores, score_verdict

    chosen = [one for one in scores if one.shots in asked.shots and one.limit == asked.limit]
    if as_json:
        document = {
            "schema": "megascale.eval/1",
            "verdict": score_verdict(chosen),
            "scores": [asdict(one) for one in chosen],
        }
        typer.echo(json.dumps(document, indent=2))
        return
    print_scores(chosen)
