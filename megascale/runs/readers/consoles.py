"""Console logs of one record a line: what their readers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from megascale.runs.readers.base import FileRead, ReadOptions, Source, real, rows_table
from megascale.runs.readers.opening import ends_torn

_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")

Row = dict[str, Any]
MakeRows = Callable[[re.Match[str]], Iterator[Row]]


def plain(data: bytes) -> bytes:
    """The log without terminal colours."""
    return _ANSI.sub(b"", data) if b"\x1b[" in data else data


def scan(
    source: Source, found: FileRead, literal: bytes, pattern: re.Pattern[str], make: MakeRows
) -> None:
    """Rows of every line that holds `literal`.

    Lines with the literal that do not match are reported, the torn last one as such; `make` gives
    a row's values as text or numbers, and a row whose `loss` is no finite number is left out and
    counted.
    """
    data = plain(source.data)
    torn = data.count(b"\n") + 1 if ends_torn(data) else 0
    rows: list[Row] = []
    nonfinite: list[int] = []
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
        for row in make(match):
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
    """The options with the batch that the log states once for the whole run."""
    if options.batch_samples is not None or options.batch_tokens is not None:
        return options
    if batch_samples is not None:
        found.note("derived", f"samples are steps x the global batch of {batch_samples:,} samples")
    elif batch_tokens is not None:
        found.note("derived", f"tokens are steps x the global batch of {batch_tokens:,} tokens")
    return replace(options, batch_samples=batch_samples, batch_tokens=batch_tokens)
