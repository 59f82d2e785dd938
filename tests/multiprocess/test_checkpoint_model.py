"""Checkpoints of a real MoE model and its optimizer, from one real layout to another."""

from __future__ import annotations

import zlib

import pytest
import torch
import torch.distributed as dist

from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import Chunk, model_chunks
from megascale.train.checkpoint import Checkpointer, latest_checkpoint, load_checkpoint
from megascale.train.optimizer import ShardedOptimizer
from tests.multiprocess.harness import spawn_ranks
from tests.multiprocess.test_shards import sharded

LAYOUTS = {
    "single": {},
    "tp2": {"tensor": 2},
    "ep2": {"data": 2, "expert": 2},
    "fsdp2": {"data": 2, "data_mode": "fsdp"},
    "tp2 fsdp2": {"tensor": 2, "data": 2, "data_mode": "fsdp"},
    "hsdp4": {"data": 4, "data_mode": "hsdp", "hsdp_replicate": 2},
    "ep2 fsdp4": {"data": 4, "expert": 2, "data_mode": "fsdp"},
}


def ranks_of(layout: str) -> int:
    return LAYOUTS[layout].get("tensor", 1) * LAYOUTS[layout].get("data", 1)


def training_state(layout: str) -> list[Chunk]:
    """This rank's parameters and Adam moments under a layout."""
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    mesh = Mesh(**LAYOUTS[layout], rank=rank, world_size=world_size)
    model = sharded(mesh)
    optimizer = ShardedOptimizer(model, mesh)
    return [*model_chunks(model, mesh), *optimizer.chunks().values()]


def expected(chunk: Chunk) -> torch.Tensor:
    """What this box must hold: a part of a whole tensor made from its name."""
    generator = torch.Generator().manual_seed(zlib.crc32(chunk.fqn.encode()))
    whole = torch.randn(chunk.global_shape, generator=generator, dtype=torch.float64)
    return whole.to(chunk.local.dtype)[chunk.box]


def save(rank: int, layout: str, folder: str) -> int:
    state = training_state(layout)
    for chunk in state:
        chunk.local.copy_(expected(chunk))
    Checkpointer(folder).save(step=1, tokens=1, chunks=state, state={})
    return len(state)


def load(rank: int, layout: str, folder: str) -> int:
    state = training_state(layout)
    for chunk in state:
        chunk.local.fill_(float("nan"))
    load_checkpoint(latest_checkpoint(folder).path, state)
    for chunk in state:
        assert torch.equal(chunk.local, expected(chunk)), chunk.fqn
    return len(state)


def on_ranks(function, layout: str, folder) -> list[int]:
    if ranks_of(layout) == 1:
        return [function(0, layout, str(folder))]
    return spawn_ranks(ranks_of(layout), function, layout, str(folder))


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ("tp2 fsdp2", ["single", "ep2", "ep2 fsdp4"]),
        ("ep2 fsdp4", ["tp2", "fsdp2", "hsdp4"]),
        ("single", ["tp2 fsdp2", "hsdp4"]),
    ],
)
def test_model_and_optimizer_move_between_layouts(tmp_path, source, targets):
    assert min(on_ranks(save, source, tmp_path)) > 10
    for target in (source, *targets):
        on_ranks(load, target, tmp_path)
