"""TensorBoard event files, read by hand: neither TensorFlow nor TensorBoard is needed.

A record is a length, its checksum, the event and its checksum. Every checksum is checked; a file
that ends within a record is one still being written, or of a killed job.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from megascale.runs.readers import fields
from megascale.runs.readers.base import (
    INSTANTANEOUS,
    INTERVAL_MEAN,
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    as_table,
    exact_int,
)
from megascale.runs.readers.counters import (
    ALL_TOKENS,
    MICRO_BATCHES,
    RANK_TOKENS,
    end_intervals,
    is_lightning,
)
from megascale.runs.readers.crc import masked_crc32c

NAME = "tensorboard"
ORDERED = True

_HEADER = struct.Struct("<QI")
_FLOAT32_EXACT = 2**24


def sniff(head: bytes, path: str) -> bool:
    if len(head) < 12 or int.from_bytes(head[:8], "little") > 2**32:
        return False
    start = np.frombuffer(head[:8], dtype=np.uint8)
    crc = masked_crc32c(start, np.array([0]), np.array([8]))[0]
    return int(crc) == int.from_bytes(head[8:12], "little")


@dataclass(slots=True)
class Series:
    """One tag's values in the order written."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read losses, and what lies on the same steps: learning rate, batch, norm, token axis."""
    found = FileRead(source.path, NAME)
    tags = scalars_of(source.data, found)
    table = []
    loss_tag = fields.find("loss", tags)
    micro = _counts_micro_batches(tags)
    if micro or (loss_tag and (is_lightning(tags) or end_intervals(tags[loss_tag].steps))):
        found.note("derived", "steps are counted from 0: one more is finished at each record")
        for series in tags.values():
            series.steps = [step + 1 for step in series.steps]
    rate = _beside(tags, fields.find("lr", tags), "lr")
    norm = _beside(tags, fields.find("grad_norm", tags), "grad_norm")
    batch = _beside(tags, fields.find("batch_samples", tags), "batch_samples", whole=True)
    batch_tokens = _beside(tags, fields.find("batch_tokens", tags), "batch_tokens", whole=True)
    axes = [_axis(tags, "samples", found), _axis(tags, "tokens", found)]
    sets = list(fields.validations(tags))
    for tag, name in [(loss_tag, None), *sets]:
        if tag is None:
            continue
        kind = VALIDATION if len(sets) < 2 or not name else f"{VALIDATION}:{name}"
        frame = _frame(tags[tag], "loss").with_columns(
            _seconds(tags[tag]), loss_kind=pl.lit(_train_kind(tag, tags) if name is None else kind)
        )
        for other in (rate, norm, batch, batch_tokens, *axes):
            if other is not None:
                frame = frame.join(other, on="step", how="left", maintain_order="left")
        table.append(as_table(frame))
    if not table:
        shown = ", ".join(sorted(tags)[:8]) or "no scalars"
        found.note("missing_field", f"no tag is known to be a loss; there are: {shown}")
    else:
        found.table = pl.concat(table).sort("line", maintain_order=True)
        if micro:
            _finished_steps(tags, found)
    found.runs = [RunMeta(run="", extra={"tags": sorted(tags)[:100]} if tags else {})]
    return found


def _train_kind(tag: str, tags: dict[str, Series]) -> str:
    """Our own writer and HF log interval means; Megatron, torchtitan and others one step."""
    own = f"{tag} vs tokens" in tags
    return INTERVAL_MEAN if own or tag == "train/loss" else INSTANTANEOUS


def _frame(series: Series, value: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"step": series.steps, value: series.values, "line": series.records},
        schema={"step": pl.Int64, value: pl.Float64, "line": pl.Int64},
    )


def _seconds(series: Series) -> pl.Series:
    """Time since the record before; unknown for the first, since only records carry a time."""
    passed = np.diff(np.array(series.times), prepend=np.nan)
    passed[~(passed >= 0) | ~np.isfinite(passed)] = np.nan
    return pl.Series("seconds", passed, nan_to_null=True)


def _beside(
    tags: dict[str, Series], tag: str | None, value: str, whole: bool = False
) -> pl.DataFrame | None:
    """Values to look up by step; the last of a step counts."""
    if tag is None:
        return None
    frame = _frame(tags[tag], value).drop("line").unique("step", keep="last")
    return frame.with_columns(_whole(pl.col(value)).alias(value)) if whole else frame


def _whole(value: pl.Expr) -> pl.Expr:
    """A float32 as an integer where it surely is one."""
    exact = (value == value.round()) & (value.abs() <= _FLOAT32_EXACT)
    return pl.when(exact).then(value).cast(pl.Int64, strict=False)


