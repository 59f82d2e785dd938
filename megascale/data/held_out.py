"""Held-out sources as sequences that are the same in every run.

What an evaluation reads depends on the held-out source, `data.validation_seed`, the sequence length
of evaluations and their number of tokens, and on nothing else: not on the run's seed, its chunks,
its batch or its ranks. Losses of two runs with these four alike are losses on the same targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from megascale.data.opening import stream_spec
from megascale.data.stream import PhaseSpec, Stream
from megascale.errors import DataError
from megascale.units import format_count

if TYPE_CHECKING:
    from megascale.config.sections import RunConfig

DEFAULT_TOKENS = 1_000_000
"""Tokens read at an evaluation where the config says none and the source holds them."""


@dataclass(frozen=True)
class HeldOut:
    """What evaluations read of one held-out source.

    Attributes:
        stream: its sequences in a fixed order, each a chunk of its own.
        tokens: the first of them that are read, whole sequences.
        sequence_length: tokens of a sequence.
    """

    stream: Stream
    tokens: int
    sequence_length: int


def evaluation_sequence_length(config: RunConfig) -> int:
    """Tokens of a sequence of evaluations."""
    return config.train.eval_sequence_length or config.train.sequence_length


def open_held_out(config: RunConfig) -> dict[str, HeldOut]:
    """What is read of every source of `data.validation`.

    Raises:
        DataError: a source cannot be read, or holds fewer tokens than `train.eval_tokens`.
    """
    data, wanted = config.data, config.train.eval_tokens
    length = evaluation_sequence_length(config)
    given = config.train.eval_sequence_length is not None
    found = {}
    for name, source in data.validation.items():
        spec = stream_spec(
            data,
            {name: tuple(source.path)},
            [PhaseSpec(0, {name: 1.0})],
            data.validation_seed,
            config.model.vocab_size,
        )
        stream = Stream(
            replace(
                spec,
                seed=data.validation_seed,
                chunk_tokens=length,
                key="data.validation",
                chunk_key=f"train.{'eval_' if given else ''}sequence_length",
            )
        )
        whole = stream.sources[name].tokens // length * length
        if wanted is not None and wanted > whole:
            rule = (
                f"source {name!r} of data.validation holds {format_count(whole)} tokens in whole "
                f"sequences of {length}"
            )
            raise DataError.of("train.eval_tokens", format_count(wanted), rule, format_count(whole))
        tokens = min(wanted or DEFAULT_TOKENS, whole)
        found[name] = HeldOut(stream, max(tokens // length, 1) * length, length)
    return found
