"""torchtitan's console log. Its loss is that of the logged step alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megascale.runs.readers.base import (
    INSTANTANEOUS,
    VALIDATION,
    FileRead,
    ReadOptions,
    Source,
    exact_int,
    real,
)
from megascale.runs.readers.consoles import Row, scan, without_colours
from megascale.runs.readers.launches import (
    BATCH_SAMPLES,
    N_PARAMS,
    RESUMED,
    SEQ_LENGTH,
    STEPS,
)
from megascale.runs.readers.stated import with_statements

NAME = "torchtitan"
ORDERED = True

_LINE = re.compile(
    r"(?P<validate>validate )?step:\s*(?P<step>[\d,]+)\s+(?:global_avg_)?loss:\s*(?P<loss>\S+)"
    r"(?:\s+(?:grad_norm):\s*(?P<norm>\S+))?"
)
_SNIFF = re.compile(rb"step:\s*[\d,]+\s+loss:\s*\S+\s+(?:grad_norm|memory):")
_STATES = (
    (BATCH_SAMPLES, re.compile(rb"global batch size:? (\d+)")),
    (SEQ_LENGTH, re.compile(rb"sequence length:? (\d+)")),
    (STEPS, re.compile(rb"total steps:? (\d+)")),
    (N_PARAMS, re.compile(rb"size: ([\d,]+) total parameters")),
    (RESUMED, re.compile(rb"Loading the checkpoint from \S*?step-(\d+)")),
)


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read training and validation steps; batch, length and size from each launch's own lines."""
    found = FileRead(source.path, NAME)
    launches = scan(source, found, b"step:", _LINE, _rows, _STATES)
    return with_statements(found, options, launches)


def _rows(match: re.Match[str]) -> Iterator[Row]:
    yield {
        "step": exact_int(match["step"]),
        "loss": match["loss"],
        "grad_norm": real(match["norm"]),
        "loss_kind": VALIDATION if match["validate"] else INSTANTANEOUS,
    }