def _axis(tags: dict[str, Series], unit: str, found: FileRead) -> pl.DataFrame | None:
    """Step -> consumed samples or tokens, from `TAG vs UNIT` twins or from a tag of its own."""
    for tag, series in tags.items():
        twin = tags.get(f"{tag} vs {unit}")
        if twin is None:
            continue
        pairs = list(zip(series.values, twin.values, strict=False))
        together = all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)
        if together and abs(len(series.values) - len(twin.values)) <= 1:
            frame = pl.DataFrame(
                {"step": series.steps[: len(pairs)], unit: twin.steps[: len(pairs)]},
                schema={"step": pl.Int64, unit: pl.Int64},
            )
            return frame.unique("step", keep="last")
    own = fields.find(unit, tags)
    if own == RANK_TOKENS and _are_per_rank(tags):
        found.note("derived", f"tokens are {ALL_TOKENS}: {RANK_TOKENS} are those of one rank")
        own = ALL_TOKENS
    if own is None:
        return None
    frame = _frame(tags[own], unit).drop("line").unique("step", keep="last").sort("step")
    return _exact_axis(frame, own, unit, found)


def _counts_micro_batches(tags: dict[str, Series]) -> bool:
    """Whether the records stand at micro-batches, counted from 0, that litgpt counts from 1."""
    series = tags.get(MICRO_BATCHES)
    if series is None or "step" not in tags:
        return False
    shown = np.array(series.values, dtype=np.float32)
    return bool((shown == np.array(series.steps, dtype=np.float64).astype(np.float32) + 1).all())


def _finished_steps(tags: dict[str, Series], found: FileRead) -> None:
    """Put the optimizer steps in the place of micro-batches; empty where none is logged."""
    finished = _beside(tags, "step", "finished", whole=True)
    if finished is not None:
        table = found.table.join(finished, on="step", how="left", maintain_order="left")
        found.table = table.with_columns(step="finished").drop("finished")


def _are_per_rank(tags: dict[str, Series]) -> bool:
    """Whether the tokens of one rank stand beside those of all, rounded as both are."""
    if ALL_TOKENS not in tags:
        return False
    parts, wholes = (_frame(tags[tag], tag).drop("line") for tag in (RANK_TOKENS, ALL_TOKENS))
    both = parts.unique("step").join(wholes.unique("step"), on="step")
    pairs = both.filter((pl.col(RANK_TOKENS) > 0) & pl.col(ALL_TOKENS).is_finite())
    ratio = (pairs[ALL_TOKENS] / pairs[RANK_TOKENS]).to_numpy()
    if not len(ratio) or (len(ratio) > 1 and pairs[ALL_TOKENS].n_unique() == 1):
        return False
    ranks = round(float(ratio[0]))
    return ranks >= 1 and bool((np.abs(ratio / ranks - 1) < 1e-6).all())


def _exact_axis(frame: pl.DataFrame, tag: str, unit: str, found: FileRead) -> pl.DataFrame:
    """Undo the rounding of a count that was stored as float32, where only one count fits."""
    finite = frame.filter(pl.col(unit).is_finite() & (pl.col("step") > 0))
    large = finite.filter(pl.col(unit).abs() > _FLOAT32_EXACT)
    if large.is_empty() or finite.filter(pl.col("step") > 2**40).height:
        return frame.with_columns(_whole(pl.col(unit)).alias(unit))
    small = finite.filter(pl.col(unit).abs() <= _FLOAT32_EXACT)
    anchor = small.tail(1) if small.height else large.tail(1)
    per_step = round(anchor[unit][0] / anchor["step"][0])
    steps = finite["step"].to_numpy().astype(np.float64)
    same = (steps * per_step).astype(np.float32) == finite[unit].to_numpy().astype(np.float32)
    if per_step > 0 and same.all() and steps.max() * per_step < 2**53:
        found.note("derived", f"{unit}: {tag} is stored as float32; it is {per_step:,} x step")
        return finite.select("step", (pl.col("step") * per_step).alias(unit))
    found.note(
        "missing_field",
        f"{tag} is stored as float32, which is not exact beyond 16.8 million: left empty there",
    )
    return frame.with_columns(_whole(pl.col(unit)).alias(unit))


