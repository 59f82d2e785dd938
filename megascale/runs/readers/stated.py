"""What the start-up lines of a console log state: batch, sequence length, size, steps.

A file may hold several launches of one run, and each states its own: what is said counts from the
step at which that launch goes on, not for the whole file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from megascale.runs.readers.base import (
    INT64_MAX,
    VALIDATION,
    Batches,
    FileRead,
    ReadOptions,
    RunMeta,
    filled,
    positive,
)

BATCH_SAMPLES, BATCH_TOKENS = "batch_samples", "batch_tokens"
SEQ_LENGTH, N_PARAMS, STEPS = "seq_length", "n_params", "steps"

Statements = dict[str, list[tuple[int, int]]]
"""By the name of what is stated: the lines that state it, counted from 1, and the values."""


Patterns = Sequence[tuple[str, re.Pattern[bytes]]]
"""What is stated, and a line that states it in its first group. Patterns that begin with a literal
are found many times faster: one each, rather than one of several alternatives."""


def statements(data: bytes, patterns: Patterns) -> Statements:
    """Every statement of a log; values may have thousands commas.

    Args:
        data: the log without terminal colours.
        patterns: several may be of one name.
    """
    found: Statements = {}
    for name, pattern in patterns:
        line, counted = 1, 0
        for match in pattern.finditer(data):
            line += data.count(b"\n", counted, match.start())
            counted = match.start()
            value = positive(match[1].decode("utf-8", "replace"))
            if value is not None:
                found.setdefault(name, []).append((line, value))
    return {name: sorted(lines) for name, lines in found.items()}


@dataclass(frozen=True, slots=True)
class _Launch:
    """What holds from a line on; None where nothing was said so far."""

    line: int
    samples: int | None = None
    tokens: int | None = None
    seq: int | None = None


def completed(found: FileRead, options: ReadOptions, said: Statements) -> FileRead:
    """The file with what its start-up lines say: its batches, and its run's description.

    Samples and tokens of the rows are left empty, and said so, where the log is silent about the
    batch and the user does not state it.
    """
    launches = _launches(said)
    lengths = {launch.seq for launch in launches if launch.seq}
    seq = lengths.pop() if len(lengths) == 1 else None
    meta = RunMeta(run="", n_params=_last(said, N_PARAMS), seq_length=seq)
    _plan(meta, _last(said, STEPS), options, launches)
    found.runs = [meta]
    if options.batch_samples is not None or options.batch_tokens is not None:
        return filled(found, options)
    samples = [(launch.line, launch.samples) for launch in launches if launch.samples]
    tokens = [(launch.line, _tokens(launch, options)) for launch in launches]
    sizes = [(line, size) for line, size in tokens if size]
    if sizes and (not samples or len(lengths) > 0):  # the length changed, or tokens are stated
        batches = launch_batches(found.table, sizes)
        _tell(found, "tokens", batches)
        return filled(found, replace(options, batch_tokens=batches))
    if samples:
        batches = launch_batches(found.table, samples)
        _tell(found, "samples", batches)
        return filled(found, replace(options, batch_samples=batches))
    if _lacks_counts(found.table):
        found.note("missing_field", "the log does not state the global batch, so no tokens")
    return filled(found, options)


def launch_batches(table: pl.DataFrame, sizes: list[tuple[int, int]]) -> int | Batches:
    """Global batches by the finished steps from which on each holds.

    A launch goes on at the last step shown before it that its own first step does not repeat.

    Args:
        table: rows with their `line` and `step`, in the order of the file.
        sizes: lines that state a batch, in the order of the file, and the batches.
    """
    if len({size for _, size in sizes}) == 1 or table.is_empty():
        return sizes[-1][1]
    train = table.filter(~pl.col("loss_kind").str.starts_with(VALIDATION), pl.col("step") > 0)
    lines, steps = train["line"].to_numpy(), train["step"].to_numpy()
    batches: list[tuple[int, int]] = []
    for index, (line, size) in enumerate(sizes):
        end = sizes[index + 1][0] if index + 1 < len(sizes) else INT64_MAX
        own = steps[(lines > line) & (lines < end)]
        if not len(own) and index + 1 < len(sizes):
            continue  # a launch that logged nothing
        before = steps[lines < line]
        kept = before[before < own[0]] if len(own) else before
        start = int(np.max(kept)) if len(kept) and batches else 0
        batches = [one for one in batches if one[0] < start]
        if not batches or batches[-1][1] != size:
            batches.append((start, size))
    return batches[0][1] if len(batches) == 1 else tuple(batches)


def _launches(said: Statements) -> list[_Launch]:
    events = [
        (line, name, value)
        for name in (BATCH_SAMPLES, BATCH_TOKENS, SEQ_LENGTH)
        for line, value in said.get(name, [])
    ]
    launches = [_Launch(0)]
    names = {BATCH_SAMPLES: "samples", BATCH_TOKENS: "tokens", SEQ_LENGTH: "seq"}
    for line, name, value in sorted(events):
        launches.append(replace(launches[-1], line=line, **{names[name]: value}))
    if len(launches) > 1:  # what the first launch says later holds from its beginning
        seq = next((launch.seq for launch in launches if launch.seq), None)
        launches = [launch if launch.seq else replace(launch, seq=seq) for launch in launches[1:]]
    return launches


def _tokens(launch: _Launch, options: ReadOptions) -> int | None:
    if launch.tokens is not None:
        return launch.tokens
    seq = options.seq_length or launch.seq
    return launch.samples * seq if launch.samples and seq else None


def _plan(meta: RunMeta, steps: int | None, options: ReadOptions, launches: list[_Launch]) -> None:
    """The planned tokens, where every launch says the same batch."""
    sizes = {_tokens(launch, options) for launch in launches} - {None}
    only = sizes.pop() if len(sizes) == 1 else None
    if steps and only and steps * only <= INT64_MAX:
        meta.d_tokens = steps * only


def _lacks_counts(table: pl.DataFrame) -> bool:
    return table["tokens"].null_count() == table.height and (
        table["samples"].null_count() == table.height
    )


def _last(said: Statements, name: str) -> int | None:
    return said[name][-1][1] if name in said else None


def _tell(found: FileRead, unit: str, batches: int | Batches) -> None:
    if found.table[unit].null_count() < found.table.height:
        return  # the log counts them itself
    if isinstance(batches, int):
        found.note("derived", f"{unit} are steps x the global batch of {batches:,} {unit}")
        return
    shown = ", ".join(f"{size:,} after step {start:,}" for start, size in batches)
    found.note(
        "derived",
        f"{unit} follow from the global batch that each launch states: {shown} {unit}; a launch "
        "goes on at the last step logged before it",
    )
