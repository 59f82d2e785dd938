"""litgpt's console log."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megascale.runs.readers.base import (
    INSTANTANEOUS,
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
)
from megascale.runs.readers.consoles import Row, scan, without_colours

NAME = "litgpt"
ORDERED = True

_LINE = re.compile(
    r"Epoch \d+ \| iter \d+ step (?P<step>\d+) \| loss train: (?P<train>[^,]+), "
    r"|iter \d+: val loss (?P<val>[^\s,]+), "
)
_SNIFF = re.compile(rb"Epoch \d+ \| iter \d+ step \d+ \| loss train: ")


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the losses of the last iteration shown of every step."""
    found = FileRead(source.path, NAME)
    step: int | None = None

    def rows(match: re.Match[str]) -> Iterator[Row]:
        nonlocal step
        if match["val"] is not None:  # validated after the step shown last
            yield {"step": step or 0, "loss": match["val"], "loss_kind": VALIDATION}
            return
        step = exact_int(match["step"])
        if match["train"] != "n/a":
            yield {"step": step, "loss": match["train"], "loss_kind": INSTANTANEOUS}

    scan(source, found, b"loss", _LINE, rows)
    if options.batch_tokens is None and options.batch_samples is None:
        found.note("missing_field", "the log does not state the batch, so no tokens")
    found.runs = [RunMeta(run="")]
    return found
