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
from megascale.runs.readers.consoles import Row, metas_of, plain, scan
from megascale.runs.readers.launches import Launch
from megascale.runs.readers.spans import count_by_launch

NAME = "torchtitan"
ORDERED = True

_LINE = re.compile(
    r"(?P<validate>validate )?step:\s*(?P<step>[\d,]+)\s+(?:global_avg_)?loss:\s*(?P<loss>\S+)"
    r"(?:\s+(?:grad_norm):\s*(?P<norm>\S+))?"
)
_SNIFF = re.compile(rb"step:\s*[\d,]+\s+loss:\s*\S+\s+(?:grad_norm|memory):")
_FACTS = {
    "batch_samples": re.compile(rb"global batch size:? (\d+)"),
    "seq_length": re.compile(rb"sequence length:? (\d+)"),
    "total_steps": re.compile(rb"total steps:? (\d+)"),
    "n_params": re.compile(rb"size: ([\d,]+) total parameters"),
    "resumed": re.compile(rb"Loading the checkpoint from \S*?step-(\d+)"),
}


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(plain(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read training and validation steps; batch, length and size from each launch's own lines."""
    found = FileRead(source.path, NAME)
    launches = scan(source, found, b"step:", _LINE, _rows, _FACTS)
    found.runs = metas_of(found, launches, _planned)
    count_by_launch(found, options, launches)
    return found


def _planned(launch: Launch) -> int | None:
    steps, batch, seq = (
        launch.get(name) for name in ("total_steps", "batch_samples", "seq_length")
    )
    return steps * batch * seq if steps and batch and seq else None


def _rows(match: re.Match[str]) -> Iterator[Row]:
    yield {
        "step": exact_int(match["step"]),
        "loss": match["loss"],
        "grad_norm": real(match["norm"]),
        "loss_kind": VALIDATION if match["validate"] else INSTANTANEOUS,
    }
