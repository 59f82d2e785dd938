"""Our own log: `metrics.jsonl` with its `events.jsonl`, as docs/formats/run-log.md describes it.

Gives the same rows as `megascale.formats.run_log.read_run`, at the speed of a vectorised JSON
parser: whole chunks are parsed at once, and only a chunk that refuses is taken apart, down
to the line.
The records of a small log are then handled one by one: a query of a table takes longer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from megascale.errors import DataError
from megascale.formats.run_log import (
    ATTEMPT_KINDS,
    EVENTS_FILE,
    INTEGER_KEYS,
    METRICS_FILE,
    SCHEMA,
    attempts_of,
)
from megascale.runs.readers.base import (
    BEGAN,
    INT64_MAX,
    INTERVAL_MEAN,
    SEGMENT_LOSSES,
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

_INTEGERS = (*INTEGER_KEYS, "resumed_at_step", "skipped")
_REALS = ("lr", "loss", "grad_norm", "seconds")
_FIELDS: dict[str, Any] = {
    **dict.fromkeys(_INTEGERS, pl.Int64),
    **dict.fromkeys(_REALS, pl.Float64),
}
_NOISE = ("noise_scale", "lr_share_")
_NONFINITE = ("nan", "inf", "-inf")  # how the writer puts what JSON has no number for
_PIECE_BYTES = 2**18
SMALL_BYTES = 2**18
"""Up to this size records are handled one by one."""
_COUNTED = ("batch_tokens", "loss", "loss_tokens")
_SAME = ("step", "tokens", "samples", "batch_tokens", *_REALS, "line")


def sniff(head: bytes, path: str) -> bool:
    return head.lstrip().startswith(b'{"schema":') and b'"megascale.run/' in head[:200]


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read a run's metrics and, where they lie beside it, its evaluations.

    Raises:
        DataError: no header, or one of a schema version this reader does not know.
    """
    found = FileRead(source.path, NAME)
    header = _header(source)
    first = header.pop("__line__")
    events = _events(source.companions.get(EVENTS_FILE, b""))
    if len(source.data) <= SMALL_BYTES:
        records = [row for row in _small_rows(source.data, found) if row["line"] != first]
        kept = _kept_rows(records, found)
        train = [_row(row) for row in kept]
        axis = {row["step"]: row for row in train}
        rows = train + _evaluations(events, axis)
        found.table = rows_table(sorted(rows, key=lambda row: row["step"]))
        lengths = {row["sequence_length"] for row in kept}
        skipped = sum(row["skipped"] or 0 for row in kept)
        losses = _segment_losses(*([row[key] for row in kept] for key in _COUNTED))
    else:
        frame = _kept_frame(source.data, first, found)
        lengths, skipped = set(frame["sequence_length"].unique()), frame["skipped"].sum()
        losses = _segment_losses(*(frame[key] for key in _COUNTED))
        found.table = _with_evaluations(_table(frame), events)
    found.runs = [_meta(header, lengths, skipped, events)]
    found.runs[0].extra[SEGMENT_LOSSES] = losses
    noise = last_noise_scale(source.data)
    if noise is not None:
        found.runs[0].extra["noise_scale"] = noise
    return found


def last_noise_scale(data: bytes) -> dict[str, Any] | None:
    """The newest gradient noise scale of a log that no resume took back, with its tokens."""
    limit, end = 2**62, len(data)
    while end > 0:
        start = data.rfind(b"\n", 0, end - 1) + 1
        line = data[start:end]
        end = start
        if b'"noise_scale' not in line and b'"resumed_at_step"' not in line:
            continue
        record = _object(line) or {}
        resumed, step = exact_int(record.get("resumed_at_step")), exact_int(record.get("step"))
        if resumed is not None:
            limit = min(limit, resumed)
        elif step is not None and step <= limit:
            kept = {key: value for key, value in record.items() if key.startswith(_NOISE)}
            return {"step": step, "tokens": record.get("tokens"), **kept}
    return None


def _segment_losses(batch: Any, loss: Any, counted: Any) -> list[float | None]:
    """The mean loss of each stretch of one batch, over the tokens that count: the table has losses,
    and not how many tokens each is a mean of."""
    if not len(batch):
        return []
    table = pl.DataFrame({"batch": batch, "loss": loss, "counted": counted}, strict=False)
    known = pl.col("loss").is_finite()
    sums = (
        table.group_by(pl.col("batch").rle_id().alias("segment"), maintain_order=True)
        .agg(
            total=(pl.col("loss") * pl.col("counted")).filter(known).sum(),
            counted=pl.col("counted").filter(known).sum(),
        )
        .iter_rows()
    )
    return [total / tokens if tokens else None for _, total, tokens in sums]


def _kept_frame(data: bytes, header_line: int, found: FileRead) -> pl.DataFrame:
    """The records that count."""
    parts = [_parsed(chunk, first, found) for first, chunk in chunks(data)]
    records = pl.concat(parts).filter(pl.col("line") != header_line)
    return _kept(_without_wrong_integers(records, found), found)


