"""Text lines as columns: a chunk of a log cut at a separator, with line numbers, vectorised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

WIDTH = 28
"""Columns a line may have; what stands beyond is dropped."""
SMALL_BYTES = 2**18
"""Up to this size lines are cut one by one: starting the vectorised parser takes longer."""


@dataclass(slots=True)
class Lines:
    """Whole lines of a log and where they end.

    Attributes:
        chunk: the bytes.
        first: the number of the first line.
        ends: offset of every line's newline; one past the chunk where the last has none.
    """

    chunk: bytes
    first: int
    ends: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.ends = np.flatnonzero(np.frombuffer(self.chunk, dtype=np.uint8) == 10)
        if self.chunk and not self.chunk.endswith(b"\n"):
            self.ends = np.append(self.ends, len(self.chunk))

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, offset: int) -> int:
        """Return the index of the line that holds the byte at `offset`."""
        return int(np.searchsorted(self.ends, offset))

    def text(self, index: int) -> bytes:
        """Return a line without its newline."""
        start = int(self.ends[index - 1]) + 1 if index else 0
        return self.chunk[start : int(self.ends[index])]

    def holding(self, literal: bytes) -> Iterable[tuple[int, bytes]]:
        """Return the number and bytes of every line that holds `literal`."""
        offset = self.chunk.find(literal)
        while offset >= 0:
            index = self.at(offset)
            yield self.first + index, self.text(index)
            offset = self.chunk.find(literal, int(self.ends[index]))

    def closed(self, index: np.ndarray, separator: int) -> np.ndarray:
        """Return which of the lines end with the separator, blanks apart."""
        data = np.frombuffer(self.chunk, dtype=np.uint8)
        ends = self.ends[index]
        last, second, third = (data[np.maximum(ends - back, 0)] for back in (1, 2, 3))
        blank = (last == 32) | (last == 13)
        inner = (second == separator) | ((second == 32) & (third == separator))
        return (last == separator) | (blank & inner)

    def split(
        self, separator: str = "|", columns: Sequence[int] = tuple(range(WIDTH))
    ) -> pl.DataFrame:
        """Cut every line at `separator`.

        Args:
            separator: one character.
            columns: which of the pieces are wanted.

        Returns:
            Columns `c0`, `c1`, ... (String, null where a piece is empty or missing) and `index`
            (Int64, from 0).
        """
        names = [f"c{index}" for index in range(WIDTH)]
        wanted = [names[index] for index in columns]
        frame = None
        if len(self.chunk) > SMALL_BYTES:
            try:
                frame = pl.read_csv(
                    self.chunk,
                    columns=list(columns),
                    separator=separator,
                    has_header=False,
                    quote_char=None,
                    schema=dict.fromkeys(names, pl.String),
                    extra_columns="ignore",
                    missing_columns="insert",
                    encoding="utf8-lossy",
                )
            except pl.exceptions.PolarsError:  # bytes that are no text
                frame = None
        if frame is None or frame.height != len(self):
            lines = self.chunk.decode("utf-8", "replace").split("\n")[: len(self)]
            pieces = [line.split(separator) for line in lines]
            cells = {
                name: [line[at] or None if at < len(line) else None for line in pieces]
                for at, name in zip(columns, wanted, strict=True)
            }
            frame = pl.DataFrame(cells, schema=dict.fromkeys(wanted, pl.String))
        return frame.with_columns(index=pl.int_range(frame.height, dtype=pl.Int64))

    def subset(self, index: np.ndarray) -> Lines:
        """Return some of the lines as a chunk of their own."""
        return Lines(b"\n".join(self.text(int(i)) for i in index) + b"\n", 0)


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """Which field stands in which column, learnt from one line.

    Attributes:
        starts: the text up to and with the colon, per column; None where a column has no field.
        first: the column where the fields begin.
    """

    starts: tuple[str | None, ...]
    first: int

    @classmethod
    def of(cls, cells: Sequence[str | None], first: int) -> ColumnLayout:
        """Learn a line's layout from its cells, from column `first` on."""
        full = list(cells)
        while full and not full[-1]:
            full.pop()
        starts: list[str | None] = []
        for index, cell in enumerate(full):
            key, colon, _ = (cell or "").partition(":") if index >= first else ("", "", "")
            starts.append(key + colon if colon else None)
        return cls(tuple(starts), first)

    @property
    def keys(self) -> list[str]:
        """The names of the fields, in order."""
        return [start[:-1].strip() for start in self.starts if start is not None]

    def column(self, key: str) -> int | None:
        """Return the column of a field; None where the layout has none of that name."""
        for index, start in enumerate(self.starts):
            if start is not None and start[:-1].strip() == key:
                return index
        return None

    def fits(self, columns: Iterable[int]) -> pl.Expr:
        """Return which lines have this layout in the given columns, and none beyond its last."""
        tests = [pl.lit(True)]
        for index in columns:
            start = self.starts[index] if index < len(self.starts) else None
            if start is not None:
                tests.append(pl.col(f"c{index}").str.starts_with(start))
            elif index >= len(self.starts):
                tests.append(pl.col(f"c{index}").str.strip_chars().fill_null("") == "")
        return pl.all_horizontal(tests).fill_null(False)

    def text(self, key: str | None) -> pl.Expr:
        """Return the text of a field's value; null where the layout has none of that name."""
        index = self.column(key) if key is not None else None
        start = self.starts[index] if index is not None else None
        if start is None:
            return pl.lit(None, pl.String)
        return pl.col(f"c{index}").str.slice(len(start)).str.strip_chars()
