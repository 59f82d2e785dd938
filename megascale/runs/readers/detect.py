"""Which format a log is in, by what its beginning and its end look like."""

from __future__ import annotations

from typing import Protocol

from megascale.errors import DataError
from megascale.runs.readers import (
    composer,
    csv,
    fairseq,
    golden,
    hf,
    hf_stdout,
    jsonl,
    karpathy,
    key_values,
    levanter,
    litgpt,
    maxtext,
    megatron,
    mlperf,
    nanochat,
    nanogpt,
    nanotron,
    nemo,
    olmo,
    own,
    tensorboard,
    torchtitan,
    wandb,
)
from megascale.runs.readers.base import FileRead, ReadOptions, Source


class Reader(Protocol):
    """What knows one format: a module, or a format that is told by its patterns.

    Attributes:
        NAME: the format's name.
        ORDERED: the file was written as the run went, so a step that goes back is a restart.
    """

    @property
    def NAME(self) -> str: ...

    @property
    def ORDERED(self) -> bool: ...

    def sniff(self, head: bytes, path: str) -> bool:
        """Return whether the beginning (and the end) of a file are of this format."""

    def read(self, source: Source, options: ReadOptions) -> FileRead:
        """Return the rows and report of a file."""


_LISTED: tuple[Reader, ...] = (
    *(own, tensorboard, mlperf, hf, golden, wandb),
    *(nemo, megatron, nanotron, olmo, torchtitan, nanogpt, litgpt, nanochat),
    *(hf_stdout, levanter, composer, fairseq),
    *(*karpathy.FORMATS, *maxtext.FORMATS, *key_values.FORMATS),
    *(jsonl, csv),
)

READERS: dict[str, Reader] = {reader.NAME: reader for reader in _LISTED}
"""By name, in the order in which they are asked: the surest signs first."""

_HEAD_BYTES = 2**19
_TAIL_BYTES = 2**16


def tabular_reader_of(data: bytes) -> Reader | None:
    """Return the reader of a table whose columns the user names, by its form; None for no table."""
    start = data.lstrip()[:1]
    if start == b"{":
        return jsonl if jsonl.is_lines(data) else wandb
    if start == b"[":
        return wandb
    return csv if csv.column_names(data) else None


def reader_of(data: bytes, path: str, forced: str | None = None) -> Reader | None:
    """Return the reader for a file; None when no reader knows it.

    Args:
        data: decompressed content.
        path: its name, for messages.
        forced: a format that the user names.

    Raises:
        DataError: there is no format of that name.
    """
    if forced is not None:
        if forced not in READERS:
            raise DataError.of("format", forced, "no such format", list(READERS))
        return READERS[forced]
    head = data[:_HEAD_BYTES]
    if len(data) > _HEAD_BYTES:
        head += b"\n" + data[max(_HEAD_BYTES, len(data) - _TAIL_BYTES) :]
    for reader in READERS.values():
        if reader.sniff(head, path):
            return reader
    return None
