"""Whole matrices out of their shards, each on one rank of a group, and shards back.

A rank sends its shard of every matrix to that matrix's owner and gets everybody's shards of those
that it owns: one all-to-all there and one back. Each matrix is worked on once in a group, and no
rank holds more than its share of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cut:
    """How a tensor is cut over the ranks of a group.

    Attributes:
        dim: dimension that is cut.
        sizes: length of each rank's part along it; may be 0.
    """

    dim: int
    sizes: tuple[int, ...]


def even_chunks(length: int, parts: int) -> tuple[int, ...]:
    """Lengths that `torch.chunk`, and so FSDP2, cuts a dimension into; 0 past its end."""
    each = -(-length // parts)
    return tuple(max(0, min(each, length - part * each)) for part in range(parts))


class ShardExchange:
    """Gathers and scatters tensors that one group cuts. All methods are collective in it."""

    def __init__(self, group: dist.ProcessGroup, cuts: Mapping[int, Cut]):
        """Args:
        group: the ranks that hold the parts, in order.
        cuts: number of a tensor -> how it is cut; the same on all ranks.
        """
        self._group, self._cuts = group, dict(cuts)
        self._size, self._rank = group.size(), dist.get_rank(group)
        self._owners: dict[int, int] = {}
        self._whole: dict[int, tuple[int, ...]] = {}
        self._like = torch.empty(0)

    def gather(self, held: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Replace the parts of tensors of this exchange by whole ones, of those it owns.

        Args:
            held: tensors by number, parts and others; all of one dtype.

        Returns:
            The others as they are, and whole tensors that this rank owns.
        """
        parts = {number: held[number] for number in sorted(held) if number in self._cuts}
        self._own(parts)
        if not parts:
            return dict(held)
        self._like = next(iter(parts.values())).new_empty(0)
        sent = [
            parts[number].reshape(-1)
            for rank in range(self._size)
            for number in parts
            if self._owners[number] == rank
        ]
        mine = [number for number in parts if self._owners[number] == self._rank]
        received = self._exchange(
            sent,
            [self._parts_of(rank, list(parts), of=self._rank) for rank in range(self._size)],
            [self._parts_of(self._rank, list(parts), of=rank) for rank in range(self._size)],
        )
        pieces: dict[int, list[Tensor]] = {number: [] for number in mine}
        start = 0
        for rank in range(self._size):
            for number in mine:
                shape = self._shape(number, rank)
                stop = start + _elements(shape)
                pieces[number].append(received[start:stop].view(shape))
                start = stop
        whole = {n: torch.cat(own, dim=self._cuts[n].dim) for n, own in pieces.items()}
        others = {number: tensor for number, tensor in held.items() if number not in self._cuts}
        return others | whole

    def scatter(self, held: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Undo `gather`: whole tensors that this rank owns become everybody's parts again."""
        numbers = sorted(self._owners)
        if not numbers:
            return dict(held)
        mine = [number for number in numbers if self._owners[number] == self._rank]
        split = {n: held[n].split(list(self._cuts[n].sizes), dim=self._cuts[n].dim) for n in mine}
        sent = [split[number][rank].reshape(-1) for rank in range(self._size) for number in mine]
        received = self._exchange(
            sent,
            [self._parts_of(self._rank, numbers, of=rank) for rank in range(self._size)],
            [self._parts_of(rank, numbers, of=self._rank) for rank in range(self._size)],
        )
        parts, start = {}, 0
        for rank in range(self._size):
            for number in numbers:
                if self._owners[number] == rank:
                    shape = self._shape(number, self._rank)
                    stop = start + _elements(shape)
                    parts[number] = received[start:stop].view(shape)
                    start = stop
        others = {number: tensor for number, tensor in held.items() if number not in self._cuts}
        return others | parts

    def _own(self, parts: Mapping[int, Tensor]) -> None:
        """Give each tensor an owner, the most work first to whoever has least."""
        self._whole = {}
        work = {}
        for number, part in parts.items():
            cut, shape = self._cuts[number], list(part.shape)
            shape[cut.dim] = sum(cut.sizes)
            self._whole[number] = tuple(shape)
            work[number] = _elements(tuple(shape)) * min(shape[-2:])
        loads = [0] * self._size
        self._owners = {}
        for number in sorted(work, key=lambda n: (-work[n], n)):
            rank = loads.index(min(loads))
            self._owners[number] = rank
            loads[rank] += work[number]

    def _shape(self, number: int, rank: int) -> tuple[int, ...]:
        """Shape of a rank's part of a tensor."""
        cut, shape = self._cuts[number], list(self._whole[number])
        shape[cut.dim] = cut.sizes[rank]
        return tuple(shape)

    def _parts_of(self, owner: int, numbers: list[int], *, of: int) -> int:
        """Elements of rank `of`'s parts of the tensors that `owner` owns."""
        return sum(_elements(self._shape(n, of)) for n in numbers if self._owners[n] == owner)

    def _exchange(self, sent: list[Tensor], to: list[int], back: list[int]) -> Tensor:
        flat = torch.cat(sent) if sent else self._like
        received = flat.new_empty(sum(back))
        dist.all_to_all_single(received, flat, back, to, group=self._group)
        return received


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
