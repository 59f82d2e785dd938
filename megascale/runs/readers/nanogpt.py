"""modded-nanogpt and llm.c logs: one `step:` or `s:` record a line, after the run's own source."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megascale.runs.readers.base import (
    INSTANTANEOUS,
    VALIDATION,
    Clock,
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
    r"^(?:step|s):(?P<step>\d+)(?:/(?P<total>\d+))?\s+(?P<kind>val_loss|train_loss|tel|trl):(?P<loss>\S+)"
    r"(?:\s+lr:(?P<lr>\S+))?(?:\s+norm:(?P<norm>\S+))?(?P<end>(?:.*?train_time:(?P<ms>[\d.]+)ms)?.*)"
)
_SNIFF = re.compile(
    rb"^(?:step:\d+/\d+ (?:val_loss|train_loss|train_time):|s:\d+ (?:tel|trl):)", re.MULTILINE
)


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(head) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read training and validation losses. The batch stands in the source, not in the records.

    `s:` lines number the steps from 0: a training loss is printed after the step of that number, an
    evaluation before it. `step:` lines count finished steps.
    """
    found = FileRead(source.path, NAME)
    clock = Clock()

    def rows(match: re.Match[str]) -> Iterator[Row]:
        kind = VALIDATION if match["kind"] in ("val_loss", "tel") else INSTANTANEOUS
        elapsed = real(match["ms"])
        step = exact_int(match["step"])
        yield {
            "step": step + 1 if step is not None and match["kind"] == "trl" else step,
            "total": exact_int(match["total"]),
            "loss": match["loss"],
            "lr": real(match["lr"]),
            "grad_norm": real(match["norm"]),
            "seconds": clock.since(kind, None if elapsed is None else elapsed / 1000),
            "loss_kind": kind,
        }

    scan(source, found, b":", _LINE, rows)
    if options.batch_tokens is None and options.batch_samples is None:
        found.note("missing_field", "the log does not state the batch, so no tokens")
    found.runs = [RunMeta(run="")]
    return found
