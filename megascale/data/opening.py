"""From the `data` section of a config to opened streams."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from megascale.data.stream import PhaseSpec, Stream, StreamSpec
from megascale.errors import DataError

if TYPE_CHECKING:
    from megascale.config.data_sections import DataConfig


def tokenizer_sha256(path: str | Path) -> str:
    """sha256 of a tokenizer file, the identity that sidecars keep.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as failure:
        raise DataError.of("data.tokenizer", str(path), f"cannot be read: {failure}") from None


def open_stream(data: DataConfig, *, seed: int, vocab_size: int | None = None) -> Stream:
    """The training stream of a config.

    Args:
        data: the `data` section.
        seed: the run's seed, used where `data.seed` is null.
        vocab_size: the model's vocabulary; None checks no ids.

    Raises:
        DataError: whatever is wrong with the files, mixtures, tokenizer or ids; also
            `mask_documents` where nothing says which token ends a document, or where a source
            was prepared without one.
    """
    phases = [PhaseSpec(phase.start_tokens, dict(phase.mixture)) for phase in data.phases]
    sources = {name: tuple(source.path) for name, source in data.sources.items()}
    spec = stream_spec(data, sources, phases, seed, vocab_size)
    stream = Stream(replace(spec, skips=data.skip_tokens))
    if data.mask_documents and stream.eos_id is None:
        rule = "data.eos_id must be given: no sidecar says which token ends a document"
        raise DataError.of("data.mask_documents", True, rule, False)
    if data.mask_documents and data.eos_id is None:
        _check_ends(stream)
    return stream


def _check_ends(stream: Stream) -> None:
    """Refuse a file prepared without a token that ends documents, where masks look for one."""
    for name, source in stream.sources.items():
        for file in source.files:
            if file.sidecar is not None and file.sidecar.eos_id is None:
                raise DataError.of(
                    "data.mask_documents",
                    True,
                    f"{file.prefix} of source {name} was prepared without a token that ends "
                    f"documents, id {stream.eos_id} ends those of others: all its documents would "
                    "be one; prepare it with the token, or state data.eos_id if they hold it",
                    False,
                )


def stream_spec(
    data: DataConfig,
    sources: dict[str, tuple[str, ...]],
    phases: list[PhaseSpec],
    seed: int,
    vocab_size: int | None,
) -> StreamSpec:
    """What a stream over some sources of a config is made from; `data.seed` goes before `seed`."""
    return StreamSpec(
        sources=sources,
        phases=phases,
        seed=seed if data.seed is None else data.seed,
        chunk_tokens=data.chunk_tokens,
        mixture_block_chunks=data.mixture_block_chunks,
        eos_id=data.eos_id,
        vocab_size=vocab_size,
        tokenizer_sha256=None if data.tokenizer is None else tokenizer_sha256(data.tokenizer),
    )
