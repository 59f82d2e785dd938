"""Which of several ways to compute the same thing is fastest here: measured once, then remembered.

Answers lie one a file in the user's cache directory, under a name that hashes the question (the
CPU, the library, the shape). The first process to answer decides for all: runs that start together
take the same way, whatever each of them measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megascale.errors import DataError, UserError
from megascale.formats.json_text import read_json
from megascale.machine import cache_folder

GAIN = 1.05
"""How many times faster another way must be to take the place of the first."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An answer.

    Attributes:
        choice: name of the way to go.
        seconds: of one call, by name; empty where only one way can be gone.
        remembered: whether it was measured by an earlier process.
    """

    choice: str
    seconds: Mapping[str, float]
    remembered: bool = False


def choose(question: Mapping[str, Any], ways: Mapping[str, Callable[[], None]]) -> Measured:
    """The fastest of `ways`, from the cache or measured now.

    A cache that cannot be read or written is done without.

    Args:
        question: what the answer depends on, as plain JSON.
        ways: name -> one call; the first is kept unless another is `GAIN` times faster.
    """
    names = list(ways)
    if len(names) == 1:
        return Measured(names[0], {})
    text = json.dumps({**question, "ways": names}, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    with contextlib.suppress(RuntimeError):  # a user without a home directory
        file = cache_folder() / "kernels" / f"{name}.json"
        found = _recall(file, names)
        if found is not None:
            return found
        with contextlib.suppress(OSError):
            file.unlink()  # damaged, or not there
        measured = _measure(ways)
        if _remember(file, text, measured):
            return _recall(file, names) or measured
        return measured
    return _measure(ways)


def fastest(seconds: Mapping[str, float]) -> str:
    """The first name, unless another one took less than 1 / `GAIN` of its time."""
    first = next(iter(seconds))
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * GAIN < seconds[first] else first


def _measure(
    ways: Mapping[str, Callable[[], None]], *, rounds: int = 5, most_seconds: float = 1.0
) -> Measured:
    """Time all ways in turn. The least time of each counts: a busy machine has no fast moments."""
    seconds = dict.fromkeys(ways, float("inf"))
    for call in ways.values():
        call()
    until = time.perf_counter() + most_seconds
    for done in range(rounds):
        if done and time.perf_counter() > until:
            break
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return Measured(fastest(seconds), seconds)


def _recall(file: Path, names: list[str]) -> Measured | None:
    try:
        content = read_json(file, "kernel choice", error=DataError, most_bytes=1 << 16)
    except UserError:
        return None
    if not isinstance(content, dict) or content.get("choice") not in names:
        return None
    seconds = content.get("seconds")
    if not isinstance(seconds, dict) or any(type(seconds.get(name)) is not float for name in names):
        seconds = {}
    return Measured(content["choice"], seconds, remembered=True)


def _remember(file: Path, question: str, measured: Measured) -> bool:
    """Put the answer there, whole, unless another process was first; True where one was."""
    content = {
        "question": json.loads(question),
        "choice": measured.choice,
        "seconds": dict(measured.seconds),
    }
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        try:
            os.link(part, file)
        except FileExistsError:
            return True
        finally:
            part.unlink()
    except OSError:
        return False
    return False