def _table(kept: pl.DataFrame) -> pl.DataFrame:
    return as_table(
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


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a row of the one table."""
    batch, length = record["batch_tokens"], record["sequence_length"]
    whole = length > 0 and batch % length == 0
    return {
        **{key: record[key] for key in _SAME},
        "batch_samples": batch // length if whole else None,
        "loss_kind": INTERVAL_MEAN,
    }


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
        value = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parsed(chunk: bytes, first: int, found: FileRead) -> pl.DataFrame:
    """The chunk's records with their line numbers; lines that are no records are reported."""
    frame = _vectorised(chunk, first)
    if frame is not None:
        return frame
    pieces = list(chunks(chunk, max(_PIECE_BYTES, len(chunk) // 16)))
    if len(pieces) == 1:  # no longer than a piece and its last line, which may be of any length
        return _line_by_line(chunk, first, found)
    return pl.concat([_parsed(piece, first + start - 1, found) for start, piece in pieces])


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
    rows = _rows(chunk, first, found)
    return pl.DataFrame(rows, schema={**_FIELDS, "line": pl.Int64}, orient="row")


def _small_rows(data: bytes, found: FileRead) -> list[dict[str, Any]]:
    """The records of a small log: its whole lines at once, if that is possible."""
    end = data.rfind(b"\n") + 1
    frame = _vectorised(data[:end], 1) if end else None
    if frame is None:
        return _rows(data, 1, found)
    return frame.to_dicts() + _rows(data[end:], data.count(b"\n") + 1, found)


def _rows(chunk: bytes, first: int, found: FileRead) -> list[dict[str, Any]]:
    """The chunk's records; lines that are no records are reported."""
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
            row = {key: record.get(key) for key in _FIELDS}
            for key in _REALS:
                if type(row[key]) is not float and row[key] is not None:
                    row[key] = real(row[key])
            row["line"] = number
            rows.append(row)
    return rows


def _kept_rows(records: list[dict[str, Any]], found: FileRead) -> list[dict[str, Any]]:
    """What `_without_wrong_integers` and `_kept` leave, for the records of a small log."""
    counted = []
    for record in records:
        missing = [key for key in INTEGER_KEYS if record[key] is None]
        if missing and record["resumed_at_step"] is None:
            found.reject(record["line"], f"no exact integer {', '.join(missing)}")
        else:
            counted.append(record)
    kept: dict[int, dict[str, Any]] = {}
    seen: set[int] = set()
    limit = 2**62
    for record in reversed(counted):
        if record["resumed_at_step"] is not None:
            limit = min(limit, record["resumed_at_step"])
        elif record["step"] not in seen:
            seen.add(record["step"])
            if record["step"] <= limit:
                kept[record["step"]] = record
    markers = [record for record in counted if record["resumed_at_step"] is not None]
    for marker in markers:
        found.note("restart", f"resumed at step {marker['resumed_at_step']}", marker["line"])
    found.superseded = len(counted) - len(markers) - len(kept)
    return [kept[step] for step in sorted(kept)]


def _wrong_types(record: dict[str, Any]) -> str | None:
    get = record.get
    for key in _INTEGERS:
        value = get(key)
        if value is not None and (type(value) is not int or abs(value) > INT64_MAX):
            return f"no exact integer {key}"
    for key in _REALS:
        value = get(key)
        if not (value is None or type(value) in (float, int) or value in _NONFINITE):
            return f"no number {key}"
    return None


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
    marks = (b'"evaluation"', b'"end"', *(f'"{kind}"'.encode() for kind in ATTEMPT_KINDS))
    wanted = (line for line in lines.split(b"\n") if any(mark in line for mark in marks))
    return [event for event in map(_object, wanted) if event is not None]


def _with_evaluations(train: pl.DataFrame, events: list[dict[str, Any]]) -> pl.DataFrame:
    at = {exact_int(event.get("step")) for event in events if event.get("kind") == "evaluation"}
    near = train.filter(pl.col("step").is_in(sorted(step for step in at if step is not None)))
    axis = {row["step"]: row for row in near.iter_rows(named=True)}
    return pl.concat([train, rows_table(_evaluations(events, axis))])


def _evaluations(
    events: list[dict[str, Any]], axis: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of the evaluations that count; samples, batch and rate are those of the step's row."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for event in events:
        step, kind = exact_int(event.get("step")), event.get("kind")
        if step is None:
            continue
        if kind in ATTEMPT_KINDS:  # it takes back what lies beyond
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
        beside = axis.get(row["step"], {})
        row |= {key: beside.get(key) for key in ("samples", "batch_tokens", "batch_samples", "lr")}
    return list(rows.values())


def _meta(
    header: dict[str, Any], lengths: set[int], skipped: int, events: list[dict[str, Any]]
) -> RunMeta:
    extra: dict[str, Any] = {
        key: value
        for key, value in header.items()
        if isinstance(value, (str, int, float)) and key != "schema"
    }
    attempts = attempts_of(events)
    extra |= {"skipped": skipped, "exit_code": attempts.exit_code}
    if attempts.count:
        extra |= {"attempts": attempts.count, BEGAN: list(attempts.began)}
    # The header is that of the first attempt; a later one may have another plan.
    plans = [header, *(event for event in events if event.get("kind") in ATTEMPT_KINDS)]
    planned = [total for plan in plans if (total := positive(plan.get("total_tokens")))]
    return RunMeta(
        run="",
        n_params=positive(header.get("n_params")),
        d_tokens=planned[-1] if planned else None,
        seq_length=next(iter(lengths)) if len(lengths) == 1 else None,
        extra=extra,
    )
