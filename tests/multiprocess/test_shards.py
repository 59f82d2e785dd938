"""One description of where parameters live: the same model under every layout, cut any way."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from megascale.model.init import initialize
from megascale.model.qwen3 import Qwen3
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import gather_full, load_full, model_chunks, replication
from tests.multiprocess.harness import spawn_ranks
from tests.multiprocess.test_gradients import MOE


def sharded(mesh: Mesh) -> Qwen3:
    """Built on meta, cut, and only then given memory."""
    with torch.device("meta"):
        model = Qwen3(MOE, mesh)
    if mesh.data_mode != "ddp":
        for block in model.blocks():
            experts = block.expert_module()
            if experts is not None and mesh.ep_size > 1:
                fully_shard(experts, mesh=mesh.expert_mesh)
            fully_shard(block, mesh=mesh.dense_mesh)
        fully_shard(model, mesh=mesh.dense_mesh)
    return model.to_empty(device="cpu")


def on_rank(rank: int, degrees: dict) -> tuple[dict[str, torch.Tensor], float, int]:
    mesh = Mesh(**degrees, rank=rank, world_size=dist.get_world_size())
    model = sharded(mesh)
    initialize(model, mesh, seed=11, depth_scaled=True)
    chunks = list(model_chunks(model, mesh))
    squares = sum(
        (chunk.local.double().square().sum() / replication(chunk) for chunk in chunks),
        torch.zeros((), dtype=torch.float64),
    )
    held = sum(chunk.local.numel() for chunk in chunks)
    dist.all_reduce(squares)
    whole = gather_full(model, mesh)
    initialize(model, mesh, seed=12)
    load_full(model, mesh, whole.__getitem__)
    again = gather_full(model, mesh)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    return whole, float(squares), held


LAYOUTS = [
    {"tensor": 2},
    {"data": 2, "expert": 2},
    {"data": 2, "data_mode": "fsdp"},
    {"tensor": 2, "data": 2, "data_mode": "fsdp"},
    {"data": 4, "data_mode": "hsdp", "hsdp_replicate": 2},
    {"data": 4, "expert": 2, "data_mode": "fsdp"},
    {"data": 4, "expert": 2, "data_mode": "hsdp", "hsdp_replicate": 2},
    {"tensor": 2, "data": 2, "expert": 2, "data_mode": "fsdp"},
]


@pytest.mark.parametrize(
    "degrees", LAYOUTS, ids=lambda d: " ".join(f"{k}={v}" for k, v in d.items())
)
def test_initial_weights_and_norm_do_not_know_the_layout(degrees):
    model = Qwen3(MOE)
    initialize(model, Mesh(), seed=11, depth_scaled=True)
    expected = dict(model.named_parameters())
    squares = float(sum(p.detach().double().square().sum() for p in expected.values()))
    world = degrees.get("tensor", 1) * degrees.get("data", 1)
    for whole, summed, held in spawn_ranks(world, on_rank, degrees):
        assert whole.keys() == expected.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, expected[name]), name
        assert summed == pytest.approx(squares, rel=1e-13)
        assert held < sum(p.numel() for p in expected.values())


def wrong_shape(rank: int) -> str:
    mesh = Mesh(tensor=2, rank=rank, world_size=2)
    model = sharded(mesh)
    try:
        load_full(model, mesh, lambda name: torch.zeros(3))
    except ValueError as failure:
        return str(failure)
    return ""


def test_a_tensor_of_another_shape_is_refused():
    for message in spawn_ranks(2, wrong_shape):
        assert "embed_tokens" in message
