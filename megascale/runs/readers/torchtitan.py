"""torchtitan's console log. Its loss is that of the logged step alone."""

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
    filled,
    positive,
    real,
)
from megascale.runs.readers.consoles import Row, constant_batch, scan, without_colours

NAME = "torchtitan"
ORDERED = True

_LINE = re.compile(
    r"(?P<validate>validate )?step:\s*(?P<step>[\d,]+)\s+(?:global_avg_)?loss:\s*(?P<loss>\S+)"
    r"(?:\s+(?:grad_norm):\s*(?P<norm>\S+))?"
)
_SNIFF = re.compile(rb"step:\s*[\d,]+\s+loss:\s*\S+\s+(?:grad_norm|memory):")
_BATCH = re.compile(rb"global batch size:? (\d+)")
_SEQUENCE = re.compile(rb"sequence length:? (\d+)")
_STEPS = re.compile(rb"total steps:? (\d+)")
_SIZE = re.compile(rb"size: ([\d,]+) total parameters")


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read training and validation steps; batch, length and size from the start-up lines."""
    found = FileRead(source.path, NAME)
    scan(source, found, b"step:", _LINE, _rows)
    head = without_colours(source.data[: 4 * 2**20])
    batch = _stated(_BATCH, head)
    seq = _stated(_SEQUENCE, head)
    steps = _stated(_STEPS, head)
    found.runs = [
        RunMeta(
            run="",
            n_params=_stated(_SIZE, head),
            d_tokens=steps * batch * seq if steps and batch and seq else None,
            seq_length=seq,
        )
    ]
    if batch is None and options.batch_samples is None and options.batch_tokens is None:
        found.note("missing_field", "the log does not state the global batch, so no tokens")
    return filled(found, constant_batch(found, options, batch_samples=batch))


def _rows(match: re.Match[str]) -> Iterator[Row]:
    yield {
        "step": exact_int(match["step"]),
        "loss": match["loss"],
        "grad_norm": real(match["norm"]),
        "loss_kind": VALIDATION if match["validate"] else INSTANTANEOUS,
    }


def _stated(pattern: re.Pattern[bytes], head: bytes) -> int | None:
    match = pattern.search(head)
    return positive(match[1].decode()) if match else None
