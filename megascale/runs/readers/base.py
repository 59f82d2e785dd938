"""What every reader takes and gives: a source in, rows and a report out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

READER_VERSION = 5
"""Goes up whenever a reader gives other rows for the same bytes; part of every cache key."""

SCHEMA: dict[str, Any] = {
    "run": pl.String,
    "step": pl.Int64,
    "tokens": pl.Int64,
    "samples": pl.Int64,
    "batch_tokens": pl.Int64,
    "batch_samples": pl.Int64,
    "lr": pl.Float64,
    "loss": pl.Float64,
    "loss_kind": pl.String,
    "grad_norm": pl.Float64,
    "seconds": pl.Float64,
    "source": pl.String,
    "line": pl.Int64,
}
"""The columns of the one table, in order; empty (null) where a log does not say.

`seconds` is wall clock since the row before of the same run and kind of loss.
"""

INTERVAL_MEAN = "interval_mean"
INSTANTANEOUS = "instantaneous"
EMA = "ema"
VALIDATION = "validation"
LOSS_KINDS = (INTERVAL_MEAN, INSTANTANEOUS, EMA, VALIDATION)

BEGAN, SEGMENT_LOSSES = "began", "segment_losses"
"""What a reader may know exactly of a run, in `RunMeta.extra`: finished steps and consumed tokens
before its first row (a branch begins at its parent's), and the mean loss of each stretch of one
batch."""

KEPT_MALFORMED = 100
"""How many malformed lines of a file are kept with their reason; all are counted."""

INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class MalformedRecord:
    """A line that should have been a record and is not."""

    line: int  # counted from 1; in binary files the record, counted from 1
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something a reader saw that a fit should know.

    Attributes:
        kind: `restart`, `separate_runs`, `mixed_runs`, `torn`, `nonfinite_loss`,
            `coarse_precision`, `missing_field`, `unfinished`, `damaged` or `derived`.
        message: one sentence.
        line: where, counted from 1; 0 when it concerns the file.
    """

    kind: str
    message: str
    line: int = 0


@dataclass(slots=True)
class RunMeta:
    """What a log says about a run as a whole; None where it does not say.

    Attributes:
        run: the run's id, the key into the table.
        n_params: parameters, as the log or its config counts them.
        d_tokens: planned tokens of the whole run, not those consumed so far.
        seq_length: tokens per sample.
        extra: whatever else identifies the run: name, config values, benchmark.
    """

    run: str
    n_params: int | None = None
    d_tokens: int | None = None
    seq_length: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


Batches = tuple[tuple[int, int], ...]
"""Global batches, each after the finished steps from which on it holds: 0 first, rising."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the user states because a log does not.

    Attributes:
        columns: for CSV, JSON and Parquet tables: our column name -> theirs.
        seq_length: tokens per sample.
        batch_samples, batch_tokens: the global batch, or by the steps after which it holds, as in
            ((0, 512), (700, 1024)): 512 for the first 700 steps; with them a log that has steps
            alone gets its samples and tokens.
        loss_kind: what the training loss is, where the format cannot know.
    """

    columns: tuple[tuple[str, str], ...] = ()
    seq_length: int | None = None
    batch_samples: int | Batches | None = None
    batch_tokens: int | Batches | None = None
    loss_kind: str | None = None

    def key(self) -> str:
        """Identify the options in a cache key."""
        return repr(self)


@dataclass(frozen=True, slots=True)
class Source:
    """One log file, decompressed.

    Attributes:
        path: the file.
        data: its bytes.
        companions: bytes of files that belong to it, by name.
        complete: False when a compressed file ended before its stream did.
    """

    path: Path
    data: bytes
    companions: Mapping[str, bytes] = field(default_factory=dict)
    complete: bool = True


_EMPTY = pl.DataFrame(schema=SCHEMA)


def empty_rows() -> pl.DataFrame:
    """Return a table of all columns and no rows."""
    return _EMPTY.clone()


@dataclass(slots=True)
class FileRead:
    """What one file gave.

    Attributes:
        path, format, sha256: which file, read as what, and its content's hash.
        table: rows with the columns of `SCHEMA`; `run` is empty where the file is one run.
        runs: one per run in the file.
        malformed: the first malformed lines; `malformed_count` counts all.
        superseded: rows that a restart wrote again.
        totals: planned steps by run, where the log shows them.
    """

    path: Path
    format: str = ""
    sha256: str = ""
    table: pl.DataFrame = field(default_factory=empty_rows)
    runs: list[RunMeta] = field(default_factory=list)
    malformed: list[MalformedRecord] = field(default_factory=list)
    malformed_count: int = 0
    notes: list[Note] = field(default_factory=list)
    superseded: int = 0
    totals: dict[str, int] = field(default_factory=dict)

    def reject(self, line: int, reason: str) -> None:
        """Count a malformed line and keep it if there is room."""
        self.malformed_count += 1
        if len(self.malformed) < KEPT_MALFORMED:
            self.malformed.append(MalformedRecord(line, reason))

    def note(self, kind: str, message: str, line: int = 0) -> None:
        """Add a note."""
        self.notes.append(Note(kind, message, line))


def as_table(columns: Mapping[str, Any] | pl.DataFrame) -> pl.DataFrame:
    """Return the columns in any order, completed with empty ones, as the one table."""
    frame = columns if isinstance(columns, pl.DataFrame) else pl.DataFrame(columns, strict=False)
    return frame.select(
        (pl.col(name).cast(kind) if name in frame.columns else pl.lit(None, kind)).alias(name)
        for name, kind in SCHEMA.items()
    )


def rows_table(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Return the rows as dicts of exact values, as the one table."""
    listed = list(rows)
    return pl.DataFrame(
        {name: [row.get(name) for row in listed] for name in SCHEMA}, schema=SCHEMA, strict=True
    )


def exact_int(value: Any) -> int | None:
    """Return `value` as an integer if it is one exactly and fits 64 bits; else None.

    Takes ints, floats that are whole numbers below 2**53, and their decimal texts with or without
    thousands commas.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        text = value.strip().replace(",", "").replace("_", "")
        if len(text) > 25 or not text.isascii():
            return None
        try:
            value = int(text)
        except ValueError:
            try:
                value = float(text)
            except ValueError:
                return None
    if isinstance(value, int):
        return value if abs(value) <= INT64_MAX else None
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return None


def real(value: Any) -> float | None:
    """Return `value` as a finite float; None where it is none."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        value = value.strip().replace(",", "")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def positive(value: Any) -> int | None:
    """Return `value` as an exact positive integer; None where it is none."""
    number = exact_int(value)
    return number if number is not None and number > 0 else None


def filled(read: FileRead, options: ReadOptions) -> FileRead:
    """Complete a file's rows with what follows exactly from them and from the user's statements.

    Samples and tokens follow from one another by the sequence length, and from the step where the
    user states a constant global batch. Nothing is estimated: products are exact or left empty.
    A loss, rate or norm that is not finite is left empty, and losses of that kind are counted.
    """
    if read.table.is_empty():
        return read
    _name_runs(read)
    bad = sum(_not_finite(read.table[name]) for name in ("lr", "loss", "grad_norm"))
    if _not_finite(read.table["loss"]):
        wrong = read.table.filter(pl.col("loss").is_finite().not_())
        read.note("nonfinite_loss", f"{wrong.height} losses are not finite", wrong["line"][0] or 0)
    lengths = {meta.run: options.seq_length or meta.seq_length for meta in read.runs}
    for meta in read.runs:
        meta.seq_length = lengths[meta.run]
    if options.loss_kind is None and not bad and _is_full(read.table):
        return read
    only = next(iter(lengths.values())) if len(lengths) == 1 else None
    table = read.table.with_columns(
        pl.when(pl.col(name).is_finite()).then(name).alias(name)
        for name in ("loss", "lr", "grad_norm")
    )
    if len(set(lengths.values())) <= 1:
        seq = pl.lit(options.seq_length or only, pl.Int64)
    else:
        seq = pl.col("run").replace_strict(lengths, default=None, return_dtype=pl.Int64)

    def stated(
        name: str, batch: int | Batches | None, given: Callable[[Batches], pl.Expr]
    ) -> pl.Expr:
        """The user's word, where the log is silent from beginning to end."""
        if batch is None or table[name].null_count() < table.height:
            return pl.lit(None, pl.Int64)
        return given(((0, batch),) if isinstance(batch, int) else batch)

    samples = stated("samples", options.batch_samples, consumed)
    tokens = stated("tokens", options.batch_tokens, consumed)
    batch_samples = stated("batch_samples", options.batch_samples, batch_of_step)
    batch_tokens = stated("batch_tokens", options.batch_tokens, batch_of_step)
    batch_samples = pl.coalesce("batch_samples", batch_samples)
    batch_tokens = pl.coalesce("batch_tokens", batch_tokens)
    table = table.with_columns(
        batch_samples=pl.coalesce(batch_samples, divided(batch_tokens, seq)),
        batch_tokens=pl.coalesce(batch_tokens, product(batch_samples, seq)),
    )
    table = table.with_columns(
        samples=pl.coalesce("samples", divided(pl.col("tokens"), seq), samples)
    )
    table = table.with_columns(
        tokens=pl.coalesce("tokens", product(pl.col("samples"), seq), tokens)
    )
    if options.loss_kind is not None:
        train = pl.col("loss_kind").is_in([INTERVAL_MEAN, INSTANTANEOUS, EMA])
        table = table.with_columns(
            loss_kind=pl.when(train).then(pl.lit(options.loss_kind)).otherwise("loss_kind")
        )
    return replace(read, table=table)


def _name_runs(read: FileRead) -> None:
    """Give every run of the table an entry, where the reader described the file as a whole; and
    every entry the total of its steps.
    """
    if len(read.runs) == 1 and not read.runs[0].run and not read.table["run"].null_count():
        (whole,) = read.runs
        names = read.table["run"].unique(maintain_order=True)
        read.runs = [replace(whole, run=name, extra=dict(whole.extra)) for name in names]
    for meta in read.runs:
        if meta.run in read.totals:
            meta.extra.setdefault("total_steps", read.totals[meta.run])


def _not_finite(values: pl.Series) -> int:
    return len(values) - values.null_count() - int(values.is_finite().sum())


def _is_full(table: pl.DataFrame) -> bool:
    """Whether no count is empty."""
    counts = ("tokens", "samples", "batch_tokens", "batch_samples")
    return not any(table[name].null_count() for name in counts)


def consumed(batches: Batches, of: str = "step") -> pl.Expr:
    """Return what so many steps have consumed, at `batches`; or tokens of samples, at the lengths
    given.

    Args:
        batches: sizes by the count from which on each holds.
        of: the column that counts.
    """
    parts = []
    for index, (start, size) in enumerate(batches):
        done = pl.col(of) - start
        if index + 1 < len(batches):
            done = done.clip(0, batches[index + 1][0] - start)
        elif index:
            done = done.clip(0)
        parts.append(product(done, pl.lit(size, pl.Int64)))
    return pl.sum_horizontal(parts, ignore_nulls=False)


def batch_of_step(batches: Batches, of: str = "step") -> pl.Expr:
    """Return the batch of each step; of the first where the step is not known and there is one
    alone.

    Args:
        batches, of: as of `consumed`.
    """
    batch = pl.lit(batches[0][1], pl.Int64)
    for start, size in batches[1:]:
        later = pl.when(pl.col(of) > start).then(pl.lit(size, pl.Int64)).otherwise(batch)
        batch = pl.when(pl.col(of).is_not_null()).then(later)
    return batch


class Clock:
    """Turns a clock that runs from the start of a run into `seconds`, series by series."""

    def __init__(self, start: float | None = 0.0) -> None:
        self._start = start
        self._last: dict[Hashable, float] = {}

    def since(self, series: Hashable, elapsed: float | None) -> float | None:
        """Return the seconds since the row before; None where the clock was set back or is not
        there.
        """
        if elapsed is None:
            return None
        before = self._last.get(series, self._start)
        self._last[series] = elapsed
        return elapsed - before if before is not None and elapsed >= before else None


def product(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """Return left x right in integers; null where it would not fit 64 bits."""
    fits = left.cast(pl.Float64).abs() * right.cast(pl.Float64).abs() < 9e18
    return pl.when(fits).then(left * right)


def divided(total: pl.Expr, part: pl.Expr) -> pl.Expr:
    """Return total / part where it is a whole number; else null."""
    return pl.when((part > 0) & (total % part == 0)).then(total // part)
