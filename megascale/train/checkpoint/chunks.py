"""Chunks of tensors as torch.distributed.checkpoint wants to see them.

A chunk is a box of a global tensor that this rank holds: `fqn`, `global_shape`, `offsets` and
the plain tensor `local`. The planners work on mappings fqn -> `ChunkSet`; the library's
planning does the rest: one rank of those that hold the same box writes it, and a load on another
layout reads just the overlaps.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterable
from typing import Any, Protocol

import torch
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    create_default_local_load_plan,
    create_default_local_save_plan,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from megascale.errors import CheckpointError

_SHOWN = 6  # names listed in an error before "and N more"


class TensorChunk(Protocol):
    """What megascale.parallel.shards.Chunk provides."""

    @property
    def fqn(self) -> str: ...
    @property
    def global_shape(self) -> tuple[int, ...]: ...
    @property
    def offsets(self) -> tuple[int, ...]: ...
    @property
    def local(self) -> torch.Tensor: ...


class ChunkSet:
    """The boxes of one global tensor on this rank."""

    def __init__(self, chunks: list[TensorChunk]) -> None:
        self.chunks = chunks

    def size(self) -> torch.Size:
        return torch.Size(self.chunks[0].global_shape)

    def __create_write_items__(self, fqn: str, _: Any) -> list[WriteItem]:
        return [
            WriteItem(
                index=MetadataIndex(fqn, torch.Size(chunk.offsets)),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=_box(chunk),
                    properties=TensorProperties(dtype=chunk.local.dtype),
                    size=self.size(),
                ),
            )
            for chunk in self.chunks
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [_box(chunk) for chunk in self.chunks]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        for chunk in self.chunks:
            if torch.Size(chunk.offsets) == index.offset:
                return chunk.local.detach()
        raise KeyError(f"no chunk of {index.fqn} at {index.offset} on this rank")


def group_chunks(chunks: Iterable[TensorChunk]) -> dict[str, ChunkSet]:
    """Chunks by name; those without elements are left out."""
    grouped: dict[str, ChunkSet] = {}
    for chunk in chunks:
        if chunk.local.numel() or not chunk.global_shape:
            grouped.setdefault(chunk.fqn, ChunkSet([])).chunks.append(chunk)
    return grouped


class ChunkSavePlanner(DefaultSavePlanner):
    """Plans the saving of a mapping fqn -> `ChunkSet`."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        self.plan = create_default_local_save_plan(self.state_dict, self.is_coordinator)
        return self.plan

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        plans, metadata = super().create_global_plan(all_plans)
        # The library refuses overlaps; gaps it lets pass when there is one rank.
        for fqn, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata)
            held = sum(math.prod(box.sizes) for box in tensor.chunks)
            if held != math.prod(tensor.size):
                raise CheckpointError(
                    f"{fqn}: the ranks hold {held} of its {math.prod(tensor.size)} elements"
                )
        return plans, metadata

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        return self.state_dict[index.fqn].__get_tensor_shard__(index)


class ChunkLoadPlanner(DefaultLoadPlanner):
    """Plans the loading, in place, of a mapping fqn -> `ChunkSet`; every mismatch is an error."""

    def __init__(self, *, partial: bool, names: Collection[str]) -> None:
        """Args:
        partial: whether tensors of the checkpoint that no rank asks for are fine.
        names: all tensors of the checkpoint; needed on the coordinator alone.
        """
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._partial = partial
        self._names = names

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        self.state_dict = state_dict
        self.metadata = metadata
        self.is_coordinator = is_coordinator

    def create_local_plan(self) -> LoadPlan:
        metadata = self._metadata()
        wrong = []
        for fqn, group in sorted(self.state_dict.items()):
            saved = metadata.state_dict_metadata.get(fqn)
            if saved is None:
                wrong.append(f"{fqn} is missing")
            elif not isinstance(saved, TensorStorageMetadata):
                wrong.append(f"{fqn} is not a tensor")
            elif saved.size != group.size():
                wrong.append(f"{fqn} is {list(saved.size)}, wanted {list(group.size())}")
            elif saved.properties.dtype != (dtype := group.chunks[0].local.dtype):
                wrong.append(f"{fqn} is {saved.properties.dtype}, wanted {dtype}")
        if wrong:
            raise CheckpointError(
                f"the checkpoint does not fit the model: {_listed(wrong)}. "
                "Load it with the config it was saved with"
            )
        plan = create_default_local_load_plan(self.state_dict, metadata)
        plan.planner_data = sorted(self.state_dict)
        return plan

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        asked = {fqn for plan in global_plan for fqn in plan.planner_data}
        left = sorted(set(self._names) - asked)
        if left and not self._partial:
            raise CheckpointError(
                f"the checkpoint holds tensors this model does not have: {_listed(left)}. "
                "Load it with the config it was saved with"
            )
        return global_plan

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        return self.state_dict[index.fqn].__get_tensor_shard__(index)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise CheckpointError(f"{read_item.storage_index.fqn}: not a tensor; refused unread")

    def _metadata(self) -> Metadata:
        if self.metadata is None:
            raise CheckpointError("the checkpoint has no index")
        return self.metadata


def _box(chunk: TensorChunk) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(chunk.offsets), chunk.local.shape)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
