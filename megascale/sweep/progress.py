"""How far a run is, from the end of its log; and whether it is finished, or another run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from megascale.config import RunConfig
from megascale.errors import RunError
from megascale.formats.json_text import JsonTextError, parse_json
from megascale.formats.run_log import METRICS_FILE, attempts_of, read_run
from megascale.train.checks import run_path
from megascale.train.rundir import CONFIG_DATA_FILE, flatten, run_began, saved_form, with_later_keys

TAIL_BYTES = 16384
PLACES = ("name", "output_dir")


@dataclass(frozen=True, slots=True)
class LoggedProgress:
    """The last record of a run's log.

    Attributes:
        tokens: consumed tokens; 0 before the first record.
        loss: nats per token.
        tokens_per_second: of the last interval.
    """

    tokens: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None


NONFINITE = ("nan", "inf", "-inf")
"""How the log puts what JSON has no number for."""


def read_progress(path: Path) -> LoggedProgress:
    """Where the run in a directory is, by reading only the end of its log."""
    try:
        with open(path / METRICS_FILE, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return LoggedProgress()
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and "tokens" in record and "loss" in record:
            tokens, loss = record["tokens"], record["loss"]
            if loss in NONFINITE:
                loss = float(loss)
            speed = record.get("tokens_per_second")
            if type(tokens) is int and all(
                type(x) in (int, float, NoneType) for x in (loss, speed)
            ):
                return LoggedProgress(tokens, None if loss is None else float(loss), speed)
    return LoggedProgress()


def is_finished(config: RunConfig) -> bool:
    """Whether the run's directory holds it whole: its last attempt ended with exit code 0."""
    path = run_path(config)
    if not (path / METRICS_FILE).is_file():
        return False
    log = read_run(path)
    tokens = log.records[-1]["tokens"] if log.records else 0
    return attempts_of(log.events).exit_code == 0 and tokens == config.train.total_tokens


def check_same_run(config: RunConfig) -> None:
    """Check that a directory with a run in it holds the run that is planned.

    Stricter than resuming: a study's run that changed its batch half way answers nothing.

    Raises:
        RunError: it was begun with another config; the keys are named.
    """
    path = run_path(config)
    if not run_began(path):
        return
    try:
        saved: Any = parse_json((path / CONFIG_DATA_FILE).read_bytes())
    except (OSError, JsonTextError) as error:
        raise RunError.of("run directory", str(path), f"cannot be read: {error}") from None
    if not isinstance(saved, dict):
        raise RunError.of("run directory", str(path), f"{CONFIG_DATA_FILE} must hold a mapping")
    old, new = flatten(with_later_keys(saved)), flatten(with_later_keys(saved_form(config)))
    changed = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in PLACES
    ]
    if changed:
        raise RunError.of(
            "run directory",
            str(path),
            f"holds a run of another config ({'; '.join(changed[:6])}"
            f"{', ...' if len(changed) > 6 else ''}); choose another --output, or remove it",
        )
