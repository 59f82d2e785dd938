"""Bytes of log files: compressed or not, whole or cut off, in chunks of whole lines."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megascale.errors import DataError
from megascale.extras import pip_command

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CHUNK_BYTES = 64 * 2**20
MOST_UNPACKED_BYTES = 8 * 2**30
"""A packed log that unpacks to more is refused: a few kilobytes can unpack to a full memory."""
_PACKED_BYTES = 2**16


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
        DataError: zstd is needed and not installed, or more than `MOST_UNPACKED_BYTES` come out.
    """
    if raw.startswith(GZIP_MAGIC):
        return _gunzip(path, raw)
    if raw.startswith(ZSTD_MAGIC):
        return _unzstd(path, raw)
    return raw, True


def _gunzip(path: Path, raw: bytes) -> tuple[bytes, bool]:
    def stream() -> Any:
        return zlib.decompressobj(wbits=31)

    data, rest, whole = _members(path, raw, GZIP_MAGIC, stream, zlib.error)
    return data, whole and not rest.strip(b"\0")


def _unzstd(path: Path, raw: bytes) -> tuple[bytes, bool]:
    try:
        import zstandard
    except ImportError:
        rule = f"zstd needs the package zstandard; {pip_command('zstandard')}, or unpack the file"
        raise DataError.of("log", str(path), rule) from None

    def stream() -> Any:
        return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()

    data, rest, whole = _members(path, raw, ZSTD_MAGIC, stream, zstandard.ZstdError)
    return data, whole and not rest


def _members(
    path: Path,
    raw: bytes,
    magic: bytes,
    new_stream: Callable[[], Any],
    broken: type[Exception],
) -> tuple[bytes, bytes, bool]:
    """Unpack one member after the other, in time proportional to what goes in and comes out.

    Returns:
        The content, what follows the last member, and whether that member ended as it should.

    Raises:
        DataError: more than `MOST_UNPACKED_BYTES` come out.
    """
    parts: list[bytes] = []
    unpacked = position = 0
    while raw.startswith(magic, position):
        stream = new_stream()
        try:
            while position < len(raw) and not stream.eof:
                part = stream.decompress(raw[position : position + _PACKED_BYTES])
                position += len(raw[position : position + _PACKED_BYTES])
                unpacked += len(part)
                if unpacked > MOST_UNPACKED_BYTES:
                    rule = f"unpacks to more than {MOST_UNPACKED_BYTES / 2**30:.0f} GiB"
                    raise DataError.of("log", str(path), f"{rule}: unpack and cut it yourself")
                parts.append(part)
        except broken:
            return b"".join(parts), b"", False
        if not stream.eof:
            return b"".join(parts), b"", False
        position -= len(stream.unused_data)
    return b"".join(parts), raw[position:], True


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
