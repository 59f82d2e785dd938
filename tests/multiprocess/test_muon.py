"""Muon makes bitwise the same update of equal gradients on every layout."""

from __future__ import annotations

import zlib

import pytest
import torch

from megascale.model.init import initialize
from megascale.model.kinds import method_of
from megascale.model.qwen3 import Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import Chunk, gather_full, local_chunk, model_chunks, parameter
from megascale.train.checkpoint import Checkpointer, latest_checkpoint, load_checkpoint
from megascale.train.groups import UpdateRule
from megascale.train.optimizer import ShardedOptimizer, local_tensor
from tests.multiprocess.harness import spawn_ranks
from tests.multiprocess.test_data_parallel import LAYOUTS, model_config

STEPS = 3


def build(rank: int, world_size: int, moe: bool, layout: dict) -> tuple:
    layout = {k: v for k, v in layout.items() if k not in ("sequence_parallel", "gather")}
    tensor = layout.get("tensor", 1)
    mesh = Mesh(**{**layout, "data": world_size // tensor}, rank=rank, world_size=world_size)
    model = Qwen3(model_config(moe), mesh)
    initialize(model, mesh, seed=3)
    DataParallel(model, mesh, precision="fp32")
    rules = {
        name: UpdateRule(method=method_of(name, "muon")) for name, _ in model.named_parameters()
    }
    return model, mesh, ShardedOptimizer(model, mesh, rules=rules)


def update(model: Qwen3, mesh: Mesh, optimizer: ShardedOptimizer, first: int, last: int) -> None:
    """Steps with gradients that depend on the parameter's name and the step alone."""
    for step in range(first, last):
        for name, owner in model.named_parameters():
            chunk = local_chunk(name, model.shard_specs()[name], owner, mesh)
            generator = torch.Generator().manual_seed(zlib.crc32(f"{step} {name}".encode()))
            whole = torch.randn(chunk.global_shape, generator=generator)
            owner.grad = torch.zeros_like(owner)
            local_tensor(owner.grad).copy_(whole[chunk.box])
        optimizer.step(optimizer.gradients(), lr=1e-2, weight_decay=0.1, grad_norm=1.0, clip=None)
        optimizer.zero_grad()


def updated(rank: int, world_size: int, moe: bool, layout: dict) -> dict:
    model, mesh, optimizer = build(rank, world_size, moe, layout)
    update(model, mesh, optimizer, 0, STEPS)
    return gather_full(model, mesh, parameter)


@pytest.fixture(scope="module", params=[False, True], ids=["dense", "moe"])
def moe(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def single(moe: bool) -> dict:
    return spawn_ranks(1, updated, 1, moe, {})[0]


def label(case: object) -> str:
    return str(case) if isinstance(case, int) else "-".join(f"{k}={v}" for k, v in case.items())


@pytest.mark.parametrize(("ranks", "layout"), LAYOUTS, ids=label)
def test_every_layout_makes_the_same_update(ranks, layout, moe, single):
    if layout.get("expert", 1) > 1 and not moe:
        pytest.skip("a dense model has no experts to spread")
    for result in spawn_ranks(ranks, updated, ranks, moe, layout):
        assert result.keys() == single.keys()
        for name, expected in single.items():
            if method_of(name, "muon") == "muon":
                assert torch.equal(result[name], expected), name
            else:  # fused AdamW rounds the ends of its vectors otherwise
                torch.testing.assert_close(result[name], expected, rtol=1e-5, atol=1e-7)


def state(model: Qwen3, mesh: Mesh, optimizer: ShardedOptimizer) -> list[Chunk]:
    return [*model_chunks(model, mesh), *optimizer.chunks().values()]


def save_after_one(rank: int, world_size: int, layout: dict, folder: str) -> None:
    model, mesh, optimizer = build(rank, world_size, True, layout)
    update(model, mesh, optimizer, 0, 1)
    Checkpointer(folder).save(step=1, tokens=1, chunks=state(model, mesh, optimizer), state={})


def load_and_go_on(rank: int, world_size: int, layout: dict, folder: str) -> dict:
    model, mesh, optimizer = build(rank, world_size, True, layout)
    load_checkpoint(latest_checkpoint(folder).path, state(model, mesh, optimizer))
    optimizer.updates = 1
    update(model, mesh, optimizer, 1, STEPS)
    return gather_full(model, mesh, parameter)


CUT = {"data_mode": "fsdp", "tensor": 2}
SPREAD = {"data_mode": "fsdp", "expert": 2}


@pytest.mark.parametrize(("source", "target"), [(CUT, SPREAD), (SPREAD, CUT)], ids=label)
def test_momentum_moves_between_layouts(tmp_path, source, target):
    """Saved after one step on one layout and continued on another: bitwise the single process."""
    spawn_ranks(4, save_after_one, 4, source, str(tmp_path))
    expected = spawn_ranks(1, updated, 1, True, {})[0]
    for result in spawn_ranks(4, load_and_go_on, 4, target, str(tmp_path)):
        for name, whole in expected.items():
            if method_of(name, "muon") == "muon":
                assert torch.equal(result[name], whole), name
