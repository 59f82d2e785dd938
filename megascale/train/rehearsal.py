"""One training step of one rank with the real model and plan, on tensors without memory.

The model, its tensor and data parallelism and the optimizer are those of
`megascale.train.build`; tensors are fake (`FakeTensorMode`), and so is the process group, which
has as many ranks as asked for. What is counted is therefore what the trainer would do: the bytes
of this rank's shards, the storages alive at a time, each collective's bytes, each kernel's FLOPs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from megascale.config import RunConfig
from megascale.errors import RunError
from megascale.model.documents import Documents
from megascale.model.qwen3 import Qwen3
from megascale.parallel.mesh import Mesh
from megascale.train.build import Computation, build_computation
from megascale.train.distributed import Process
from megascale.train.metering import CollectiveMeter, StorageMeter, Traffic


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What one rank holds and does in a step; bytes throughout.

    Attributes:
        world_size: ranks.
        rank: the one rehearsed.
        sequence_length: tokens of a sequence.
        micro_batch_size: sequences of a micro-batch.
        micro_batches: of the step.
        parameters: of this rank's shards, exact.
        gradients: of the same.
        optimizer_state: what the config's optimizer keeps, step counts included.
        step_peak: most storage alive in a step, beyond parameters and optimizer state, with the
            kernels of the CPU; None under activation checkpointing, where tensors without memory
            are not freed as real ones are.
        traffic: collectives of a whole step, all micro-batches.
        flops: of the kernels of one micro-batch, recomputation and the full square of causal
            attention included.
        kernels: attention and expert kernels that were chosen.
        seconds: what the rehearsal took.
    """

    world_size: int
    rank: int
    sequence_length: int
    micro_batch_size: int
    micro_batches: int
    parameters: int
    gradients: int
    optimizer_state: int
    step_peak: int | None
    traffic: tuple[Traffic, ...]
    flops: int
    kernels: tuple[str, ...]
    seconds: float


@contextmanager
def fake_world(world_size: int, rank: int = 0) -> Iterator[None]:
    """A default process group of `world_size` ranks whose collectives move nothing.

    Raises:
        RunError: a process group is open already.
    """
    if dist.is_initialized():
        raise RunError("A rehearsal needs a process of its own: a process group is open already.")
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rehearse(
    config: RunConfig,
    world_size: int,
    *,
    sequence_length: int,
    micro_batch_size: int,
    micro_batches: int,
    rank: int = 0,
) -> Rehearsal:
    """Run one step of `rank` of a dense model without memory, data or network.

    Args:
        config: of the run.
        world_size: ranks.
        sequence_length: tokens of a sequence.
        micro_batch_size: sequences of a micro-batch.
        micro_batches: of a step on each data rank.
        rank: whose view is taken.

    Raises:
        LayoutError: the degrees do not fit.
    """
    began = time.perf_counter()
    place = Process(rank, world_size, 0, world_size, torch.device("cpu"))
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def materialise(model: Qwen3, mesh: Mesh) -> None:
        with mode:
            model.to_empty(device=mesh.device)

    with fake_world(world_size, rank):
        built = build_computation(config, place, materialise, replicating=mode)
        with mode:
            return _step(
                config, built, (micro_batch_size, sequence_length), micro_batches, began, place
            )


def _step(
    config: RunConfig,
    built: Computation,
    shape: tuple[int, int],
    micro_batches: int,
    began: float,
    place: Process,
) -> Rehearsal:
    optimizer, mesh, device = built.optimizer, built.mesh, place.device
    parameters = sum(_bytes(parameter.local) for parameter in optimizer.parameters)
    state = sum(map(_bytes, optimizer.state_tensors()))
    storages, collectives = StorageMeter(), CollectiveMeter(group_names(mesh))
    flops = FlopCounterMode(display=False)
    tokens = torch.zeros(shape, dtype=torch.int64, device=device)
    recomputes = config.train.activation_checkpointing != "off"
    rows, length = shape  # a document a sequence is the most work
    documents = Documents((length,) * rows) if config.data.mask_documents else None
    held: list[torch.Tensor] = [parameter.local for parameter in optimizer.parameters]
    held += optimizer.state_tensors()
    with storages.ignoring(held), flops:
        with collectives:
            # The first may gather what the later ones keep; those between are all alike.
            for times in _times(micro_batches):
                collectives.times = times
                _micro_batch(built, tokens, documents, last=False)
            counted = flops.get_total_flops()
            collectives.times = 1
            _micro_batch(built, tokens, documents, last=True)
            built.parallel.finish()
            gradients = optimizer.gradients()
            optimizer.local_square_sum(gradients)
            dist.all_reduce(torch.zeros(16, dtype=torch.float64, device=device))
        one = flops.get_total_flops() - counted
        size = sum(_bytes(gradient) for gradient in gradients)
        with collectives:  # Muon gathers matrices
            optimizer.step(gradients, lr=1e-3, weight_decay=0.1, grad_norm=2.0, clip=1.0)
    return Rehearsal(
        world_size=place.world_size,
        rank=place.rank,
        sequence_length=shape[1],
        micro_batch_size=shape[0],
        micro_batches=micro_batches,
        parameters=parameters,
        gradients=size,
        optimizer_state=state,
        step_peak=None if recomputes else storages.peak,
        traffic=collectives.traffic(),
        flops=one,
        kernels=storages.kernels(),
        seconds=time.perf_counter() - began,
    )


def _times(micro_batches: int) -> tuple[int, ...]:
    """How often each micro-batch counts that is rehearsed before the last."""
    return (1, micro_batches - 2)[: min(micro_batches - 1, 2)]


def _micro_batch(built: Computation, tokens: Any, documents: Any, last: bool) -> None:
    with built.parallel.accumulate(last=last):
        output = built.parallel(tokens, tokens, documents=documents)
        output.loss_sum.backward()


def group_names(mesh: Mesh) -> dict[str, str]:
    """Name of each of a mesh's process groups -> its dimension, the more special one first."""
    named: dict[str, str] = {}
    wanted: list[tuple[str, dist.ProcessGroup | None, int]] = [
        ("tensor", mesh.tp_group, mesh.tp_size),
        ("expert", mesh.ep_group, mesh.ep_size),
        ("data", mesh.dp_group, mesh.dp_size),
        ("data of equal experts", mesh.edp_group, mesh.edp_size),
    ]
    if mesh.data_mode == "hsdp" and mesh.dp_group is not None:
        for dimension in ("replicate", "shard"):
            part = mesh.dense_mesh.get_group(dimension)
            wanted.append((f"HSDP {dimension}", part, part.size()))
    wanted.append(("all ranks", dist.group.WORLD, mesh.world_size))
    for dimension, group, size in wanted:
        if group is not None and size > 1:
            named.setdefault(group.group_name, dimension)
    return named


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
