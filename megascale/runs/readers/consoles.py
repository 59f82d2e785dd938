"""Console logs of one record a line: what their readers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from megascale.runs.readers.base import (
    VALIDATION,
    FileRead,
    Source,
    real,
    rows_table,
)
from megascale.runs.readers.launches import (
    STEPS,
    Launch,
    Patterns,
    find_launches,
    launches_of,
)
from megascale.runs.readers.opening import ends_torn
from megascale.runs.readers.separation import abandoned, label, runs_of

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
    source: Source,
    found: FileRead,
    literal: bytes,
    pattern: re.Pattern[str],
    make: MakeRows,
    facts: Patterns = (),
) -> list[Launch]:
    """Return the rows of every line that holds `literal`, those of each run in the file under its
    name.

    Lines with the literal that do not match are reported, the torn last one as such; `make` gives
    a row's values as text or numbers, and a row whose `loss` is no finite number is left out and
    counted. Where the lines begin with a time and `make` gives no `seconds`, these follow from it.
    A row may give the `total` of planned steps, which tells runs apart that one file holds.

    Args:
        source, found: the log, and what it gives.
        literal, pattern, make: of the record lines.
        facts: what a launch states, see `find_launches`.

    Returns:
        The launches that state any of `facts`.
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
    launches = find_launches(data, facts, [row["line"] for row in rows])
    found.table = rows_table(separated(rows, launches, found))
    return launches


def separated(rows: list[Row], launches: Sequence[Launch], found: FileRead) -> list[Row]:
    """Return the rows that count, each with its run where the log holds several."""
    train = [row for row in rows if not str(row.get("loss_kind")).startswith(VALIDATION)] or rows
    if not train:
        return rows
    steps, lines, totals = (
        np.array([row.get(name) or 0 for row in train], dtype=np.int64)
        for name in ("step", "line", "total")
    )
    runs = runs_of(steps, lines, totals, launches)
    every = np.array([row["line"] for row in rows], dtype=np.int64)
    # A validation is of the run that trained last.
    owner = runs[np.maximum(np.searchsorted(lines, every, side="right") - 1, 0)]
    gone = abandoned(
        np.array([row["step"] for row in rows], dtype=np.int64), every, owner, launches
    )
    found.superseded += int(gone.sum())
    for run in range(int(runs.max()) + 1):
        shown = totals[runs == run][-1] if totals.any() else 0
        told = launches_of(launches, lines[runs == run])
        total = int(shown) or (told[-1].get(STEPS) if told else None)
        if total:
            found.totals[label(run) if runs.any() else ""] = total
    if runs.any():
        found.note("separate_runs", separate_note(int(runs.max()) + 1), int(lines[runs > 0][0]))
        rows = [row | {"run": label(run)} for row, run in zip(rows, owner.tolist(), strict=True)]
    return [row for row, left in zip(rows, gone.tolist(), strict=True) if not left]


def separate_note(count: int) -> str:
    """Return what is said of a log that holds several runs."""
    return f"the log holds {count} runs: another begins here, and is no restart of the first"


def _is_nonfinite(value: Any) -> bool:
    return str(value).strip().lower().lstrip("+-") in ("nan", "inf", "infinity")
