"""The part of a checkpoint's index that one rank needs.

The index has an entry for every chunk of every tensor: thousands of ranks times thousands of
tensors. One rank reads it and gives each rank the chunks that overlap what that rank holds, a
handful for each of its tensors, however many ranks there are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes in the whole tensor."""


class IndexParts:
    """An index, looked up by boxes.

    A box that was saved as it is wanted is found at once; another one among the chunks whose first
    coordinate may overlap.
    """

    def __init__(self, index: Mapping[str, Any]) -> None:
        """Args:
        index: `index.json`, checked: the chunks of every tensor cover it once.
        """
        self._tensors = index["tensors"]
        self._sorted: dict[str, tuple[list[int], list[dict[str, Any]], int]] = {}
        self._exact: dict[str, dict[Box, dict[str, Any]]] = {}

    def part(self, wanted: Mapping[str, Sequence[Box]]) -> dict[str, Any]:
        """The entries of the tensors wanted, each with the chunks that overlap a wanted box.

        Args:
            wanted: tensor -> boxes; tensors that the index lacks are left out.
        """
        return {
            "tensors": {
                fqn: {**self._tensors[fqn], "chunks": self._overlapping(fqn, boxes)}
                for fqn, boxes in wanted.items()
                if fqn in self._tensors
            }
        }

    def _overlapping(self, fqn: str, boxes: Sequence[Box]) -> list[dict[str, Any]]:
        if fqn not in self._exact:
            self._prepare(fqn)
        starts, chunks, widest = self._sorted[fqn]
        found: dict[int, dict[str, Any]] = {}
        for offsets, sizes in boxes:
            same = self._exact[fqn].get((tuple(offsets), tuple(sizes)))
            if same is not None:
                found[id(same)] = same
                continue
            if not offsets:
                found.update((id(chunk), chunk) for chunk in chunks)
                continue
            first = bisect_left(starts, offsets[0] - widest + 1)
            last = bisect_left(starts, offsets[0] + sizes[0])
            for chunk in chunks[first:last]:
                if all(
                    low < offset + size and offset < low + extent
                    for low, extent, offset, size in zip(
                        chunk["offsets"], chunk["shape"], offsets, sizes, strict=False
                    )
                ):
                    found[id(chunk)] = chunk
        return list(found.values())

    def _prepare(self, fqn: str) -> None:
        chunks = self._tensors[fqn]["chunks"]
        ordered = sorted(chunks, key=lambda chunk: chunk["offsets"][:1])
        starts = [chunk["offsets"][0] if chunk["offsets"] else 0 for chunk in ordered]
        widest = max((chunk["shape"][0] for chunk in chunks if chunk["shape"]), default=1)
        self._sorted[fqn] = (starts, ordered, widest)
        self._exact[fqn] = {
            (tuple(chunk["offsets"]), tuple(chunk["shape"])): chunk for chunk in chunks
        }
