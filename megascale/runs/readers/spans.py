"""Counts that a log does not print but follow from its steps: a batch and a length per launch.

A span of steps has one batch and one sequence length; what was consumed at a step is the sum over
the spans before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale.runs.readers.base import (
    INT64_MAX,
    Batches,
    FileRead,
    ReadOptions,
    RunMeta,
    batch_of_step,
    consumed,
)
from megascale.runs.readers.launches import (
    BATCH_SAMPLES,
    BATCH_TOKENS,
    RESUMED,
    SEQ_LENGTH,
    STEPS,
    Launch,
    governing,
    launches_of,
)

SPANS = "spans"
"""Where a run keeps its spans among what else its log says: joined files are counted again."""


@dataclass(frozen=True, slots=True)
class Span:
    """Steps of one launch.

    Attributes:
        start: finished steps from which on it holds; None where the log does not show it.
        batch_samples, batch_tokens: the global batch, in sequences or tokens.
        seq_length: tokens per sequence.
    """

    start: int | None
    batch_samples: int | None = None
    batch_tokens: int | None = None
    seq_length: int | None = None


def spans_of(
    launches: Sequence[Launch], steps: npt.NDArray[np.int64], lines: npt.NDArray[np.int64]
) -> list[Span]:
    """Return the spans of one run, in order, one for each launch.

    Args:
        launches: that govern its records.
        steps, lines: of its training records.
    """
    index = np.maximum(governing(launches, lines), 0)
    spans: list[Span] = []
    for number, launch in enumerate(launches):
        own = steps[index == number]
        start = launch.get(RESUMED)
        if start is not None and len(own) and start >= own[0]:
            start = None  # another checkpoint's
        if start is None and number and len(own):
            start = _last_before(steps[index < number], int(own[0]))
        spans.append(
            Span(
                start if number or start is not None else None,
                launch.get(BATCH_SAMPLES),
                launch.get(BATCH_TOKENS),
                launch.get(SEQ_LENGTH),
            )
        )
    return spans


def _last_before(steps: npt.NDArray[np.int64], step: int) -> int:
    """The last step below `step`; 0 where there is none."""
    return int(steps[steps < step].max(initial=0))


def joined_spans(parts: Sequence[tuple[Sequence[Span], npt.NDArray[np.int64]]]) -> list[Span]:
    """Return the spans of one run whose files follow each other.

    Args:
        parts: spans and steps of the training records of each file.
    """
    spans: list[Span] = []
    seen = np.zeros(0, dtype=np.int64)
    for own, steps in parts:
        for span in own:
            start = span.start
            if start is None and len(seen) and len(steps):
                start = _last_before(seen, int(steps[0]))
            spans.append(replace(span, start=start))
        seen = np.concatenate([seen, steps])
    return spans


def in_force(spans: Sequence[Span]) -> list[Span]:
    """Return the spans that count, from step 0 on: a later one replaces what lies beyond its start.

    The first one counts from the beginning, whatever checkpoint its launch came from: of the steps
    before it the log knows no other batch.
    """
    kept: list[Span] = []
    for span in spans:
        start = span.start or 0
        kept = [one for one in kept if (one.start or 0) < start]
        if kept and replace(kept[-1], start=start) == replace(span, start=start):
            continue
        kept.append(replace(span, start=start if kept else 0))
    return kept


def _batches(spans: Sequence[Span], sizes: Sequence[int | None]) -> Batches | None:
    if not spans or any(size is None for size in sizes):
        return None
    return tuple((span.start or 0, size or 0) for span, size in zip(spans, sizes, strict=True))


def counted(
    table: pl.DataFrame, spans: Mapping[str, Sequence[Span]], *, again: bool = False
) -> pl.DataFrame:
    """Return rows of runs with batch and consumed counts as they follow from the step and spans.

    A count that a run's log gives itself, be it once, stays as it is.

    Args:
        table: rows; `run` is empty where the file is one run.
        spans: by run, those in force.
        again: the counts were made from other spans, and are replaced.
    """
    parts = []
    for (run,), part in table.partition_by("run", maintain_order=True, as_dict=True).items():
        own = spans.get(run or "", [])
        samples = _batches(own, [span.batch_samples for span in own])
        tokens = _batches(own, [_tokens(span) for span in own])
        columns: dict[str, pl.Expr] = {}
        if samples is not None:
            columns |= {"batch_samples": batch_of_step(samples), "samples": consumed(samples)}
        if tokens is not None:
            columns |= {"batch_tokens": batch_of_step(tokens), "tokens": consumed(tokens)}
        silent = [name for name in columns if again or part[name].null_count() == part.height]
        parts.append(part.with_columns(**{name: columns[name] for name in silent}))
    return pl.concat(parts) if parts else table


def _tokens(span: Span) -> int | None:
    if span.batch_tokens is not None:
        return span.batch_tokens
    if span.batch_samples is None or span.seq_length is None:
        return None
    return span.batch_samples * span.seq_length


def count_by_launch(found: FileRead, options: ReadOptions, launches: Sequence[Launch]) -> None:
    """Fill in what a console log of steps alone consumed, run by run, from what its launches said.

    Where the user states the batch, only the planned tokens of each run are worked out. Every run
    whose counts were made keeps its spans in `extra`, and how they were made is noted.
    """
    stated = options.batch_samples is not None or options.batch_tokens is not None
    spans: dict[str, list[Span]] = {}
    for meta in found.runs:
        rows = found.table.filter(pl.col("run").fill_null("") == meta.run).drop_nulls("step")
        lines = rows["line"].to_numpy()
        said = launches_of(launches, lines) if len(lines) else list(launches[:1])
        own = spans_of(said, rows["step"].to_numpy(), lines)
        if options.seq_length is not None:
            own = [replace(span, seq_length=options.seq_length) for span in own]
        used = in_force(own)
        _plan(meta, said[-1].get(STEPS) if said else None, used)
        if stated or not any(span.batch_samples or span.batch_tokens for span in own):
            continue
        spans[meta.run] = used
        unit = "samples" if used[0].batch_samples is not None else "tokens"
        if rows.height and rows[unit].null_count() == rows.height:
            meta.extra[SPANS] = [asdict(span) for span in own]
            found.note("derived", _said(own, used, unit))
    if not spans and not stated and _lacks_counts(found.table):
        found.note("missing_field", "the log does not state the global batch, so no tokens")
    found.table = counted(found.table, spans)


def _lacks_counts(table: pl.DataFrame) -> bool:
    return all(0 < table.height == table[name].null_count() for name in ("tokens", "samples"))


def _plan(meta: RunMeta, steps: int | None, spans: Sequence[Span]) -> None:
    """The planned tokens of a run: its batches up to the last of its planned steps."""
    sizes = _batches(spans, [_tokens(span) for span in spans])
    if not steps or sizes is None:
        return
    ends = [*(start for start, _ in sizes[1:]), steps]
    total = sum(
        max(0, min(end, steps) - start) * size
        for (start, size), end in zip(sizes, ends, strict=True)
    )
    meta.d_tokens = total if 0 < total <= INT64_MAX else None


def _said(own: Sequence[Span], used: Sequence[Span], unit: str) -> str:
    sizes = [span.batch_tokens if unit == "tokens" else span.batch_samples for span in used]
    text = f"{unit} are steps x the global batch of {sizes[0] or 0:,} {unit}"
    for span, (before, size) in zip(used[1:], pairwise(sizes), strict=True):
        if size != before:
            text += f", from step {span.start or 0:,} on of {size or 0:,}"
        else:
            text += f", from step {span.start or 0:,} on in sequences of {span.seq_length} tokens"
    if own[0].start:
        text += f"; so are the first {own[0].start:,} steps, which another log holds"
    return text


def spans_kept(meta: Mapping[str, Any]) -> list[Span]:
    """Return the spans that a run keeps."""
    return [Span(**span) for span in meta.get(SPANS, [])]
