"""Micro-batches as cuts of the stream, the loss normaliser, and the hash of consumed tokens.

A step consumes the window [start, stop). It is read as sequences of S tokens in stream order;
micro-batch m of data-parallel rank r takes the sequences from (m * dp + r) * mbs on. Every batch
size, micro-batch size, sequence length and number of ranks is another cut of the same positions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megascale.data.permutation import mix64
from megascale.data.stream import Stream

IGNORED_TARGET = -100
_POSITION_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class MicroBatch(NamedTuple):
    """One rank's share of one accumulation step, int64 arrays of shape [micro_batch_size, S].

    `targets` hold the next token, or -100 at chunk joins and at positions past the window.
    `doc_ids` number the documents within each row from 0 (int32); None unless asked for.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    doc_ids: NDArray[np.int32] | None


def micro_batch_start(
    start: int,
    *,
    sequence_length: int,
    micro_batch_size: int,
    data_parallel: int,
    dp_rank: int,
    index: int,
) -> int:
    """Stream position of the first token of a micro-batch; its rows follow one another.

    Args:
        start: first position of the step's window, in tokens.
        sequence_length: tokens per sequence.
        micro_batch_size: sequences per rank and micro-batch.
        data_parallel, dp_rank: number of data-parallel ranks, and which of them.
        index: number of the micro-batch within the step.
    """
    return start + (index * data_parallel + dp_rank) * micro_batch_size * sequence_length


def micro_batch(
    stream: Stream,
    start: int,
    stop: int,
    *,
    sequence_length: int,
    micro_batch_size: int,
    data_parallel: int,
    dp_rank: int,
    index: int,
    mask_documents: bool = False,
) -> MicroBatch:
    """Inputs and targets of one micro-batch of the window [start, stop).

    The last window of a run may be cut short: rows past `stop` still carry stream tokens as
    inputs, but only -100 as targets, so they add nothing to the loss.

    Args:
        stream: where the tokens come from.
        start, stop: the step's window in tokens; see `micro_batch_start` for the rest.
        mask_documents: also number the documents, for attention that stays inside them.

    Raises:
        DataError: the stream cannot be read there.
    """
    first = micro_batch_start(
        start,
        sequence_length=sequence_length,
        micro_batch_size=micro_batch_size,
        data_parallel=data_parallel,
        dp_rank=dp_rank,
        index=index,
    )
    count = micro_batch_size * sequence_length
    shape = (micro_batch_size, sequence_length)
    tokens = stream.read(first, count + 1).astype(np.int64)
    targets = tokens[1:].copy()
    joined = stream.chunk_starts(first + 1, first + count + 1) - (first + 1)
    targets[joined] = IGNORED_TARGET
    targets[max(0, stop - first) :] = IGNORED_TARGET
    doc_ids = None
    if mask_documents:
        begins = np.zeros(count, dtype=np.int32)
        begins[joined[joined + 1 < count] + 1] = 1
        if stream.eos_id is not None:
            begins[1:] |= tokens[: count - 1] == stream.eos_id
        rows = begins.reshape(shape)
        rows[:, 0] = 0
        doc_ids = np.cumsum(rows, axis=1, dtype=np.int32)
    return MicroBatch(tokens[:-1].reshape(shape), targets.reshape(shape), doc_ids)


def valid_targets(stream: Stream, start: int, stop: int) -> int:
    """Targets that count in the loss of the window [start, stop): the step's normaliser.

    Arithmetic only; equals the number of targets other than -100 over all micro-batches of all
    ranks.
    """
    return stop - start - stream.joins(start, stop)


def position_hash(positions: ArrayLike, tokens: ArrayLike) -> int:
    """Sum over tokens of a 64-bit mix of (position, token), modulo 2**64.

    The sum does not depend on how positions are cut into batches or spread over ranks, so equal
    sums mean equal tokens at equal positions (up to chance of 2**-64).

    Args:
        positions: stream positions, any shape.
        tokens: the ids found there, same shape.
    """
    places = np.asarray(positions).astype(np.uint64).ravel()
    ids = np.asarray(tokens).astype(np.uint64).ravel()
    mixed = mix64(mix64(places * _POSITION_FACTOR) ^ (ids + np.uint64(1)))
    return int(np.add.reduce(mixed, dtype=np.uint64))


def combine_hashes(hashes: Iterable[int]) -> int:
    """Hash of the union of disjoint sets of positions: the sum modulo 2**64."""
    return sum(hashes) % 2**64


def batch_hash(inputs: NDArray[np.int64], first: int, stop: int) -> int:
    """`position_hash` of a micro-batch whose rows begin at stream position `first`.

    Args:
        inputs: ids of shape [micro_batch_size, S].
        first: position of `inputs[0, 0]`, from `micro_batch_start`.
        stop: end of the step's window; tokens from there on are padding and not counted.
    """
    tokens = inputs.reshape(-1)[: max(0, stop - first)]
    return position_hash(np.arange(first, first + len(tokens)), tokens)
