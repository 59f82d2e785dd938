"""Bytes of log files: compressed or not, whole or cut off, in chunks of whole lines."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from megascale.errors import DataError
from megascale.extras import pip_command

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CHUNK_BYTES = 64 * 2**20


def raw_bytes(path: Path) -> bytes:
    """Return the file as it lies on disk.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as failure:
        raise DataError.of("log", str(path), f"cannot be read: {failure.strerror}") from None


def sha256_of(*parts: bytes) -> str:
    """Return the sha256 over the contents of a file and its companions."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def decompressed(path: Path, raw: bytes) -> tuple[bytes, bool]:
    """Undo gzip or zstd, told apart by their first bytes.

    Returns:
        The content, and whether the compressed stream ended as it should; a job that was killed
        leaves one that does not, and what it holds is still given.

    Raises:
        DataError: zstd is needed and not installed.
    """
    if raw.startswith(GZIP_MAGIC):
        return _gunzip(raw)
    if raw.startswith(ZSTD_MAGIC):
        return _unzstd(path, raw)
    return raw, True


def _gunzip(raw: bytes) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    while raw.startswith(GZIP_MAGIC):
        stream = zlib.decompressobj(wbits=31)
        position = 0
        try:
            while position < len(raw) and not stream.eof:
                parts.append(stream.decompress(raw[position : position + 2**16]))
                position += 2**16
        except zlib.error:
            return b"".join(parts), False
        if not stream.eof:
            return b"".join(parts), False
        raw = stream.unused_data + raw[position:]
    return b"".join(parts), not raw.strip(b"\0")


def _unzstd(path: Path, raw: bytes) -> tuple[bytes, bool]:
    try:
        import zstandard
    except ImportError:
        rule = f"zstd needs the package zstandard; {pip_command('zstandard')}, or unpack the file"
        raise DataError.of("log", str(path), rule) from None
    parts: list[bytes] = []
    while raw.startswith(ZSTD_MAGIC):
        stream = zstandard.ZstdDecompressor().decompressobj()
        position = 0
        try:
            while position < len(raw) and not stream.eof:
                parts.append(stream.decompress(raw[position : position + 2**17]))
                position += 2**17
        except zstandard.ZstdError:
            return b"".join(parts), False
        if not stream.eof:
            return b"".join(parts), False
        raw = stream.unused_data + raw[position:]
    return b"".join(parts), not raw


def chunks(data: bytes, size: int = CHUNK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Cut `data` after newlines into pieces of about `size` bytes.

    Yields:
        The number of the piece's first line, counted from 1, and the piece.
    """
    if len(data) <= size:
        if data:
            yield 1, data
        return
    start, line = 0, 1
    while start < len(data):
        end = len(data)
        if start + size < len(data):
            end = data.find(b"\n", start + size) + 1 or len(data)
        piece = data[start:end]
        yield line, piece
        line += piece.count(b"\n")
        start = end


def text_lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Return every line, numbered from 1, without its line end; undecodable bytes become U+FFFD."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        yield number, line.decode("utf-8", "replace").rstrip("\r")


def ends_torn(data: bytes) -> bool:
    """Return whether the last line has no end."""
    return bool(data) and not data.endswith(b"\n")
