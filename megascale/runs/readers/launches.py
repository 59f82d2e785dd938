"""What a program says each time it starts, and from where on in its log that holds.

A log may hold several launches: a run that was resumed, perhaps with another batch or sequence
length, or another run below the first. So a fact counts from the line on that states it, up to the
launch that states another.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megascale.runs.readers.base import positive

BATCH_SAMPLES, BATCH_TOKENS, SEQ_LENGTH = "batch_samples", "batch_tokens", "seq_length"
N_PARAMS, STEPS, RESUMED, IDENTITY = "n_params", "steps", "resumed", "identity"

Patterns = Sequence[tuple[str, re.Pattern[bytes]]]
"""What is stated, and a line that states it in its first group. Patterns that begin with a literal
are found many times faster: one each, rather than one of several alternatives."""

CHANGES = (BATCH_SAMPLES, BATCH_TOKENS, SEQ_LENGTH, IDENTITY)
"""Facts that a restart may change, and whose change from the first step on makes another run."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of the program.

    Attributes:
        line: where it begins to speak, counted from 1.
        facts: what it says: `batch_samples`, `batch_tokens`, `seq_length`, `n_params`,
            `steps` (planned), `resumed`, the finished steps that a checkpoint was loaded with, and
            `identity`, a hash of settings that no restart changes. Of what it does not say, what
            the launch before said (but not its `resumed`).
    """

    line: int
    facts: Mapping[str, int] = field(default_factory=dict)

    def get(self, name: str) -> int | None:
        """Return a fact; None where no launch so far states it."""
        return self.facts.get(name)


def find_launches(data: bytes, patterns: Patterns, rows: Sequence[int]) -> list[Launch]:
    """Return the launches of a console log.

    What is stated between two records belongs to one launch, and the last statement of a fact
    counts there: one that failed before its first record is no launch. Values may have thousands
    commas; what is no positive count states nothing.

    Args:
        data: the log without terminal colours.
        patterns: several may be of one fact.
        rows: the lines of the records, rising.
    """
    stated = [
        (match.start(), name, positive(match[1].decode("utf-8", "replace")))
        for name, pattern in patterns
        for match in pattern.finditer(data)
    ]
    if not stated:
        return []
    newlines = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == 10)
    found: dict[int, tuple[int, dict[str, int]]] = {}
    for offset, name, value in sorted(stated, key=lambda item: item[0]):
        line = int(np.searchsorted(newlines, offset)) + 1
        _, facts = found.setdefault(bisect_left(rows, line), (line, {}))
        if value is not None:
            facts[name] = value
    return inherited(one for one in found.values() if one[1])


def inherited(stated: Iterable[tuple[int, Mapping[str, int]]]) -> list[Launch]:
    """Return launches from the line and the own facts of each, in order."""
    launches: list[Launch] = []
    known: dict[str, int] = {}
    for line, facts in stated:
        known = {name: value for name, value in known.items() if name != RESUMED} | dict(facts)
        launches.append(Launch(line, known))
    return launches


def governing(launches: Sequence[Launch], lines: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the index of the launch that each line follows; -1 before the first."""
    starts = np.array([launch.line for launch in launches], dtype=np.int64)
    found = np.searchsorted(starts, np.asarray(lines, dtype=np.int64), side="right") - 1
    return np.asarray(found, dtype=np.int64)


def launches_of(launches: Sequence[Launch], lines: npt.ArrayLike) -> list[Launch]:
    """Return the launches that govern the records of a run at these lines.

    Records that stand above the first launch follow it too: where a log was cut at its head, what
    it says later is all there is.
    """
    if not launches:
        return []
    if len(launches) == 1:
        return list(launches)
    used = np.unique(np.maximum(governing(launches, lines), 0))
    return [launches[index] for index in used]
