"""Which source the n-th chunk of a phase comes from: exact in every block, found directly.

Weights are held to nine decimals (`WEIGHT_UNIT` parts). After t chunks a source with p parts has
floor(t p / WEIGHT_UNIT) chunks, plus one for the sources with the largest remainders until the
counts sum to t (the method of largest remainders). So a cumulative count never differs from
t * weight by one or more, and the count of a block is a difference of two such counts. That
difference cannot be negative as long as each source is due at least one chunk per block, which is
what `Mixture` demands. Access costs one block, wherever it lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megascale.data.permutation import numbered_keys, permute
from megascale.errors import DataError

WEIGHT_UNIT = 10**9
SUM_TOLERANCE = 1e-9
MAX_BLOCK_CHUNKS = 65_536

Int64Array = NDArray[np.int64]


class Mixture:
    """The order of chunks in one data phase.

    Args:
        weights: source name to share of the chunks; they must sum to 1 within 1e-9. A source of
            weight 0 takes no part.
        block_chunks: chunks per block; inside a block the order is a keyed permutation.
        key: 64-bit key of the order.
        where: what error messages call this mixture.

    Raises:
        DataError: weights negative, not finite, not summing to 1, or so small that a source would
            get no chunk in some blocks.
    """

    def __init__(
        self, weights: Mapping[str, float], *, block_chunks: int, key: int, where: str = "mixture"
    ) -> None:
        if not 1 <= block_chunks <= MAX_BLOCK_CHUNKS:
            rule = f"must lie between 1 and {MAX_BLOCK_CHUNKS}; a block is laid out whole"
            nearest = min(max(block_chunks, 1), MAX_BLOCK_CHUNKS)
            raise DataError.of("data.mixture_block_chunks", block_chunks, rule, nearest)
        parts = weight_parts(weights, where)
        self.names: tuple[str, ...] = tuple(sorted(name for name, part in parts.items() if part))
        self.block_chunks = block_chunks
        self._parts = np.array([parts[name] for name in self.names], dtype=np.int64)
        self._key = key
        nothing = np.empty((0, 0), dtype=np.int64)
        self._recent = (range(0), nothing, nothing)
        smallest = int(self._parts.min())
        if len(self.names) > 1 and block_chunks * smallest < WEIGHT_UNIT:
            name = self.names[int(self._parts.argmin())]
            raise DataError.of(
                "data.mixture_block_chunks",
                block_chunks,
                f"source {name!r} of weight {weights[name]} in {where} would get no chunk in some "
                "blocks; a block must be due at least one chunk of every source",
                -(-WEIGHT_UNIT // smallest),
            )

    def chunks_before(self, chunks: ArrayLike) -> Int64Array:
        """Chunks of each source among the first `chunks` chunks, exact at multiples of the block.

        Args:
            chunks: chunk counts, shape [n].

        Returns:
            Counts of shape [n, sources] in the order of `names`; each row sums to its `chunks`.
        """
        totals = np.atleast_1d(np.asarray(chunks, dtype=np.int64))
        whole, rest = np.divmod(totals, WEIGHT_UNIT)
        due, remainder = np.divmod(rest[:, None] * self._parts[None, :], WEIGHT_UNIT)
        short = rest - due.sum(axis=1)
        order = np.argsort(-remainder, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(len(self.names))[None, :], axis=1)
        return whole[:, None] * self._parts[None, :] + due + (rank < short[:, None])

    def locate(self, chunks: ArrayLike) -> tuple[Int64Array, Int64Array]:
        """Source and source ordinal of the given chunks of the phase.

        Args:
            chunks: chunk numbers within the phase, shape [n].

        Returns:
            (index into `names`, how-manieth chunk of that source in this phase), each of shape
            [n]. In the order of the phase each source's ordinals are 0, 1, 2, ...
        """
        numbers = np.atleast_1d(np.asarray(chunks, dtype=np.int64))
        blocks, places = np.divmod(numbers, self.block_chunks)
        if not numbers.size:
            return numbers, numbers
        known, sources, ordinals = self._recent  # reads go forward: mostly the same block again
        if blocks.min() < known.start or blocks.max() >= known.stop:
            known = range(int(blocks.min()), int(blocks.max()) + 1)
            if len(known) > len(blocks):
                distinct, inverse = np.unique(blocks, return_inverse=True)
                sources, ordinals = self._blocks(distinct)
                return sources[inverse, places], ordinals[inverse, places]
            sources, ordinals = self._blocks(np.arange(known.start, known.stop, dtype=np.int64))
            self._recent = (known, sources, ordinals)
        return sources[blocks - known.start, places], ordinals[blocks - known.start, places]

    def delivered(self, chunks: int) -> Int64Array:
        """Chunks of each source among the first `chunks` chunks, also inside a block; [sources]."""
        block, place = divmod(chunks, self.block_chunks)
        sources, _ = self._blocks(np.array([block], dtype=np.int64))
        begun = np.bincount(sources[0, :place], minlength=len(self.names))
        return self.chunks_before(block * self.block_chunks)[0] + begun

    def _blocks(self, blocks: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Sources and ordinals of whole blocks, each of shape [blocks, block_chunks].

        A permutation puts the block's places onto slots; the first slots belong to the first
        source, and so on.
        """
        before = self.chunks_before(blocks * self.block_chunks)
        counts = self.chunks_before((blocks + 1) * self.block_chunks) - before
        shape = (len(blocks), self.block_chunks)
        places = np.broadcast_to(np.arange(self.block_chunks), shape)
        slots = permute(places, self.block_chunks, numbered_keys(self._key, blocks)[:, None])
        sources = np.zeros(shape, dtype=np.int64)
        for end in np.cumsum(counts, axis=1).T[:-1]:
            sources += slots >= end[:, None]
        ordinals = np.empty(shape, dtype=np.int64)
        for number in range(len(self.names)):
            mine = sources == number
            ranks = np.cumsum(mine, axis=1) - 1
            ordinals[mine] = (before[:, number, None] + ranks)[mine]
        return sources, ordinals


def weight_parts(weights: Mapping[str, float], where: str = "mixture") -> dict[str, int]:
    """Weights as whole parts of `WEIGHT_UNIT`, summing to it exactly.

    Raises:
        DataError: no weights; a weight that is negative, not finite, or positive but below 1e-9;
            a sum further than 1e-9 from 1 (the message names the sum).
    """
    if not weights:
        raise DataError.of(where, "{}", "must name at least one source")
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise DataError.of(f"{where}.{name}", weight, "a weight is a number from 0 to 1", 0.0)
        if 0 < weight < 1 / WEIGHT_UNIT:
            raise DataError.of(
                f"{where}.{name}", weight, "weights are held to nine decimals", [0.0, 1e-9]
            )
    total = math.fsum(weights.values())
    if abs(total - 1) > SUM_TOLERANCE:
        scaled = {name: round(part / total, 9) for name, part in weights.items()} if total else None
        rule = f"weights must sum to 1, these sum to {total:.12g}"
        raise DataError.of(where, dict(weights), rule, scaled)
    parts = {name: round(weight / total * WEIGHT_UNIT) for name, weight in weights.items()}
    largest = max(parts, key=lambda name: (parts[name], name))
    parts[largest] += WEIGHT_UNIT - sum(parts.values())
    return parts
