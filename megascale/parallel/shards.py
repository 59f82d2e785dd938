"""Where every parameter lives: the one description that initialisation, checkpoints, the gradient
norm and import and export share.

A module declares a `ShardSpec` for each of its own parameters. Together with the mesh (and, under
FSDP2, the parameter's placements) it says which box of the whole tensor a rank holds: a `Chunk`.
Optimizer state has the geometry of its parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from megascale.parallel.mesh import Mesh


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """How one parameter is cut by tensor and expert parallelism.

    Attributes:
        global_shape: shape of the whole parameter.
        tp_dim: dimension cut into equal pieces over the tensor-parallel ranks, None if whole.
        ep_dim: dimension cut over the expert-parallel ranks, None if whole.
        tp_partial_grad: the parameter is whole on every tensor-parallel rank, but a backward
            pass leaves only that rank's share of its gradient; see
            `megascale.parallel.tensor.sync_partial_gradients`.
    """

    global_shape: tuple[int, ...]
    tp_dim: int | None = None
    ep_dim: int | None = None
    tp_partial_grad: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """The box of a whole tensor that this rank holds.

    Attributes:
        fqn: the parameter's name in the model.
        global_shape: shape of the whole tensor.
        offsets: first index of the box along each dimension.
        local: the box itself, a plain tensor that shares memory with the parameter.
        replicas: number of ranks that hold this same box.
    """

    fqn: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    local: Tensor
    replicas: int

    @property
    def box(self) -> tuple[slice, ...]:
        """Index of the box in the whole tensor."""
        return tuple(
            slice(start, start + size)
            for start, size in zip(self.offsets, self.local.shape, strict=True)
        )


def collect_specs(model: nn.Module) -> dict[str, ShardSpec]:
    """Specs of all parameters by name, in model order.

    Every module that owns parameters has a method `shard_specs()` for those.
    """
    specs: dict[str, ShardSpec] = {}
    for prefix, module in model.named_modules():
        if module._parameters:
            declare: Any = module.shard_specs
            for name, spec in declare().items():
                specs[f"{prefix}.{name}" if prefix else name] = spec
    return specs


def local_chunk(fqn: str, spec: ShardSpec, tensor: Tensor, mesh: Mesh) -> Chunk:
    """The chunk of a parameter, its gradient or its optimizer state on this rank.

    Args:
        fqn: name to carry along.
        spec: of the parameter.
        tensor: plain, or a `DTensor` placed by FSDP2 on top of the tensor and expert cuts.
        mesh: this rank's place.
    """
    offsets = [0] * len(spec.global_shape)
    shards = 1
    if spec.tp_dim is not None:
        offsets[spec.tp_dim] += mesh.tp_rank * (spec.global_shape[spec.tp_dim] // mesh.tp_size)
        shards *= mesh.tp_size
    if spec.ep_dim is not None:
        offsets[spec.ep_dim] += mesh.ep_rank * (spec.global_shape[spec.ep_dim] // mesh.ep_size)
        shards *= mesh.ep_size
    local = tensor.detach()
    if isinstance(local, DTensor):
        _, inner = compute_local_shape_and_global_offset(
            local.shape, local.device_mesh, local.placements
        )
        for dim, placement in enumerate(local.placements):
            if placement.is_shard():
                shards *= local.device_mesh.size(dim)
        local = local.to_local()
        # a rank past the last row holds an empty box; its offset must stay inside the tensor
        inner = tuple(inner) if local.numel() else (0,) * len(inner)
        offsets = [outer + within for outer, within in zip(offsets, inner, strict=True)]
    return Chunk(
        fqn=fqn,
        global_shape=spec.global_shape,
        offsets=tuple(offsets),
        local=local,
        replicas=mesh.world_size // shards,
    )


def replication(chunk: Chunk) -> int:
    """Number of ranks that hold the same box: what a sum over all ranks over-counts it by."""
    return chunk.replicas


def parameter(tensor: nn.Parameter) -> Tensor:
    """Reader for `model_chunks` and `gather_full`: the parameter itself."""
    return tensor


def gradient(tensor: nn.Parameter) -> Tensor:
    """Reader for `model_chunks` and `gather_full`: the gradient, zeros where there is none."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def model_chunks(
    model: nn.Module, mesh: Mesh, read: Callable[[nn.Parameter], Tensor] = parameter
) -> Iterator[Chunk]:
    """This rank's chunks in model order.

    Args:
        model: bare (not inside a wrapper that renames parameters).
        mesh: this rank's place.
        read: what to take of each parameter: `parameter`, `gradient`, or optimizer state.
    """
    specs = collect_specs(model)
    for fqn, owned in model.named_parameters():
        yield local_chunk(fqn, specs[fqn], read(owned), mesh)


def gather_each(
    model: nn.Module, mesh: Mesh, read: Callable[[nn.Parameter], Tensor] = parameter
) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors one at a time, on every rank. Collective: every rank must exhaust it.

    Yields:
        name and whole tensor (plain, on the parameter's device), in model order.
    """
    chunks = list(model_chunks(model, mesh, read))
    if mesh.world_size == 1:
        for chunk in chunks:
            yield chunk.fqn, chunk.local.clone()
        return
    geometry = [(chunk.offsets, tuple(chunk.local.shape)) for chunk in chunks]
    everyone: list[Any] = [None] * mesh.world_size
    dist.all_gather_object(everyone, geometry)
    for index, chunk in enumerate(chunks):
        boxes = [theirs[index] for theirs in everyone]
        largest = max(_numel(shape) for _, shape in boxes)
        padded = chunk.local.new_zeros(largest)
        padded[: chunk.local.numel()] = chunk.local.reshape(-1)
        pieces = [torch.empty_like(padded) for _ in boxes]
        dist.all_gather(pieces, padded)
        whole = chunk.local.new_empty(chunk.global_shape)
        for (offsets, shape), piece in zip(boxes, pieces, strict=True):
            box = tuple(slice(start, start + size) for start, size in zip(offsets, shape))
            whole[box] = piece[: _numel(shape)].view(shape)
        yield chunk.fqn, whole


def gather_full(
    model: nn.Module, mesh: Mesh, read: Callable[[nn.Parameter], Tensor] = parameter
) -> dict[str, Tensor]:
    """All whole tensors by name, on every rank. Collective; needs memory for the whole model."""
    return dict(gather_each(model, mesh, read))


@torch.no_grad()
def load_full(model: nn.Module, mesh: Mesh, whole: Callable[[str], Tensor]) -> None:
    """Fill every parameter from whole tensors, each rank keeping its own box. Not collective.

    Args:
        model: already on its final device.
        mesh: this rank's place.
        whole: the whole tensor of a parameter by name; called once per parameter.

    Raises:
        ValueError: a tensor has another shape than the parameter.
    """
    for chunk in model_chunks(model, mesh):
        tensor = whole(chunk.fqn)
        if tuple(tensor.shape) != chunk.global_shape:
            raise ValueError(
                f"{chunk.fqn}: shape {tuple(tensor.shape)}, expected {chunk.global_shape}"
            )
        chunk.local.copy_(tensor[chunk.box])


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
