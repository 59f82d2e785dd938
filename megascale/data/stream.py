"""The training data as one infinite seeded stream: position -> token, a pure function.

A phase lays a grid of chunks over the positions from its first token on. Chunk n of a phase comes
from the source and with the source ordinal that the phase's `Mixture` gives; the j-th chunk a
source delivers is chunk `permutation[epoch](j mod n)` of its n chunks, with epoch = j // n. Nothing
here depends on batch size, ranks or how far the run will go, and nothing is stored per chunk.

Rules for what does not fit:

* A source shorter than one chunk is refused.
* The source's last `tokens mod chunk_tokens` tokens do not fill a chunk. Each epoch leaves out
  that many tokens, split between the two ends differently in every epoch (epoch 0 leaves out the
  end), so none of them is left out for good. `describe()` reports the number.
* A phase cuts off the block and the chunk of the phase before in which it starts, so positions
  before it never depend on it. Every source goes on with the chunk after the last it has begun.
* A skipped window [a, b) leaves out what would have stood at these positions: the phase goes on at
  a with what would have stood at b. Positions before a, and where phases start, stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megascale.data.indexed import TokenSource, check_ids, check_vocab
from megascale.data.mixture import Mixture, weight_parts
from megascale.data.permutation import derive_key, numbered_keys, permute
from megascale.data.specification import PhaseSpec, StreamSpec, check_phases, check_skips
from megascale.errors import DataError

__all__ = ["PhaseSpec", "Stream", "StreamSpec"]

_PLACED_AT_ONCE = 512
"""Chunks whose places are worked out together: a few cost as much time as many."""
_NOTHING_PLACED = (range(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Positions [start, stop) of one phase whose chunks lie on a grid that begins at `origin`."""

    number: int
    start: int
    stop: int | None
    origin: int
    mixture: Mixture
    first_ordinals: NDArray[np.int64]
    sources: tuple[TokenSource, ...]


