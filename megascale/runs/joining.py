"""Files that make one run: which belong together, and their rows as one history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from megascale.runs.files import group_of
from megascale.runs.readers import detect
from megascale.runs.readers.base import FileRead, RunMeta, consumed
from megascale.runs.readers.restarts import keep_last
from megascale.runs.readers.spans import SPANS, counted, in_force, joined_spans, spans_kept


def groups_of(files: Sequence[FileRead], *, join: bool) -> dict[Path, list[int]]:
    """Return the files of every run, by what names it: their indices in the order read.

    A file that holds several runs is no part of another. States of a Hugging Face run repeat the
    history before them; those of a directory whose histories disagree are runs of their own.
    """
    groups: dict[Path, list[int]] = {}
    for index, found in enumerate(files):
        several = any(note.kind == "separate_runs" for note in found.notes)
        path = found.path if several else group_of(found.path, found.format, join=join)
        groups.setdefault(path, []).append(index)
    divided: dict[Path, list[int]] = {}
    for path, members in groups.items():
        parts = [members]
        if len(members) > 1 and files[members[0]].format == "hf":
            parts = _histories(files, members)
        for part in parts:
            divided[path if len(parts) == 1 else files[part[0]].path] = part
        for part in parts[1:]:
            message = f"its history is not that of {files[members[0]].path.name}: another run"
            files[part[0]].note("separate_runs", message)
    return divided


def _histories(files: Sequence[FileRead], members: Sequence[int]) -> list[list[int]]:
    """The files whose histories go on from each other."""
    parts: list[list[int]] = []
    for index in members:
        for part in parts:
            if _continues(files[part[-1]].table, files[index].table):
                part.append(index)
                break
        else:
            parts.append([index])
    return parts


def _continues(first: pl.DataFrame, second: pl.DataFrame) -> bool:
    """Whether two histories are one: what both have is equal, and one begins with the other."""
    if first.is_empty() or second.is_empty():
        return True
    both = first.join(second, on=["step", "loss_kind"], suffix="_of_second")
    if both.is_empty():
        return _extent(first)[1] < _extent(second)[0]
    same = (both["loss"] == both["loss_of_second"]).all()
    return bool(same) and both.height == min(first.height, second.height)


def joined_table(files: Sequence[FileRead]) -> tuple[pl.DataFrame, dict[str, RunMeta]]:
    """Return the rows that count of the files of one run, and what the files say about it.

    What was superseded, and why the files may be no run, is noted in the last of them.
    """
    tables = [found.table.with_columns(source=pl.lit(str(found.path))) for found in files]
    metas: dict[str, RunMeta] = {}
    for found in files:
        for meta in found.runs:
            metas[meta.run] = merged(metas.get(meta.run), meta)
    if len(files) == 1:
        return tables[0], metas
    last = files[-1]
    written = sum(part.height for part in tables)
    tables = _without_abandoned(tables, files)
    table = pl.concat(tables)
    last.superseded += written - table.height
    for message in _new_runs(files):
        last.note("mixed_runs", message)
    table = _recounted(table, tables, files, metas)
    kept = keep_last(table, ordered=detect.READERS[files[0].format].ORDERED)
    last.superseded += kept.superseded
    for line, message in kept.mixed:
        last.note("mixed_runs", message, line)
    return kept.table, metas


def _without_abandoned(
    tables: Sequence[pl.DataFrame], files: Sequence[FileRead]
) -> list[pl.DataFrame]:
    """The rows of each file up to the checkpoint that a later one says it went on from."""
    kept = list(tables)
    for number, found in enumerate(files):
        spans = spans_kept(found.runs[0].extra) if len(found.runs) == 1 else []
        start = spans[0].start if spans else None
        if start is not None:
            beyond = pl.col("step").fill_null(0) > start
            kept[:number] = [part.filter(~beyond) for part in kept[:number]]
    return kept


def _new_runs(files: Sequence[FileRead]) -> list[str]:
    """Files that begin a new run after the end of the one before, or with another plan or size."""
    messages = []
    begun, before = files[0], files[0]
    for found in files[1:]:
        if any(len(one.runs) != 1 or one.table.is_empty() for one in (begun, before, found)):
            continue
        (old,), (new,) = before.runs, found.runs
        totals = (old.extra.get("total_steps"), new.extra.get("total_steps"))
        first, start = (_extent(one.table)[0] for one in (begun, found))
        ended = totals[0] is not None and _extent(before.table)[1] >= totals[0]
        anew = start <= first and (ended or _differ(*totals))
        if anew or _differ(old.n_params, new.n_params):
            messages.append(
                f"{found.path.name} begins another run and does not go on with that of "
                f"{before.path.name}: read them without --join"
            )
        before = found
    return messages


def _extent(table: pl.DataFrame) -> tuple[int, int]:
    """The first and the last step; 0 where no row has one."""
    steps = table["step"].drop_nulls().to_numpy()
    return (int(steps.min()), int(steps.max())) if len(steps) else (0, 0)


def _differ(first: int | None, second: int | None) -> bool:
    return first is not None and second is not None and first != second


def _recounted(
    table: pl.DataFrame,
    tables: Sequence[pl.DataFrame],
    files: Sequence[FileRead],
    metas: dict[str, RunMeta],
) -> pl.DataFrame:
    """Counts that each file made as if its own batch and sequence length had always held."""
    if set(metas) != {""}:
        return table
    told = [spans_kept(found.runs[0].extra) for found in files]
    if all(told):
        steps = [part.drop_nulls("step")["step"].to_numpy() for part in tables]
        spans = joined_spans(list(zip(told, steps, strict=True)))
        metas[""].extra[SPANS] = [asdict(span) for span in spans]
        return counted(table, {"": in_force(spans)}, again=True)
    lengths = [found.runs[0].seq_length for found in files]
    if None in lengths or len(set(lengths)) == 1 or table["samples"].null_count() == table.height:
        return table
    metas[""].seq_length = None
    pieces: list[tuple[int, int]] = []
    for number, (part, length) in enumerate(zip(tables, lengths, strict=True)):
        start = _samples_before(tables[:number], part)
        pieces = [piece for piece in pieces if piece[0] < start] + [(start, length or 0)]
    return table.with_columns(tokens=consumed(tuple(pieces), "samples"))


def _samples_before(earlier: Sequence[pl.DataFrame], part: pl.DataFrame) -> int:
    """Consumed samples of the last row of earlier files before the first step of this one."""
    first = part["step"].min()
    if not earlier or first is None:
        return 0
    before = pl.concat(list(earlier)).filter(pl.col("step") < first)
    return int(np.max(before["samples"].drop_nulls().to_numpy(), initial=0))


def merged(first: RunMeta | None, second: RunMeta) -> RunMeta:
    """Return what two files of a run say about it; the later word on its plan counts."""
    if first is None:
        return second
    return RunMeta(
        run=first.run,
        n_params=first.n_params or second.n_params,
        d_tokens=second.d_tokens or first.d_tokens,
        seq_length=first.seq_length or second.seq_length,
        extra={**first.extra, **second.extra},
    )
