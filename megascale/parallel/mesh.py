"""Ranks, degrees and process groups: the one place that knows who talks to whom.

Rank order, fastest first: tensor, expert, the data ranks that share an expert shard, HSDP
replica. So with `tp` tensor and `ep` expert ranks,
`rank = ((replica * shards + shard) * ep + ep_rank) * tp + tp_rank`, and the data rank is the
rank without its tensor part.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from megascale.errors import LayoutError
from megascale.parallel.layout import Layout


class Mesh:
    """Where this process stands among all ranks.

    Attributes:
        rank, world_size: place among all ranks.
        tp_rank, tp_size: place among the ranks that share every matrix multiplication.
        dp_rank, dp_size: place among the ranks that read different sequences.
        ep_rank, ep_size: place among the data ranks that hold different experts.
        edp_rank, edp_size: place among the data ranks that hold the same experts
            (`edp_size = dp_size / ep_size`).
        data_mode: `ddp`, `fsdp` or `hsdp`.
        hsdp_replicate: replicas of the sharded model (HSDP), else 1.
        tp_group, dp_group, ep_group, edp_group: process groups; None in a world of one.
    """

    def __init__(
        self,
        tensor: int = 1,
        data: int = 1,
        expert: int = 1,
        data_mode: str = "ddp",
        hsdp_replicate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        timeout: timedelta | None = None,
    ):
        """Place `rank` in the box of degrees; collective when a process group is open.

        Args:
            timeout: of collectives in the groups made here; None takes torch's.

        Raises:
            LayoutError: the degrees do not multiply to the world.
        """
        if tensor * data != world_size:
            raise LayoutError.of(
                "parallel.data",
                data,
                f"parallel.tensor = {tensor} times parallel.data must be the number of "
                f"ranks = {world_size}",
                max(1, world_size // tensor),
            )
        if data % (expert * hsdp_replicate):
            raise LayoutError.of(
                "parallel.expert",
                expert,
                f"times HSDP replicas = {hsdp_replicate} must divide parallel.data = {data}",
                1,
            )
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self._timeout = timeout
        self.data_mode, self.hsdp_replicate = data_mode, hsdp_replicate
        self.tp_size, self.dp_size, self.ep_size = tensor, data, expert
        self.edp_size = data // expert
        self.tp_rank = rank % tensor
        self.dp_rank = rank // tensor
        self.ep_rank = self.dp_rank % expert
        self.edp_rank = self.dp_rank // expert
        # dimensions: HSDP replica, data ranks of equal experts, expert, tensor
        self._ranks = torch.arange(world_size).view(
            hsdp_replicate, data // (hsdp_replicate * expert), expert, tensor
        )
        self.tp_group = self._group(3)
        self.dp_group = self._group(0, 1, 2)
        self.ep_group = self._group(2)
        self.edp_group = self._group(0, 1)

    @classmethod
    def from_layout(
        cls,
        layout: Layout,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str,
        timeout: timedelta | None = None,
    ) -> Mesh:
        """The mesh of a validated layout."""
        return cls(
            tensor=layout.tensor,
            data=layout.data,
            expert=layout.expert,
            data_mode=layout.data_mode,
            hsdp_replicate=layout.hsdp_replicate,
            rank=rank,
            world_size=world_size,
            device=device,
            timeout=timeout,
        )

    @cached_property
    def dense_mesh(self) -> DeviceMesh:
        """Data ranks for `fully_shard`: 1-D, or replica x shard under HSDP. Collective."""
        return self._data_mesh((1, 2))

    @cached_property
    def expert_mesh(self) -> DeviceMesh:
        """Like `dense_mesh`, over the ranks that hold the same experts. Collective."""
        return self._data_mesh((1,))

    def _data_mesh(self, shard_dims: tuple[int, ...]) -> DeviceMesh:
        shape = (self.hsdp_replicate, -1) if self.data_mode == "hsdp" else (-1,)
        varying = (0, *shard_dims)
        ranks = self._mine(varying).reshape(shape)
        if self.data_mode != "hsdp":
            groups = [self.dp_group if 2 in shard_dims else self.edp_group]
            names: tuple[str, ...] = ("shard",)
        else:
            groups = [self._group(0), self._group(*shard_dims)]
            names = ("replicate", "shard")
        present = [group for group in groups if group is not None]
        return DeviceMesh.from_group(
            present if len(present) > 1 else present[0],
            self.device.type,
            mesh=ranks,
            mesh_dim_names=names,
        )

    def _mine(self, varying: tuple[int, ...]) -> torch.Tensor:
        """Ranks that differ from this one only along the dimensions `varying`."""
        place = (self._ranks == self.rank).nonzero()[0]
        index = tuple(
            slice(None) if dim in varying else int(place[dim]) for dim in range(self._ranks.dim())
        )
        return self._ranks[index]

    def _group(self, *varying: int) -> dist.ProcessGroup | None:
        if self.world_size == 1 or not dist.is_initialized():
            return None
        fixed = [dim for dim in range(4) if dim not in varying]
        members = self._ranks.permute(*fixed, *varying).reshape(
            -1, int(torch.tensor([self._ranks.shape[dim] for dim in varying]).prod())
        )
        if members.shape[1] == self.world_size:
            return dist.group.WORLD
        mine: Any = dist.new_subgroups_by_enumeration(members.tolist(), timeout=self._timeout)[0]
        found: dist.ProcessGroup | None = mine
        return found
