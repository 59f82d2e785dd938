"""Checkpoints through lm-evaluation-harness (an extra): exported, loaded, asked, scored."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megascale.downstream.questions import question_task, read_questions, write_questions
from megascale.errors import ConfigError, DataError
from megascale.formats.task_scores import TaskScore
from megascale.train.checkpoint.directory import Saved

INSTALL = "pip install 'megascale[eval]'"
METRICS = ("acc", "acc_norm", "exact_match", "f1", "bpb", "word_perplexity")
"""Metrics that are kept, of those that a task has."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What checkpoints are asked.

    Attributes:
        tasks: names in the harness.
        files: of questions, by the name their task gets.
        shots: numbers of solved examples.
        limit: questions of a task that are asked; None asks all.
        batch_size: questions at a time.
        device: torch's.
    """

    tasks: Sequence[str]
    files: dict[str, Path]
    shots: Sequence[int]
    limit: int | None
    batch_size: int
    device: str


@dataclass(frozen=True, slots=True)
class Tokenizing:
    """How a run turns text into tokens.

    Attributes:
        tokenizer: its tokenizer.json.
        eos_id: end-of-document token, or None.
        length: longest sequence in tokens.
    """

    tokenizer: Path
    eos_id: int | None
    length: int


def require_harness() -> None:
    """Raise a ConfigError with the command that installs the harness, where it is missing."""
    missing = [name for name in ("lm_eval", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        rule = f"needs the packages of an extra, and {' and '.join(missing)} is not installed"
        raise ConfigError.of("megascale eval", "lm-evaluation-harness", rule, INSTALL)


def score_checkpoint(
    saved: Saved,
    tokenizing: Tokenizing,
    asked: Asked,
    wanted: Sequence[tuple[str, int]],
) -> Iterator[list[TaskScore]]:
    """Yield the scores of one checkpoint, for one number of shots after the other.

    Args:
        saved: the checkpoint.
        tokenizing: of its run.
        asked: tasks and how to ask them.
        wanted: (task, shots) that have no score yet.

    Raises:
        DataError: the harness lacks a task, or its data cannot be had (no network).
        CheckpointError: the checkpoint is damaged.
    """
    from megascale.train.export import export_checkpoint

    quieten()
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "model"
        export_checkpoint(saved.path, exported, eos_token_id=tokenizing.eos_id)
        model = _loaded(exported, tokenizing, asked)
        for shots in sorted({count for _, count in wanted}):
            names = [task for task, count in wanted if count == shots]
            yield _ask(model, names, shots, asked, saved, Path(folder))


def quieten() -> None:
    """Keep the harness from logging every task, and from bars where nobody watches."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in ("lm_eval", "lm-eval", "datasets", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _loaded(exported: Path, tokenizing: Tokenizing, asked: Asked) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizing.tokenizer))
    # Without an end token of its own the harness would add one beyond the embedding.
    token = tokenizer.convert_ids_to_tokens(tokenizing.eos_id or 0)
    tokenizer.eos_token = tokenizer.pad_token = token
    model: Any = AutoModelForCausalLM.from_pretrained(exported, dtype="auto")
    return HFLM(
        pretrained=model.to(asked.device).eval(),
        tokenizer=tokenizer,
        batch_size=asked.batch_size,
        max_length=tokenizing.length,
        device=asked.device,
    )


def _ask(
    model: Any, names: list[str], shots: int, asked: Asked, saved: Saved, folder: Path
) -> list[TaskScore]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks: list[Any] = []
    for name in names:
        if name in asked.files:
            path = folder / f"{name}.jsonl"
            write_questions(read_questions(asked.files[name]), path)
            tasks.append(question_task(name, path))
        else:
            tasks.append(name)
    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=tasks,
            num_fewshot=shots,
            limit=asked.limit,
            bootstrap_iters=100,
            log_samples=False,
            task_manager=TaskManager(),
            verbosity="ERROR",
        )
    except (ConnectionError, FileNotFoundError, OSError) as failure:
        raise DataError.of(
            "--tasks",
            ", ".join(names),
            "the task's data cannot be had here: "
            + (str(failure).splitlines() or [type(failure).__name__])[0],
            "download it where there is a network (HF_HOME), or give questions by --task-file",
        ) from failure
    return list(_scores(found, shots, asked.limit, saved, lm_eval.__version__))


def _scores(
    found: Any, shots: int, limit: int | None, saved: Saved, version: str
) -> Iterator[TaskScore]:
    for task, measured in {**found["results"], **found.get("groups", {})}.items():
        samples = found.get("n-samples", {}).get(task, {}).get("effective")
        for name, value in measured.items():
            metric = name.partition(",")[0]
            if metric not in METRICS or not isinstance(value, int | float):
                continue
            stderr = measured.get(f"{metric}_stderr,{name.partition(',')[2]}")
            yield TaskScore(
                task=task,
                metric=metric,
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                shots=shots,
                samples=int(samples or measured.get("sample_len") or 0),
                limit=limit,
                tokens=saved.tokens,
                step=saved.step,
                checkpoint=saved.path.name,
                harness=version,
            )


def known_tasks(names: Sequence[str], say: Callable[[str], None] = lambda text: None) -> None:
    """Refuse names that the harness does not know.

    Args:
        names: of tasks or groups.
        say: told that the harness's tasks are being listed, which takes some seconds.

    Raises:
        ConfigError: naming the nearest task there is.
    """
    if not names:
        return
    from difflib import get_close_matches

    from lm_eval.tasks import TaskManager

    quieten()
    say("listing the harness's tasks ...")
    known = TaskManager().all_tasks
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=3) or None
            raise ConfigError.of("--tasks", name, "is no task of lm-evaluation-harness", close)
