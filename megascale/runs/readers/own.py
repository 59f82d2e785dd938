"""Our own log: `metrics.jsonl` with its `events.jsonl`, as docs/formats/run-log.md describes it.

Gives the same rows as `megascale.runs.log.read_run`, at the speed of a vectorised JSON parser:
whole chunks are parsed at once, and only a chunk that refuses is taken apart, down to the line.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from megascale.errors import DataError
from megascale.runs.log import EVENTS_FILE, INTEGER_KEYS, METRICS_FILE, SCHEMA
from megascale.runs.readers.base import (
    INTERVAL_MEAN,
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    as_table,
    exact_int,
    positive,
    real,
    rows_table,
)
from megascale.runs.readers.opening import chunks

NAME = "megascale"
ORDERED = False
COMPANIONS = {METRICS_FILE: (EVENTS_FILE,)}

_FIELDS: dict[str, Any] = {
    **dict.fromkeys((*INTEGER_KEYS, "resumed_at_step", "skipped"), pl.Int64),
    **dict.fromkeys(("loss", "lr", "grad_norm", "seconds"), pl.Float64),
}
_NONFINITE = ("nan", "inf", "-inf")  # how the writer puts what JSON has no number for
_ATTEMPTS = ("start", "resume", "branch")
_PIECE_BYTES = 2**18


def sniff(head: bytes, path: str) -> bool:
    return head.lstrip().startswith(b'{"schema":') and b'"megascale.run/' in head[:200]


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read a run's metrics and, where they lie beside it, its evaluations.

    Raises:
        DataError: no header, or one of a schema version this reader does not know.
    """
    found = FileRead(source.path, NAME)
    header = _header(source)
    parts = [_parsed(chunk, first, found) for first, chunk in chunks(source.data)]
    records = pl.concat(parts).filter(pl.col("line") != header.pop("__line__"))
    records = _without_wrong_integers(records, found)
    kept = _kept(records, found)
    table = as_table(
        kept.select(
            *("step", "tokens", "samples", "batch_tokens", "lr", "loss", "grad_norm", "seconds"),
            "line",
            batch_samples=pl.when(
                (pl.col("sequence_length") > 0)
                & (pl.col("batch_tokens") % pl.col("sequence_length") == 0)
            ).then(pl.col("batch_tokens") // pl.col("sequence_length")),
            loss_kind=pl.lit(INTERVAL_MEAN),
        )
    )
    events = _events(source.companions.get(EVENTS_FILE, b""))
    found.table = pl.concat([table, _evaluations(events, table)])
    found.runs = [_meta(header, kept, events)]
    return found


def _header(source: Source) -> dict[str, Any]:
    number = 1
    for line in source.data[: 2**20].split(b"\n"):
        if line.strip():
            header = _object(line)
            schema = header.get("schema") if header else None
            if header is None or schema != SCHEMA:
                shown = "no schema" if schema is None else schema
                key = f"schema of {source.path}"
                raise DataError.of(key, shown, "not a schema this version reads", SCHEMA)
            return {**header, "__line__": number}
        number += 1
    raise DataError.of(f"schema of {source.path}", "", "the log has no header line", SCHEMA)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parsed(chunk: bytes, first: int, found: FileRead) -> pl.DataFrame:
    """The chunk's records with their line numbers; lines that are no records are reported."""
    frame = _vectorised(chunk, first)
    if frame is not None:
        return frame
    if len(chunk) > _PIECE_BYTES:
        pieces = chunks(chunk, max(_PIECE_BYTES, len(chunk) // 16))
        return pl.concat([_parsed(piece, first + start - 1, found) for start, piece in pieces])
    return _line_by_line(chunk, first, found)


def _vectorised(chunk: bytes, first: int) -> pl.DataFrame | None:
    try:
        frame = pl.read_ndjson(chunk, schema=_FIELDS)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    lines = chunk.count(b"\n") + (not chunk.endswith(b"\n"))
    if frame.height == lines:
        numbers = pl.int_range(first, first + lines, eager=True)
    else:
        full = [index for index, line in enumerate(chunk.split(b"\n")) if line.strip()]
        if len(full) != frame.height:
            return None
        numbers = pl.Series(full, dtype=pl.Int64) + first
    return frame.with_columns(numbers.alias("line"))


def _line_by_line(chunk: bytes, first: int, found: FileRead) -> pl.DataFrame:
    rows = []
    lines = chunk.split(b"\n")
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        number = first + index
        record = _object(line)
        if record is None:
            torn = index == len(lines) - 1
            if torn:
                found.note("torn", "the last line was cut off while it was written", number)
            else:
                found.reject(number, "not a JSON object")
            continue
        wrong = _wrong_types(record)
        if wrong:
            found.reject(number, wrong)
        else:
            rows.append({**{key: _value(record.get(key)) for key in _FIELDS}, "line": number})
    return pl.DataFrame(rows, schema={**_FIELDS, "line": pl.Int64}, orient="row")


def _wrong_types(record: dict[str, Any]) -> str | None:
    for key, kind in _FIELDS.items():
        value = record.get(key)
        if value is None:
            continue
        if kind == pl.Int64:
            if type(value) is not int or exact_int(value) is None:
                return f"no exact integer {key}"
        elif value not in _NONFINITE and type(value) not in (int, float):
            return f"no number {key}"
    return None


def _value(value: Any) -> Any:
    return None if value in _NONFINITE else value


def _without_wrong_integers(records: pl.DataFrame, found: FileRead) -> pl.DataFrame:
    """Leave out, and report, records that lack one of the exact counts."""
    marker = pl.col("resumed_at_step").is_not_null()
    lacking = pl.any_horizontal(pl.col(key).is_null() for key in INTEGER_KEYS) & ~marker
    for row in records.filter(lacking).iter_rows(named=True):
        missing = [key for key in INTEGER_KEYS if row[key] is None]
        found.reject(row["line"], f"no exact integer {', '.join(missing)}")
    return records.filter(~lacking)


def _kept(records: pl.DataFrame, found: FileRead) -> pl.DataFrame:
    """The last record of each step, without those that a resume marker took back."""
    marker = pl.col("resumed_at_step").is_not_null()
    for line, step in records.filter(marker).select("line", "resumed_at_step").iter_rows():
        found.note("restart", f"resumed at step {step}", line)
    limit = pl.col("resumed_at_step").reverse().cum_min().forward_fill().reverse()
    records = records.with_columns(limit=limit).filter(~marker)
    kept = records.filter(
        (pl.col("step") <= pl.col("limit").fill_null(2**62)) & pl.col("step").is_last_distinct()
    )
    found.superseded = records.height - kept.height
    return kept.sort("step")


def _events(lines: bytes) -> list[dict[str, Any]]:
    """The events that matter to readers; a torn one is none."""
    marks = (b'"evaluation"', b'"end"', *(f'"{kind}"'.encode() for kind in _ATTEMPTS))
    wanted = (line for line in lines.split(b"\n") if any(mark in line for mark in marks))
    return [event for event in map(_object, wanted) if event is not None]


def _evaluations(events: list[dict[str, Any]], train: pl.DataFrame) -> pl.DataFrame:
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for event in events:
        step, kind = exact_int(event.get("step")), event.get("kind")
        if step is None:
            continue
        if kind in _ATTEMPTS:  # it takes back what lies beyond
            rows = {key: row for key, row in rows.items() if key[1] <= step}
        loss = real(event.get("loss"))
        if kind == "evaluation" and loss is not None:
            rows[str(event.get("source") or ""), step] = {
                "step": step,
                "tokens": exact_int(event.get("tokens")),
                "loss": loss,
            }
    sets = {name for name, _ in rows}
    for (name, _), row in rows.items():
        row["loss_kind"] = f"{VALIDATION}:{name}" if len(sets) > 1 else VALIDATION
    frame = rows_table(rows.values())
    axis = train.select("step", "samples", "batch_tokens", "batch_samples", "lr").unique("step")
    joined = frame.drop("samples", "batch_tokens", "batch_samples", "lr").join(
        axis, on="step", how="left"
    )
    return as_table(joined)


def _meta(header: dict[str, Any], kept: pl.DataFrame, events: list[dict[str, Any]]) -> RunMeta:
    lengths = kept["sequence_length"].unique()
    extra: dict[str, Any] = {
        key: value
        for key, value in header.items()
        if isinstance(value, (str, int, float)) and key != "schema"
    }
    begun = [event.get("kind") in _ATTEMPTS for event in events]
    last = events[max((index for index, one in enumerate(begun) if one), default=0) :]
    exits = [exact_int(event.get("exit_code")) for event in last if event.get("kind") == "end"]
    extra |= {"skipped": kept["skipped"].sum(), "exit_code": exits[-1] if exits else None}
    if any(begun):
        extra["attempts"] = sum(begun)
    return RunMeta(
        run="",
        n_params=positive(header.get("n_params")),
        d_tokens=positive(header.get("total_tokens")),
        seq_length=lengths.item() if len(lengths) == 1 else None,
        extra=extra,
    )
