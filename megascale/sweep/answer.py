"""One answer of a study: a table with its notes and the same as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One table of the finish.

    Attributes:
        title: what it says.
        columns, rows: texts.
        notes: lines under it.
        data: the same as plain JSON types.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)
    data: Any = None
