"""What a stream of tokens is made from: sources, phases, skipped windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megascale.errors import DataError


@dataclass(frozen=True, slots=True)
class PhaseSpec:
    """A mixture in force from `start_tokens` on: source name to share of the chunks."""

    start_tokens: int
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """All that determines a stream, besides the token files themselves.

    Attributes:
        sources: source name to prefixes (paths without `.bin`/`.idx`), read as one.
        phases: mixtures by start, the first at token 0.
        skips: windows [a, b) of positions that are left out, by a; each counts the positions of
            the stream that the ones before it leave.
        seed: key of every permutation.
        chunk_tokens: length of the contiguous pieces that are shuffled.
        mixture_block_chunks: chunks within which the weights hold exactly.
        eos_id: token that ends a document; None takes it from the sidecars.
        vocab_size: ids must be below it; None checks nothing.
        tokenizer_sha256: hash of the tokenizer file that the config names; None checks nothing.
        key: config key that holds the sources, for messages.
        chunk_key: config key that gives `chunk_tokens`, for messages.
    """

    sources: Mapping[str, Sequence[str]]
    phases: Sequence[PhaseSpec]
    seed: int
    chunk_tokens: int = 4096
    mixture_block_chunks: int = 100
    eos_id: int | None = None
    vocab_size: int | None = None
    tokenizer_sha256: str | None = None
    key: str = "data.sources"
    chunk_key: str = "data.chunk_tokens"
    skips: tuple[tuple[int, int], ...] = ()


def check_phases(spec: StreamSpec) -> None:
    """Refuse phases that do not start one after the other, from 0 on, or name no source."""
    if not spec.sources:
        raise DataError.of("data.sources", "{}", "must name at least one source")
    if not spec.phases or spec.phases[0].start_tokens != 0:
        found = spec.phases[0].start_tokens if spec.phases else "[]"
        raise DataError.of("data.phases[0].start_tokens", found, "the first phase starts at 0", 0)
    for number, phase in enumerate(spec.phases):
        previous = spec.phases[number - 1].start_tokens if number else -1
        if phase.start_tokens <= previous:
            raise DataError.of(
                f"data.phases[{number}].start_tokens",
                phase.start_tokens,
                f"phases must start later one after the other; the one before starts at {previous}",
                previous + 1,
            )
        for name in phase.weights:
            if name not in spec.sources:
                raise DataError.of(
                    f"data.phases[{number}].mixture",
                    name,
                    "no such source under data.sources",
                    sorted(spec.sources),
                )


def check_skips(spec: StreamSpec) -> None:
    """Refuse skipped windows that are empty or do not begin one after the other."""
    last = -1
    for number, (low, high) in enumerate(spec.skips):
        key = f"data.skip_tokens[{number}]"
        if not 0 <= low < high:
            raise DataError.of(key, f"{low}:{high}", "a window ends after it begins")
        if low <= last:
            rule = f"windows begin one after the other; the one before begins at {last}"
            raise DataError.of(key, f"{low}:{high}", rule)
        last = low
