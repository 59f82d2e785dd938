"""nanochat's console log. Its loss is an exponential moving average of one rank's micro-batches."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megascale.runs.readers.base import (
    EMA,
    FileRead,
    ReadOptions,
    Source,
    exact_int,
    real,
)
from megascale.runs.readers.consoles import Row, scan, without_colours
from megascale.runs.readers.launches import BATCH_TOKENS, N_PARAMS
from megascale.runs.readers.stated import with_statements

NAME = "nanochat"
ORDERED = True

_LINE = re.compile(
    r"step (?P<step>\d+)/(?P<total>\d+) \([\d.]+%\) \| loss: (?P<loss>\S+) \|"
    r"(?:.*?grad norm: (?P<norm>[^ |]+))?(?:.*?\| dt: (?P<ms>[\d.,]+)ms)?"
)
_SNIFF = re.compile(rb"step \d+/\d+ \([\d.]+%\) \| loss: ")
_STATES = (
    (BATCH_TOKENS, re.compile(rb"[Tt]otal batch size:? ([\d,]+)")),
    (N_PARAMS, re.compile(rb"Number of parameters: ([\d,]+)")),
)


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the training lines; validation is in bits per byte, which is no loss per token.

    The program numbers its steps from 0 and prints after the step: one more is finished.
    """
    found = FileRead(source.path, NAME)
    launches = scan(source, found, b"| loss:", _LINE, _rows, _STATES)
    return with_statements(found, options, launches)


def _rows(match: re.Match[str]) -> Iterator[Row]:
    ms = real(match["ms"])  # every step has its line
    step = exact_int(match["step"])
    yield {
        "step": None if step is None else step + 1,
        "total": exact_int(match["total"]),
        "loss": match["loss"],
        "grad_norm": real(match["norm"]),
        "seconds": None if ms is None else ms / 1000,
        "loss_kind": EMA,
    }