def scalars_of(data: bytes, found: FileRead) -> dict[str, Series]:
    """Return every scalar of an event file, by tag; damaged records are reported in `found`."""
    tags: dict[str, Series] = {}
    for number, event in _records(data, found):
        try:
            step, time, values = _event(event)
        except (ValueError, IndexError, struct.error, OverflowError):
            found.reject(number, "an event that is no protocol buffer")
            continue
        for tag, value in values:
            series = tags.setdefault(tag, Series())
            series.steps.append(step)
            series.values.append(value)
            series.records.append(number)
            series.times.append(time)
    return tags


def _records(data: bytes, found: FileRead) -> Iterator[tuple[int, bytes]]:
    """Every record whose checksums are right, numbered from 1."""
    starts: list[int] = []
    lengths: list[int] = []
    checks: list[int] = []
    position, size = 0, len(data)
    while position + 12 <= size:
        length, header_check = _HEADER.unpack_from(data, position)
        if position + 16 + length > size:
            break
        starts.append(position)
        lengths.append(length)
        checks.append(header_check)
        position += 16 + length
    buffer = np.frombuffer(data, dtype=np.uint8)
    begin = np.array(starts, dtype=np.int64)
    sizes = np.array(lengths, dtype=np.int64)
    headers = masked_crc32c(buffer, begin, np.full(len(begin), 8))
    wrong = np.flatnonzero(headers != np.array(checks, dtype=np.uint32))
    count = int(wrong[0]) if len(wrong) else len(begin)
    damaged = len(wrong) > 0
    if not damaged and position < size:  # is it a length that lies, or a file that ends?
        rest = buffer[position : position + 12]
        whole = len(rest) == 12
        damaged = whole and int(masked_crc32c(rest, np.array([0]), np.array([8]))[0]) != int(
            rest[8:].view("<u4")[0]
        )
        if not damaged:
            found.note("torn", "the last record was cut off while it was written", count + 1)
    if damaged:
        at = starts[count] if count < len(starts) else position
        found.reject(count + 1, "a record with a wrong checksum of its length")
        found.note("damaged", f"nothing beyond byte {at:,} of {size:,} can be read", count + 1)
    bodies = masked_crc32c(buffer, begin[:count] + 12, sizes[:count])
    for index in range(count):
        start = starts[index] + 12
        end = start + lengths[index]
        if int(bodies[index]) != int.from_bytes(data[end : end + 4], "little"):
            found.reject(index + 1, "a record with a wrong checksum")
            continue
        yield index + 1, data[start:end]


def _event(event: bytes) -> tuple[int, float, list[tuple[str, float]]]:
    """Step, time (seconds since 1970) and scalars of an event."""
    step, time, values = 0, math.nan, []
    for number, value in _message(event):
        if number == 1 and isinstance(value, bytes) and len(value) == 8:
            time = struct.unpack("<d", value)[0]
        if number == 2 and isinstance(value, int):
            step = value - 2**64 if value >= 2**63 else value
        elif number == 5 and isinstance(value, bytes):
            for inner, scalar in _message(value):
                if inner == 1 and isinstance(scalar, bytes):
                    pair = _scalar(scalar)
                    if pair is not None:
                        values.append(pair)
    return step, time, values


def _scalar(message: bytes) -> tuple[str, float] | None:
    tag, value = None, None
    for number, content in _message(message):
        if number == 1 and isinstance(content, bytes):
            tag = content.decode("utf-8", "replace")
        elif number == 2 and isinstance(content, bytes) and len(content) == 4:
            value = struct.unpack("<f", content)[0]
        elif number == 8 and isinstance(content, bytes):
            value = _tensor(content)
    return None if tag is None or value is None else (tag, value)


def _tensor(message: bytes) -> float | None:
    """The one number of a scalar tensor of float, double or an integer type."""
    kinds = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}
    kind, number = 0, None
    for key, content in _message(message):
        if key == 1 and isinstance(content, int):
            kind = content
        elif key == 4 and isinstance(content, bytes) and kind in kinds:
            if len(content) == np.dtype(kinds[kind]).itemsize:
                number = float(np.frombuffer(content, dtype=kinds[kind])[0])
        elif key == 5 and isinstance(content, bytes) and len(content) == 4:
            number = struct.unpack("<f", content)[0]
        elif key == 6 and isinstance(content, bytes) and len(content) == 8:
            number = struct.unpack("<d", content)[0]
        elif key in (7, 10):
            number = exact_int(content) if isinstance(content, int) else None
    return None if number is None else float(number)


def _message(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and contents of a protocol buffer: ints, or bytes of what has a length."""
    position, size = 0, len(data)
    while position < size:
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > size:
            raise ValueError("a field that is longer than its message")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")
