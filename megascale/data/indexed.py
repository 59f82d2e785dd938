"""Token files in Megatron's `.bin/.idx` layout: open in constant time, read by token position.

`PREFIX.bin` holds the tokens and nothing else. `PREFIX.idx` holds a 34-byte header, then the
length (int32, tokens) and byte offset (int64) of every sequence, then the first sequence of every
document (int64, closed by the number of sequences). `docs/formats/indexed.md` has the table.

Opening reads the header, the ends of the arrays and the sizes of both files, never the arrays
themselves, so a corpus of 10^13 tokens opens as fast as a toy. Nothing is unpickled.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import struct
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megascale.data.token_paths import find_prefixes
from megascale.errors import DataError
from megascale.formats.json_text import read_json
from megascale.shipped import legal_path

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
FLOAT_CODES = {6: "float64", 7: "float32"}
SIDECAR_SCHEMA = "megascale.tokens/1"
MOST_MAPPED = 256
"""So many token files are held open at a time."""
_MAPPED: OrderedDict[int, NDArray[Any]] = OrderedDict()
_MAPPED_LOCK = threading.RLock()
_NUMBERS = itertools.count()
_SAMPLE_WINDOWS = 8
_SAMPLE_BYTES = 4096


def bin_path(prefix: str | Path) -> Path:
    """`PREFIX.bin`, the tokens."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    """`PREFIX.idx`, the index."""
    return Path(f"{prefix}.idx")


def sidecar_path(prefix: str | Path) -> Path:
    """`PREFIX.meta.json`, what `megascale data prepare` knew when it wrote the tokens."""
    return Path(f"{prefix}.meta.json")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Facts about a prefix that the index cannot hold (`PREFIX.meta.json`)."""

    tokens: int
    documents: int
    dtype: str
    bin_sha256: str
    max_token_id: int
    vocab_size: int
    tokenizer_sha256: str
    eos_id: int | None
    details: dict[str, Any]

    def to_json(self) -> str:
        """The sidecar as the text of `PREFIX.meta.json`."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"schema": SIDECAR_SCHEMA, **fields}, indent=2) + "\n"


def read_sidecar(prefix: str | Path) -> Sidecar | None:
    """The sidecar of a prefix, or None for files made by another tool.

    Raises:
        DataError: the file is there but is not a sidecar of this schema.
    """
    path = sidecar_path(prefix)
    if not path.exists():
        return None
    found = read_json(path, "sidecar")
    if not isinstance(found, dict) or found.pop("schema", None) != SIDECAR_SCHEMA:
        raise DataError.of(
            str(path), "unknown schema", f"must carry schema {SIDECAR_SCHEMA!r}; prepare it again"
        )
    if set(found) != set(_SIDECAR_KEYS):
        wanted = ", ".join(Sidecar.__slots__)
        keys = ", ".join(sorted(found)) or "none"
        raise DataError.of(str(path), f"keys {keys}", f"a sidecar has {wanted}")
    for key, (kind, words) in _SIDECAR_KEYS.items():
        value = found[key]
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or (isinstance(value, int) and not 0 <= value < 2**63):
            raise DataError.of(f"{path}: {key}", value, f"must be {words}")
    return Sidecar(**found)


_COUNT = (int, "a whole number from 0 to 2^63")
_SIDECAR_KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "tokens": _COUNT,
    "documents": _COUNT,
    "dtype": (str, "text"),
    "bin_sha256": (str, "text"),
    "max_token_id": _COUNT,
    "vocab_size": _COUNT,
    "tokenizer_sha256": (str, "text"),
    "eos_id": ((int, type(None)), "a whole number from 0 to 2^63, or null"),
    "details": (dict, "a mapping"),
}


class IndexedTokens:
    """One `.bin/.idx` pair as a flat array of tokens.

    Attributes:
        prefix: path without the suffix.
        dtype: dtype of the tokens on disk.
        tokens: number of tokens.
        sequences, documents: counts from the index.
        sidecar: `PREFIX.meta.json` if there is one.

    Raises:
        DataError: a file is missing, truncated, of another format or dtype, empty, or the two
            files do not belong together.
    """

    def __init__(self, prefix: str | Path) -> None:
        self._number = next(_NUMBERS)
        weakref.finalize(self, _MAPPED.pop, self._number, None)
        self.prefix = legal_path(prefix, "token file", error=DataError)
        self._bin, self._idx = bin_path(prefix), idx_path(prefix)
        bin_bytes, idx_bytes = _size(self._bin), _size(self._idx)
        self.dtype, self.sequences, self._document_entries = _read_header(self._idx, idx_bytes)
        self.documents = self._document_entries - 1
        self.tokens, rest = divmod(bin_bytes, self.dtype.itemsize)
        self._check_ends(bin_bytes, rest)
        self.sidecar = read_sidecar(prefix)
        if self.sidecar is not None and self.sidecar.tokens != self.tokens:
            raise DataError.of(
                str(sidecar_path(prefix)),
                f"{self.sidecar.tokens} tokens",
                f"{self._bin} holds {self.tokens}; the sidecar belongs to other files",
            )

    def _check_ends(self, bin_bytes: int, rest: int) -> None:
        lengths_at = HEADER.size
        pointers_at = lengths_at + 4 * self.sequences
        documents_at = pointers_at + 8 * self.sequences
        with self._idx.open("rb") as index:

            def number(offset: int, code: str) -> int:
                index.seek(offset)
                return struct.unpack(code, index.read(struct.calcsize(code)))[0]

            last_length = number(pointers_at - 4, "<i")
            first_pointer = number(pointers_at, "<q")
            last_pointer = number(documents_at - 8, "<q")
            first_document = number(documents_at, "<q")
            last_document = number(documents_at + 8 * self.documents, "<q")
        expected = last_pointer + last_length * self.dtype.itemsize
        if rest or last_length < 0 or first_pointer != 0 or bin_bytes != expected:
            raise DataError.of(
                str(self._bin),
                f"{bin_bytes} bytes",
                f"does not match its index: {self._idx} ends at byte {expected} of "
                f"{self.dtype.name} tokens",
            )
        if first_document != 0 or last_document != self.sequences:
            raise DataError.of(
                str(self._idx),
                f"documents {first_document}..{last_document}",
                f"document indices must run from 0 to the {self.sequences} sequences",
            )
        if self.tokens == 0:
            raise DataError.of(str(self._bin), "0 tokens", "a source must hold at least one token")

    @property
    def tokenizer_sha256(self) -> str | None:
        """Hash of the tokenizer file the tokens were made with; None without a sidecar."""
        return None if self.sidecar is None else self.sidecar.tokenizer_sha256

    @property
    def flat(self) -> NDArray[Any]:
        """All tokens as a read-only memory map, shape [tokens]; pages are read when touched.

        Of all files of the process `MOST_MAPPED` are mapped at a time, those last used: a map
        holds a file open, and a corpus may have more files than a process may open.
        """
        with _MAPPED_LOCK:
            flat = _MAPPED.get(self._number)
            if flat is not None:
                _MAPPED.move_to_end(self._number)
                return flat
            try:
                flat = np.memmap(self._bin, dtype=self.dtype, mode="r", shape=(self.tokens,))
            except (OSError, ValueError) as failure:
                raise DataError.of(str(self._bin), "unreadable", str(failure)) from None
            _MAPPED[self._number] = flat
            while len(_MAPPED) > MOST_MAPPED:
                _MAPPED.popitem(last=False)
            return flat

    def document_lengths(self, start: int, count: int) -> NDArray[np.int32]:
        """Lengths in tokens of sequences [start, start + count), read from the index."""
        count = max(0, min(count, self.sequences - start))
        with self._idx.open("rb") as index:
            index.seek(HEADER.size + 4 * start)
            return np.frombuffer(index.read(4 * count), dtype="<i4")

    @cached_property
    def digest(self) -> str:
        """sha256 of size, dtype, some windows of the tokens, and the sidecar's full hash.

        Reads at most 32 KiB whatever the size. A change outside the windows shows only when the
        files carry a sidecar, whose hash covers every byte.
        """
        seen = hashlib.sha256(f"{self.tokens}:{self.dtype.str}".encode())
        size = self.tokens * self.dtype.itemsize
        with self._bin.open("rb") as tokens:
            for window in range(_SAMPLE_WINDOWS):
                last_start = max(0, size - _SAMPLE_BYTES)
                tokens.seek(last_start * window // (_SAMPLE_WINDOWS - 1))
                seen.update(tokens.read(_SAMPLE_BYTES))
        if self.sidecar is not None:
            seen.update(self.sidecar.bin_sha256.encode())
        return seen.hexdigest()

    def full_sha256(self) -> str:
        """sha256 of the whole `.bin`; reads every byte."""
        with self._bin.open("rb") as tokens:
            return hashlib.file_digest(tokens, "sha256").hexdigest()


class TokenSource:
    """Several prefixes read as one flat array of tokens, in the order given.

    Prefixes may be folders or patterns, as `find_prefixes` takes them.

    Attributes:
        name: what errors call the source.
        files: the opened prefixes.
        tokens: total number of tokens.

    Raises:
        DataError: no prefix given, or one of them cannot be opened.
    """

    def __init__(self, name: str, prefixes: Sequence[str | Path]) -> None:
        self.name = name
        self.files = tuple(IndexedTokens(prefix) for prefix in find_prefixes(name, prefixes))
        self.starts = np.cumsum([0] + [file.tokens for file in self.files], dtype=np.int64)
        self.tokens = int(self.starts[-1])
        self.read_dtype = np.dtype(
            np.int64 if any(file.dtype == np.dtype("<i8") for file in self.files) else np.int32
        )

    def read(self, start: int, count: int) -> NDArray[Any]:
        """Tokens [start, start + count) of the flat array, int32 (int64 for int64 files).

        Raises:
            DataError: the range leaves the source.
        """
        if start < 0 or count < 0 or start + count > self.tokens:
            raise DataError.of(
                f"source {self.name}",
                f"[{start}, {start + count})",
                f"must lie within its {self.tokens} tokens",
            )
        out = np.empty(count, dtype=self.read_dtype)
        done = 0
        file = int(np.searchsorted(self.starts, start, side="right")) - 1
        while done < count:
            inside = start + done - int(self.starts[file])
            taken = min(count - done, self.files[file].tokens - inside)
            out[done : done + taken] = self.files[file].flat[inside : inside + taken]
            done += taken
            file += 1
        return out

    def read_chunks(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        """Chunks of `length` tokens beginning at `starts`, shape [len(starts), length].

        Chunks on one grid (starts equal modulo `length`) within one file are gathered at once.
        """
        out = np.empty((len(starts), length), dtype=self.read_dtype)
        file_of = np.searchsorted(self.starts, starts, side="right") - 1
        inside = starts - self.starts[file_of]
        whole = inside + length <= np.diff(self.starts)[file_of]
        grids = file_of * length + inside % length
        first = grids[:1]
        several = not whole.all() or (grids != first).any()
        for grid_number in np.unique(grids[whole]) if several else first:
            file, offset = divmod(int(grid_number), length)
            rows = np.flatnonzero(whole & (grids == grid_number))
            flat = self.files[file].flat
            grid = flat[offset : offset + (len(flat) - offset) // length * length]
            out[rows] = grid.reshape(-1, length)[inside[rows] // length]
        for row in np.flatnonzero(~whole):
            out[row] = self.read(int(starts[row]), length)
        return out

    def place(self, position: int) -> str:
        """Where a token of the flat array stands, for messages: file and token position."""
        file = int(np.searchsorted(self.starts, position, side="right")) - 1
        return f"{bin_path(self.files[file].prefix)}, token {position - int(self.starts[file])}"


def check_vocab(
    source: TokenSource, vocab_size: int, *, sample_tokens: int = 65_536, key: str = "data.sources"
) -> None:
    """Refuse a source whose token ids do not fit the model's vocabulary.

    Files with a sidecar are judged by their largest id; others by a sample spread over the file
    (`sample_tokens` in all), so the time does not grow with the corpus. What a sample misses,
    `Stream.read` finds.

    Raises:
        DataError: an id is negative or not below `vocab_size`; file and position are named.
    """
    per_file = max(1, sample_tokens // (len(source.files) * 16))
    for number, file in enumerate(source.files):
        if file.sidecar is not None and file.sidecar.max_token_id >= vocab_size:
            raise DataError.of(
                f"{key}.{source.name}",
                f"token id {file.sidecar.max_token_id} in {bin_path(file.prefix)}",
                f"ids must be below the vocabulary size {vocab_size}",
            )
        last = max(0, file.tokens - per_file)
        for start in sorted({last * part // 15 for part in range(16)}):
            at = int(source.starts[number]) + start
            tokens = source.read(at, min(per_file, file.tokens))
            check_ids(tokens, vocab_size, lambda index, at=at: source.place(at + index))


def check_ids(tokens: NDArray[Any], vocab_size: int, place) -> None:
    """Refuse token ids outside [0, vocab_size).

    Args:
        tokens: ids, shape [n].
        vocab_size: number of ids the model knows.
        place: function from an index into `tokens` to words for the message.

    Raises:
        DataError: naming the first offending id and where it stands.
    """
    if len(tokens) and (int(tokens.max()) >= vocab_size or int(tokens.min()) < 0):
        index = int(np.flatnonzero((tokens >= vocab_size) | (tokens < 0))[0])
        raise DataError.of(
            place(index),
            f"id {int(tokens[index])}",
            f"token ids must lie in [0, {vocab_size}), the model's vocabulary",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        doubled = path.stem.endswith((".bin", ".idx"))
        hint = " (give the prefix without .bin or .idx)" if doubled else ""
        near = [file.stem for file in path.parent.glob(f"*{path.suffix}")]
        close = difflib.get_close_matches(path.stem, near, n=1)
        nearest = [str(path.parent / name) for name in close] or None
        raise DataError.of(str(path), "missing", f"no such file{hint}", nearest) from None
    except OSError as failure:
        raise DataError.of(str(path), "unreadable", str(failure)) from None


def _read_header(path: Path, size: int) -> tuple[np.dtype[Any], int, int]:
    try:
        with path.open("rb") as index:
            raw = index.read(HEADER.size)
    except OSError as failure:
        raise DataError.of(str(path), "unreadable", str(failure)) from None
    if raw[: len(MAGIC)] != MAGIC[: len(raw)]:
        raise DataError.of(str(path), repr(raw[:9]), f"must begin with {MAGIC!r}: not an .idx")
    if len(raw) < HEADER.size:
        raise DataError.of(str(path), f"{size} bytes", "truncated: the header alone has 34 bytes")
    _, version, code, sequences, document_entries = HEADER.unpack(raw)
    if version != 1:
        raise DataError.of(str(path), f"version {version}", "only version 1 is known", 1)
    if code not in DTYPES:
        shown = FLOAT_CODES.get(code, "unknown")
        legal = [f"{known} ({dtype.name})" for known, dtype in DTYPES.items()]
        raise DataError.of(
            str(path), f"dtype code {code} ({shown})", "tokens must be integers", legal
        )
    plain = HEADER.size + 12 * sequences + 8 * document_entries
    if sequences and size == plain + sequences:
        rule = "sequence modes mark a multimodal index; only text is read"
        raise DataError.of(str(path), f"{size} bytes", rule)
    if size != plain:
        raise DataError.of(
            str(path),
            f"{size} bytes",
            f"{'truncated' if size < plain else 'too long'}: {sequences} sequences and "
            f"{document_entries} document indices take {plain} bytes",
        )
    if sequences == 0 or document_entries < 2:
        raise DataError.of(
            str(path), f"{sequences} sequences", "empty: a source must hold at least one document"
        )
    return DTYPES[code], sequences, document_entries
