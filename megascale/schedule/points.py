"""Requested batch sizes and the text they are written in: `0: 2M, 125B: 4M, 250B: 5M`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from megascale.errors import ScheduleError
from megascale.units import CountError, format_count, read_count

GRAMMAR = (
    "must be START: BATCH pairs in tokens, such as `0: 2M, 125B: 4M` (`4M @ 8192` sets the "
    "sequence length too)"
)


@dataclass(frozen=True, slots=True)
class BatchPoint:
    """From `start_tokens` consumed tokens on, a step should consume `batch_tokens` tokens.

    `sequence_length` (tokens) is None where the run's own sequence length holds.
    """

    start_tokens: int
    batch_tokens: int
    sequence_length: int | None = None


def parse_table(table: object, key: str = "batch.schedule") -> tuple[BatchPoint, ...]:
    """Read a batch table from its text or from a mapping {start: batch}.

    Args:
        table: `"0: 2M, 125B: 4M @ 8192"`, or a mapping with the same starts and sizes.
        key: config key, for messages.

    Raises:
        ScheduleError: not this grammar, a count that is not whole, or a start given twice.
    """
    if isinstance(table, tuple) and all(isinstance(point, BatchPoint) for point in table):
        points = list(table)
    elif isinstance(table, str):
        points = [_parse_entry(*_split(entry, table, key), key) for entry in _entries(table)]
    elif isinstance(table, Mapping):
        points = [_parse_entry(start, size, key) for start, size in table.items()]
    else:
        raise ScheduleError.of(key, table, GRAMMAR)
    if not points:
        raise ScheduleError.of(key, table, GRAMMAR)
    seen: set[int] = set()
    for point in points:
        if point.start_tokens in seen:
            raise ScheduleError.of(
                key, format_count(point.start_tokens), "this start is given more than once"
            )
        seen.add(point.start_tokens)
    return tuple(points)


def format_table(points: Iterable[BatchPoint]) -> str:
    """The text that `parse_table` reads back to the same points."""
    entries = []
    for point in points:
        entry = f"{format_count(point.start_tokens)}: {format_count(point.batch_tokens)}"
        if point.sequence_length is not None:
            entry += f" @ {format_count(point.sequence_length)}"
        entries.append(entry)
    return ", ".join(entries)


def _entries(text: str) -> list[str]:
    return [entry for entry in text.split(",") if entry.strip()]


def _split(entry: str, text: str, key: str) -> tuple[str, str]:
    start, colon, size = entry.partition(":")
    if not colon:
        raise ScheduleError.of(key, text, f"{GRAMMAR}; `{entry.strip()}` has no colon")
    return start, size


def _parse_entry(start: object, size: object, key: str) -> BatchPoint:
    sequence = None
    if isinstance(size, str):
        size, at, sequence_text = size.partition("@")
        if at:
            sequence = _positive(sequence_text, f"{key} (sequence length at {start})")
    return BatchPoint(
        start_tokens=_count(start, f"{key} (start)"),
        batch_tokens=_positive(size, f"{key} (batch at {start})"),
        sequence_length=sequence,
    )


def _count(value: object, key: str) -> int:
    try:
        return read_count(value)
    except CountError as error:
        raise ScheduleError.of(key, value, error.rule, error.nearest) from None


def _positive(value: object, key: str) -> int:
    count = _count(value, key)
    if count == 0:
        raise ScheduleError.of(key, value, "must be at least one token")
    return count


def point_problems(
    points: Iterable[BatchPoint], total_tokens: int, key: str = "batch.schedule"
) -> list[ScheduleError]:
    """What is wrong with a table before any layout is known: order and budget.

    Args:
        points: in the order given.
        total_tokens: the run's budget.
        key: config key, for messages.
    """
    problems: list[ScheduleError] = []

    def refuse(point: BatchPoint, rule: str, nearest: object) -> None:
        problems.append(ScheduleError.of(key, format_table([point]), rule, nearest))

    previous = -1
    for index, point in enumerate(points):
        start = point.start_tokens
        if index == 0 and start != 0:
            refuse(point, "the first batch must start at 0 tokens", 0)
        elif start <= previous:
            refuse(
                point,
                f"starts must increase: the one before is {format_count(previous)}",
                f"a start of {format_count(previous + 1)} or more",
            )
        if start >= total_tokens:
            refuse(
                point,
                f"starts at or after the end of the run, {format_count(total_tokens)} tokens",
                f"a start of {format_count(total_tokens - 1)} or less",
            )
        if point.batch_tokens > total_tokens:
            refuse(
                point,
                f"one batch is larger than the run of {format_count(total_tokens)} tokens",
                format_count(total_tokens),
            )
        previous = max(previous, start)
    return problems
