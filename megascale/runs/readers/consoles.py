"""Console logs of one record a line: what their readers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from megascale.runs.readers.base import (
    FileRead,
    ReadOptions,
    Source,
    real,
    rows_table,
)
from megascale.runs.readers.opening import ends_torn

_STAMP = re.compile(
    r"(?:(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)|(?P<us>\d\d/\d\d/\d{4}))[T ]"
    r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d(?:[.,]\d+)?)"
)
_STAMP_BEFORE = 100
"""Characters of a line in which its time stands."""
_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")

Row = dict[str, Any]
MakeRows = Callable[[re.Match[str]], Iterator[Row]]


def without_colours(data: bytes) -> bytes:
    """Return the log without terminal colours."""
    return _ANSI.sub(b"", data) if b"\x1b[" in data else data


def stamp_of(line: str) -> float | None:
    """Return the seconds of the time at a line's beginning, in its own time zone; None where it has
    none.
    """
    found = _STAMP.search(line[:_STAMP_BEFORE])
    if found is None:
        return None
    month, day, year = (int(part) for part in (found["us"] or "0/0/0").split("/"))
    if found["us"] is None:
        year, month, day = (int(found[name]) for name in ("year", "month", "day"))
    hour, minute = int(found["hour"]), int(found["minute"])
    try:
        begun = datetime(year, month, day, hour, minute, tzinfo=UTC)
    except ValueError:
        return None
    return begun.timestamp() + float(found["second"].replace(",", "."))


class StampClock:
    """Wall clock between the rows of each kind of loss, from the times of their lines.

    A step that several processes print keeps the time since the step before.
    """

    def __init__(self) -> None:
        self._rows: dict[Any, tuple[Any, float | None, float | None]] = {}

    def since(self, kind: Any, step: Any, stamp: float | None) -> float | None:
        """Return the seconds since the step before of this kind; None for its first, or without a
        time.
        """
        if stamp is None:
            return None
        last_step, last_stamp, before = self._rows.get(kind, (None, None, None))
        if step != last_step:
            before = last_stamp
        self._rows[kind] = (step, stamp, before)
        return stamp - before if before is not None and stamp >= before else None


def scan(
    source: Source, found: FileRead, literal: bytes, pattern: re.Pattern[str], make: MakeRows
) -> None:
    """Rows of every line that holds `literal`.

    Lines with the literal that do not match are reported, the torn last one as such; `make` gives
    a row's values as text or numbers, and a row whose `loss` is no finite number is left out and
    counted. Where the lines begin with a time and `make` gives no `seconds`, these follow from it.
    """
    data = without_colours(source.data)
    torn = data.count(b"\n") + 1 if ends_torn(data) else 0
    rows: list[Row] = []
    nonfinite: list[int] = []
    clock = StampClock()
    for number, line in enumerate(data.split(b"\n"), start=1):
        if literal not in line:
            continue
        match = pattern.search(line.decode("utf-8", "replace"))
        if match is None:
            continue
        cut = number == torn and match.end() >= len(match.string.rstrip("\r"))
        if cut:
            found.note("torn", "the last line was cut off while it was written", number)
            continue
        stamp = stamp_of(match.string)
        for row in make(match):
            if "seconds" not in row:
                row["seconds"] = clock.since(row.get("loss_kind"), row.get("step"), stamp)
            if row.get("step") is None:
                found.reject(number, "no step")
            elif (loss := real(row.get("loss"))) is None:
                if _is_nonfinite(row.get("loss")):
                    nonfinite.append(number)
                else:
                    found.reject(number, f"no loss in {str(row.get('loss'))[:40]!r}")
            else:
                rows.append({**row, "loss": loss, "line": number})
    if nonfinite:
        found.note("nonfinite_loss", f"{len(nonfinite)} losses are not finite", nonfinite[0])
    found.table = rows_table(rows)


def _is_nonfinite(value: Any) -> bool:
    return str(value).strip().lower().lstrip("+-") in ("nan", "inf", "infinity")


def constant_batch(
    found: FileRead,
    options: ReadOptions,
    *,
    batch_samples: int | None = None,
    batch_tokens: int | None = None,
) -> ReadOptions:
    """Return the options with the batch that the log states once for the whole run."""
    if options.batch_samples is not None or options.batch_tokens is not None:
        return options
    if batch_samples is not None:
        found.note("derived", f"samples are steps x the global batch of {batch_samples:,} samples")
    elif batch_tokens is not None:
        found.note("derived", f"tokens are steps x the global batch of {batch_tokens:,} tokens")
    return replace(options, batch_samples=batch_samples, batch_tokens=batch_tokens)