class Stream:
    """The stream of a `StreamSpec`. Opening costs a few reads per file, whatever their size.

    Attributes:
        spec: what it was made from.
        sources: opened sources by name.
        eos_id: token that ends documents, or None when neither config nor sidecars name one.
        vocab_max: largest token id that the sidecars report, or None when a file has none.

    Raises:
        DataError: a source is missing, damaged, too short or made with another tokenizer; phases
            or weights break a rule; ids do not fit the vocabulary.
    """

    def __init__(self, spec: StreamSpec) -> None:
        if spec.chunk_tokens < 1:
            raise DataError.of(spec.chunk_key, spec.chunk_tokens, "must be positive", 1)
        self.spec = spec
        check_phases(spec)
        check_skips(spec)
        self.sources = {
            name: _open_source(spec.key, name, paths)
            for name, paths in sorted(spec.sources.items())
        }
        for source in self.sources.values():
            if source.tokens < spec.chunk_tokens:
                raise DataError.of(
                    spec.chunk_key,
                    spec.chunk_tokens,
                    f"source {source.name!r} holds {source.tokens} tokens, less than one chunk",
                    source.tokens,
                )
            if spec.vocab_size is not None:
                check_vocab(source, spec.vocab_size, key=spec.key)
        _check_tokenizers(self.sources, spec.tokenizer_sha256)
        self.eos_id = _agreed_eos(self.sources, spec)
        largest = [_largest_id(source) for source in self.sources.values()]
        known = [value for value in largest if value is not None]
        self.vocab_max = max(known) if len(known) == len(largest) else None
        self._pieces = self._build_pieces()
        self._starts = np.array([phase.start_tokens for phase in spec.phases], dtype=np.int64)
        self._recent: dict[int, tuple[range, NDArray[np.int64], NDArray[np.int64]]] = {}

    def _build_pieces(self) -> tuple[_Piece, ...]:
        spec, pieces = self.spec, []
        used = dict.fromkeys(self.sources, 0)
        for number, phase in enumerate(spec.phases):
            where = f"data.phases[{number}].mixture"
            mixture = Mixture(
                phase.weights,
                block_chunks=spec.mixture_block_chunks,
                key=derive_key("mixture", spec.seed, number),
                where=where,
            )
            first = np.array([used[name] for name in mixture.names], dtype=np.int64)
            stop = spec.phases[number + 1].start_tokens if number + 1 < len(spec.phases) else None
            sources = tuple(self.sources[name] for name in mixture.names)
            start, origin = phase.start_tokens, phase.start_tokens
            for low, high in spec.skips:
                if low < phase.start_tokens or (stop is not None and low >= stop):
                    continue
                if low > start:
                    pieces.append(_Piece(number, start, low, origin, mixture, first, sources))
                start, origin = low, origin - (high - low)
            pieces.append(_Piece(number, start, stop, origin, mixture, first, sources))
            if stop is not None:
                begun = -(-(stop - origin) // spec.chunk_tokens)
                for name, count in zip(mixture.names, mixture.delivered(begun)):
                    used[name] += int(count)
        return tuple(pieces)

    def read(self, start: int, count: int) -> NDArray[Any]:
        """Tokens at positions [start, start + count).

        Returns:
            ids of shape [count], int32 (int64 if a source is stored as int64).

        Raises:
            DataError: start or count negative, or an id outside the vocabulary; the message names
                the file and the position in it.
        """
        if start < 0 or count < 0:
            raise DataError.of("stream window", (start, count), "must not be negative")
        pieces = []
        for piece, low, high in self._overlaps(start, start + count):
            pieces.append(self._read_piece(piece, low - piece.origin, high - piece.origin))
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)

    def _read_piece(self, phase: _Piece, low: int, high: int) -> NDArray[Any]:
        chunk = self.spec.chunk_tokens
        first = low // chunk
        source_of, begin = self._placed(phase, first, -(-high // chunk))
        wide = any(source.read_dtype == np.int64 for source in phase.sources)
        rows = np.empty((len(begin), chunk), dtype=np.int64 if wide else np.int32)
        for number, source in enumerate(phase.sources):
            mine = np.flatnonzero(source_of == number)
            if mine.size:
                rows[mine] = source.read_chunks(begin[mine], chunk)
        tokens = rows.reshape(-1)[low - first * chunk : high - first * chunk]
        if self.spec.vocab_size is not None:

            def place(index: int) -> str:
                row, inside = divmod(low + index, chunk)
                source = phase.sources[int(source_of[row - first])]
                return source.place(int(begin[row - first]) + inside)

            check_ids(tokens, self.spec.vocab_size, place)
        return tokens

    def _placed(
        self, phase: _Piece, first: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`_chunk_starts` of the chunks [first, stop), many at once and kept: reads go forward."""
        known, source_of, begin = self._recent.get(phase.start, _NOTHING_PLACED)
        if first < known.start or stop > known.stop:
            known = range(max(0, first - 1), max(stop, first + _PLACED_AT_ONCE))
            source_of, begin = self._chunk_starts(
                phase, np.arange(known.start, known.stop, dtype=np.int64)
            )
            self._recent[phase.start] = known, source_of, begin
        held = slice(first - known.start, stop - known.start)
        return source_of[held], begin[held]

    def _chunk_starts(
        self, phase: _Piece, chunks: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For chunks of a phase: index into its sources, first token within that source."""
        source_of, ordinal = phase.mixture.locate(chunks)
        ordinal = ordinal + phase.first_ordinals[source_of]
        begin = np.empty(len(chunks), dtype=np.int64)
        for number, source in enumerate(phase.sources):
            mine = np.flatnonzero(source_of == number)
            if mine.size:
                begin[mine] = self._source_chunks(source, ordinal[mine])
        return source_of, begin

    def _source_chunks(self, source: TokenSource, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
        """First token of the chunks that a source delivers as its `ordinals`-th ones."""
        size, tail = divmod(source.tokens, self.spec.chunk_tokens)
        epochs, inside = np.divmod(ordinals, size)
        keys = numbered_keys(derive_key("source", self.spec.seed, source.name), epochs)
        left_out = keys % np.uint64(tail + 1)
        shift = np.where(epochs == 0, 0, left_out.astype(np.int64))
        return permute(inside, size, keys) * self.spec.chunk_tokens + shift

    def boundaries(self, start: int, count: int) -> NDArray[np.bool_]:
        """True where a position in [start, start + count) begins a chunk or a document.

        A document begins after `eos_id`; without one only chunk starts are marked. Position 0 is a
        boundary.
        """
        marks = np.zeros(count, dtype=np.bool_)
        if self.eos_id is not None and count:
            before = max(0, start - 1)
            ended = self.read(before, start + count - 1 - before) == self.eos_id
            marks[count - len(ended) :] = ended
        marks[self.chunk_starts(start, start + count) - start] = True
        return marks

    def chunk_starts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Positions in [start, stop) at which a chunk begins, ascending."""
        chunk, parts = self.spec.chunk_tokens, []
        for piece, low, high in self._overlaps(start, stop):
            if low == piece.start and (low - piece.origin) % chunk:  # after a skipped window
                parts.append(np.array([low], dtype=np.int64))
            first = low + (piece.origin - low) % chunk
            parts.append(np.arange(first, high, chunk, dtype=np.int64))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def joins(self, start: int, stop: int) -> int:
        """Positions p in [start, stop) whose successor p + 1 begins another chunk; arithmetic only.

        Their target is not the continuation of their text, so it is masked (label -100).
        """
        chunk = self.spec.chunk_tokens
        return sum(
            (high - piece.origin - 1) // chunk
            - (low - piece.origin - 1) // chunk
            + (low == piece.start and (low - piece.origin) % chunk != 0)
            for piece, low, high in self._overlaps(start + 1, stop + 1)
        )

    def _overlaps(self, start: int, stop: int) -> list[tuple[_Piece, int, int]]:
        """(piece, first, end) of each piece's part of [start, stop)."""
        parts = []
        for piece in self._pieces:
            low = max(start, piece.start)
            high = stop if piece.stop is None else min(stop, piece.stop)
            if low < high:
                parts.append((piece, low, high))
        return parts

    def phase_at(self, position: int) -> int:
        """Number of the phase that `position` lies in."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def fingerprint(self, before: int | None = None) -> str:
        """sha256 of all that determines the positions below `before` (None: all positions).

        Covers seed, grid, mixtures, and size, digest and tokenizer of each source in use, not its
        path. Two
        streams with equal fingerprints are equal up to `before`, so a run may go on with another
        plan for the tokens it has not reached.
        """
        spec = self.spec
        phases = [phase for phase in spec.phases if before is None or phase.start_tokens < before]
        names = sorted({name for phase in phases for name, w in phase.weights.items() if w})
        skips = [list(skip) for skip in spec.skips if before is None or skip[0] < before]
        content = {
            **({"skips": skips} if skips else {}),
            "seed": spec.seed,
            "chunk_tokens": spec.chunk_tokens,
            "mixture_block_chunks": spec.mixture_block_chunks,
            "phases": [
                [phase.start_tokens, {n: p for n, p in weight_parts(phase.weights).items() if p}]
                for phase in phases
            ],
            "sources": {
                name: [[file.digest, file.tokenizer_sha256] for file in self.sources[name].files]
                for name in names
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def describe(self, total_tokens: int | None = None) -> dict[str, Any]:
        """What a person should know about the stream: sizes, epochs, and what is left out.

        Args:
            total_tokens: length of the run, for the epochs each source will see.

        Returns:
            JSON-ready: per source `tokens`, `chunks`, `left_out_tokens_per_epoch` and, with
            `total_tokens`, `epochs`; per phase `start_tokens` and `mixture`.
        """
        chunk = self.spec.chunk_tokens
        used = dict.fromkeys(self.sources, 0)
        last: dict[int, tuple[Mixture, int]] = {}
        for piece in self._pieces:
            stop = total_tokens if piece.stop is None else min(piece.stop, total_tokens or 0)
            if (stop or 0) > piece.start:
                last[piece.number] = (piece.mixture, -(-((stop or 0) - piece.origin) // chunk))
        for mixture, begun in last.values():
            for name, count in zip(mixture.names, mixture.delivered(begun)):
                used[name] += int(count)
        phases = [
            {"start_tokens": phase.start_tokens, "mixture": dict(phase.weights)}
            for phase in self.spec.phases
        ]
        sources = {}
        for name, source in self.sources.items():
            size, tail = divmod(source.tokens, chunk)
            sources[name] = {
                "tokens": source.tokens,
                "chunks": size,
                "left_out_tokens_per_epoch": tail,
                **({} if total_tokens is None else {"epochs": used[name] / size}),
            }
        return {"chunk_tokens": chunk, "sources": sources, "phases": phases}


def _open_source(key: str, name: str, paths: Sequence[str]) -> TokenSource:
    try:
        return TokenSource(name, paths)
    except DataError as error:
        raise DataError(f"{key}.{name}: {error}") from None


def _check_tokenizers(sources: Mapping[str, TokenSource], expected: str | None) -> None:
    seen: dict[str, str] = {}
    for source in sources.values():
        for file in source.files:
            found = file.tokenizer_sha256
            if found is None:
                continue
            if expected is not None and found != expected:
                raise DataError.of(
                    "data.tokenizer",
                    f"sha256 {expected[:12]}...",
                    f"{file.prefix} was made with another tokenizer (sha256 {found[:12]}...)",
                )
            seen.setdefault(found, str(file.prefix))
    if len(seen) > 1:
        (one, first), (other, second) = list(seen.items())[:2]
        raise DataError.of(
            "data.sources",
            f"{first} and {second}",
            f"made with different tokenizers (sha256 {one[:12]}... and {other[:12]}...)",
        )


def _agreed_eos(sources: Mapping[str, TokenSource], spec: StreamSpec) -> int | None:
    named = {
        file.sidecar.eos_id: str(file.prefix)
        for source in sources.values()
        for file in source.files
        if file.sidecar is not None and file.sidecar.eos_id is not None
    }
    if spec.eos_id is not None:
        if spec.eos_id < 0 or (spec.vocab_size is not None and spec.eos_id >= spec.vocab_size):
            rule = f"must be a token id below the vocabulary size {spec.vocab_size}"
            raise DataError.of("data.eos_id", spec.eos_id, rule)
        for other, prefix in named.items():
            if other != spec.eos_id:
                rule = f"{prefix} was prepared with another end-of-document token"
                raise DataError.of("data.eos_id", spec.eos_id, rule, other)
        return spec.eos_id
    if len(named) > 1:
        rule = "sources end their documents with different tokens; prepare them alike"
        raise DataError.of("data.eos_id", sorted(k for k in named if k is not None), rule)
    return next(iter(named), None)


def _largest_id(source: TokenSource) -> int | None:
    largest = [file.sidecar.max_token_id for file in source.files if file.sidecar is not None]
    return max(largest) if len(largest) == len(source.files) else None
