"""Write `.bin/.idx` pairs document by document; both appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from megascale.data.indexed import (
    DTYPES,
    HEADER,
    MAGIC,
    Sidecar,
    bin_path,
    idx_path,
    sidecar_path,
)
from megascale.data.journal import Written
from megascale.errors import DataError

UINT16_VOCAB_LIMIT = 65_500
MAX_DOCUMENT_TOKENS = 2**31 - 1
_BLOCK = 1 << 20


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 for vocabularies below 65,500, else int32: the rule of Megatron's own writer."""
    return np.dtype("<u2") if vocab_size < UINT16_VOCAB_LIMIT else np.dtype("<i4")


def partial_paths(prefix: str | Path) -> dict[str, Path]:
    """Files that hold an unfinished prefix, by what they become."""
    return {kind: Path(f"{prefix}.{kind}.partial") for kind in ("bin", "idx", "meta", "lengths")}


class IndexedWriter:
    """Streaming writer of one prefix, used as a context manager.

    Tokens go to `PREFIX.bin.partial`, lengths to a temporary file; on a clean exit the index is
    written and all files are renamed into place, the index last. On an error nothing remains.
    Memory does not grow with the number of documents.

    Raises:
        DataError: ids that the vocabulary cannot hold, nothing written, or the disk is full.
    """

    def __init__(
        self, prefix: str | Path, vocab_size: int, *, after: Written | None = None
    ) -> None:
        """Args:
        prefix: where to write, without suffix.
        vocab_size: of the tokenizer; chooses the dtype.
        after: go on with the partial files of a killed writer, cut to what it had written.
        """
        self.prefix = Path(prefix)
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self.tokens = 0 if after is None else after.tokens
        self.documents = 0 if after is None else after.documents
        self.max_token_id = -1 if after is None else after.max_token_id
        self._sha256 = hashlib.sha256()
        self._partials = partial_paths(prefix)
        try:
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._bin = self._partials["bin"].open("wb" if after is None else "r+b")
            self._lengths = self._partials["lengths"].open("w+b" if after is None else "r+b")
            if after is not None:
                self._go_on()
        except OSError as failure:
            raise DataError.of(str(prefix), "cannot be written", str(failure)) from None

    def _go_on(self) -> None:
        """Cut the files to what is counted, and hash the tokens again."""
        self._bin.truncate(self.tokens * self.dtype.itemsize)
        self._lengths.truncate(4 * self.documents)
        while block := self._bin.read(_BLOCK):
            self._sha256.update(block)
        self._lengths.seek(0, os.SEEK_END)

    def sync(self) -> None:
        """Force everything added so far to the disk.

        Raises:
            DataError: the disk refuses.
        """
        try:
            for file in (self._bin, self._lengths):
                file.flush()
                os.fsync(file.fileno())
        except OSError as failure:
            raise DataError.of(str(self.prefix), "cannot be written", str(failure)) from None

    def __enter__(self) -> Self:
        return self

    def add(self, tokens: NDArray[Any], lengths: NDArray[Any] | None = None) -> None:
        """Append documents.

        Args:
            tokens: ids of one or more documents, one after the other, shape [sum of lengths].
            lengths: tokens in each document; None for a single document.

        Raises:
            DataError: an id is outside [0, vocab_size), or the disk is full.
        """
        counts = np.array([len(tokens)]) if lengths is None else np.asarray(lengths)
        if int(counts.sum()) != len(tokens):
            raise DataError.of("lengths", int(counts.sum()), f"must sum to {len(tokens)} tokens")
        if len(counts) and int(counts.max()) > MAX_DOCUMENT_TOKENS:
            rule = "the index holds lengths as int32; cut the document"
            raise DataError.of("document tokens", int(counts.max()), rule, MAX_DOCUMENT_TOKENS)
        if len(tokens):
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.vocab_size:
                bad = low if low < 0 else high
                rule = f"must lie in [0, {self.vocab_size})"
                raise DataError.of(f"{self.prefix}: token id", bad, rule)
            self.max_token_id = max(self.max_token_id, high)
        raw = np.ascontiguousarray(tokens, dtype=self.dtype).tobytes()
        try:
            self._bin.write(raw)
            self._lengths.write(counts.astype("<i4").tobytes())
        except OSError as failure:
            raise DataError.of(str(self.prefix), "cannot be written", str(failure)) from None
        self._sha256.update(raw)
        self.tokens += len(tokens)
        self.documents += len(counts)

    def finish(
        self, *, tokenizer_sha256: str, eos_id: int | None, details: dict[str, Any]
    ) -> Sidecar:
        """Write index and sidecar, then rename everything into place.

        Raises:
            DataError: no token was written, or the disk is full.
        """
        if self.tokens == 0:
            raise DataError.of(str(self.prefix), "0 tokens", "the input holds no text")
        sidecar = Sidecar(
            tokens=self.tokens,
            documents=self.documents,
            dtype=self.dtype.name,
            bin_sha256=self._sha256.hexdigest(),
            max_token_id=self.max_token_id,
            vocab_size=self.vocab_size,
            tokenizer_sha256=tokenizer_sha256,
            eos_id=eos_id,
            details=details,
        )
        try:
            self._write_index()
            self._partials["meta"].write_text(sidecar.to_json(), encoding="utf-8")
            self._bin.flush()
            os.fsync(self._bin.fileno())
            self._bin.close()
            idx_path(self.prefix).unlink(missing_ok=True)
            self._partials["bin"].replace(bin_path(self.prefix))
            self._partials["meta"].replace(sidecar_path(self.prefix))
            self._partials["idx"].replace(idx_path(self.prefix))
        except OSError as failure:
            raise DataError.of(str(self.prefix), "cannot be written", str(failure)) from None
        return sidecar

    def _length_blocks(self) -> Iterator[NDArray[np.int64]]:
        self._lengths.seek(0)
        while raw := self._lengths.read(4 * _BLOCK):
            yield np.frombuffer(raw, dtype="<i4").astype(np.int64)

    def _write_index(self) -> None:
        code = next(known for known, dtype in DTYPES.items() if dtype == self.dtype)
        with self._partials["idx"].open("wb") as index:
            index.write(HEADER.pack(MAGIC, 1, code, self.documents, self.documents + 1))
            for lengths in self._length_blocks():
                index.write(lengths.astype("<i4").tobytes())
            pointer = 0
            for lengths in self._length_blocks():
                ends = pointer + np.cumsum(lengths) * self.dtype.itemsize
                index.write((ends - lengths * self.dtype.itemsize).astype("<i8").tobytes())
                pointer = int(ends[-1])
            for first in range(0, self.documents, _BLOCK):
                stop = min(first + _BLOCK, self.documents)
                index.write(np.arange(first, stop, dtype="<i8").tobytes())
            index.write(struct.pack("<q", self.documents))
            index.flush()
            os.fsync(index.fileno())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (self._bin, self._lengths):
            with suppress(OSError):  # `finish` has flushed; what is left here is thrown away
                file.close()
        for partial in self._partials.values():
            partial.unlink(missing_ok=True)
