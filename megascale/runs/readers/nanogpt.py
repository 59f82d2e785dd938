"""modded-nanogpt and llm.c logs: one `step:` or `s:` record a line, after the run's own source."""

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
    real,
)
from megascale.runs.readers.consoles import Row, scan

NAME = "nanogpt"
ORDERED = True

_LINE = re.compile(
    r"^(?:step|s):(?P<step>\d+)(?:/\d+)?\s+(?P<kind>val_loss|train_loss|tel|trl):(?P<loss>\S+)"
    r"(?:\s+lr:(?P<lr>\S+))?(?:\s+norm:(?P<norm>\S+))?(?P<end>.*)"
)
_SNIFF = re.compile(
    rb"^(?:step:\d+/\d+ (?:val_loss|train_loss|train_time):|s:\d+ (?:tel|trl):)", re.MULTILINE
)


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(head) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read training and validation losses. The batch stands in the source, not in the records."""
    found = FileRead(source.path, NAME)
    scan(source, found, b":", _LINE, _rows)
    if options.batch_tokens is None and options.batch_samples is None:
        found.note("missing_field", "the log does not state the batch, so no tokens")
    found.runs = [RunMeta(run="")]
    return found


def _rows(match: re.Match[str]) -> Iterator[Row]:
    validation = match["kind"] in ("val_loss", "tel")
    yield {
        "step": exact_int(match["step"]),
        "loss": match["loss"],
        "lr": real(match["lr"]),
        "grad_norm": real(match["norm"]),
        "loss_kind": VALIDATION if validation else INSTANTANEOUS,
    }
