"""Which format a log is in, by what its beginning and its end look like."""

from __future__ import annotations

from types import ModuleType

from megascale.errors import DataError
from megascale.runs.readers import (
    csv,
    golden,
    hf,
    jsonl,
    litgpt,
    megatron,
    mlperf,
    nanochat,
    nanogpt,
    nanotron,
    olmo,
    own,
    tensorboard,
    torchtitan,
    wandb,
)

READERS: dict[str, ModuleType] = {
    reader.NAME: reader
    for reader in (
        *(own, tensorboard, mlperf, hf, golden, wandb),
        *(megatron, nanotron, olmo, torchtitan, nanogpt, litgpt, nanochat),
        *(jsonl, csv),
    )
}
"""By name, in the order in which they are asked: the surest signs first.

Every reader has `NAME`, `ORDERED` (the file was written as the run went, so a step that goes back
is a restart), `sniff(head, path) -> bool` and `read(source, options) -> FileRead`.
"""

_HEAD_BYTES = 2**19
_TAIL_BYTES = 2**16


def table_of(data: bytes) -> ModuleType | None:
    """The reader of a table whose columns the user names, by its form alone; None for no table."""
    start = data.lstrip()[:1]
    if start == b"{":
        return jsonl if jsonl.is_lines(data) else wandb
    if start == b"[":
        return wandb
    return csv if csv.header_of(data) else None


def reader_of(data: bytes, path: str, forced: str | None = None) -> ModuleType | None:
    """The reader for a file; None when no reader knows it.

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
