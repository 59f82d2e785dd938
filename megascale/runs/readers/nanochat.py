"""nanochat's console log. Its loss is an exponential moving average of one rank's micro-batches."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megascale.runs.readers.base import (
    EMA,
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

NAME = "nanochat"
ORDERED = True

_LINE = re.compile(
    r"step (?P<step>\d+)/\d+ \([\d.]+%\) \| loss: (?P<loss>\S+) \|"
    r"(?:.*?grad norm: (?P<norm>[^ |]+))?(?:.*?\| dt: (?P<ms>[\d.,]+)ms)?"
)
_SNIFF = re.compile(rb"step \d+/\d+ \([\d.]+%\) \| loss: ")
_BATCH = re.compile(rb"[Tt]otal batch size:? ([\d,]+)")
_PARAMETERS = re.compile(rb"Number of parameters: ([\d,]+)")


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the training lines; validation is in bits per byte, which is no loss per token."""
    found = FileRead(source.path, NAME)
    scan(source, found, b"| loss:", _LINE, _rows)
    head = without_colours(source.data[: 4 * 2**20])
    size, batch = _PARAMETERS.search(head), _BATCH.search(head)
    tokens = positive(batch[1].decode()) if batch else None
    if tokens is None and options.batch_tokens is None and options.batch_samples is None:
        found.note("missing_field", "the log does not state the batch, so no tokens")
    found.runs = [RunMeta(run="", n_params=positive(size[1].decode()) if size else None)]
    return filled(found, constant_batch(found, options, batch_tokens=tokens))


def _rows(match: re.Match[str]) -> Iterator[Row]:
    ms = real(match["ms"])  # every step has its line
    yield {
        "step": exact_int(match["step"]),
        "loss": match["loss"],
        "grad_norm": real(match["norm"]),
        "seconds": None if ms is None else ms / 1000,
        "loss_kind": EMA,
    }
