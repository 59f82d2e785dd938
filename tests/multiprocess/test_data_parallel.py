"""Gradients of whole steps under every data layout equal the single process's, in fp64.

The loss is not compared: layouts exist whose loss is right and whose gradients are not. Each case
runs two micro-batches of different valid-token counts, so that deferred synchronisation and the
global normaliser are part of what is compared.
"""

from __future__ import annotations

import pytest
import torch

from megascale.data.loader import LoadedMicroBatch, LoadedStep
from megascale.model.config import ModelConfig
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import gather_full, gradient
from megascale.train.optimizer import ShardedOptimizer
from megascale.train.step import Objective, accumulate_gradients
from tests.multiprocess.harness import spawn_ranks

SEQUENCES, LENGTH, MICRO_BATCHES = 8, 16, 2


def model_config(moe: bool) -> ModelConfig:
    sparse = (
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16} if moe else {}
    )
    return ModelConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        initializer_range=0.3,
        **sparse,
    )


def window() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets [SEQUENCES, LENGTH]; later sequences have fewer valid targets."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randint(0, 64, (SEQUENCES, LENGTH), generator=generator)
    targets = torch.randint(0, 64, (SEQUENCES, LENGTH), generator=generator)
    for row in range(SEQUENCES):
        targets[row, LENGTH - row :] = -100
    return inputs, targets


def own_step(mesh: Mesh, micro_batches: int, token_hash: int = 0) -> LoadedStep:
    """A rank's micro-batches of the step over the whole window."""
    inputs, targets = window()
    rows = SEQUENCES // (mesh.dp_size * micro_batches)
    batches = []
    for index in range(micro_batches):
        first = (index * mesh.dp_size + mesh.dp_rank) * rows
        own = slice(first, first + rows)
        batches.append(LoadedMicroBatch(inputs[own], targets[own], None, first * LENGTH))
    return LoadedStep(
        step=0,
        start=0,
        stop=SEQUENCES * LENGTH,
        valid_targets=int((targets != -100).sum()),
        token_hash=token_hash,
        micro_batches=tuple(batches),
    )


def step_gradients(rank: int, world_size: int, moe: bool, layout: dict) -> dict:
    """Whole gradients, gradient norm and statistics of one step on this layout."""
    torch.set_default_dtype(torch.float64)
    layout = dict(layout)
    sequence_parallel = layout.pop("sequence_parallel", False)
    gather = layout.pop("gather", "step")
    tensor = layout.get("tensor", 1)
    mesh = Mesh(**{**layout, "data": world_size // tensor}, rank=rank, world_size=world_size)
    config = model_config(moe)
    options = ModelOptions(
        sequence_parallel=sequence_parallel, balance_window_tokens=LENGTH if moe else None
    )
    model = Qwen3(config, mesh, options)
    initialize(model, mesh, seed=3)
    parallel = DataParallel(model, mesh, precision="fp32", gather=gather)
    optimizer = ShardedOptimizer(model, mesh)
    loaded = own_step(mesh, MICRO_BATCHES, token_hash=2**63 + mesh.dp_rank)
    statistics, _ = accumulate_gradients(
        parallel,
        mesh,
        optimizer,
        loaded,
        batch_tokens=SEQUENCES * LENGTH,
        objective=Objective(0.05, 0.01, LENGTH) if moe else Objective(),
        signalled=lambda: rank == world_size - 1 and world_size > 1,
    )
    return {
        "gradients": gather_full(model, mesh, gradient),
        "norm": statistics.grad_norm,
        "loss": statistics.loss,
        "aux_loss": statistics.aux_loss,
        "z_loss": statistics.z_loss,
        "counts": statistics.expert_counts,
        "entropy": statistics.router_entropy_sum,
        "hash": statistics.token_hash,
        "signalled": statistics.signalled,
    }


@pytest.fixture(scope="module", params=[False, True], ids=["dense", "moe"])
def moe(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def single(moe: bool) -> dict:
    return spawn_ranks(1, step_gradients, 1, moe, {})[0]


LAYOUTS = [
    (2, {"data_mode": "ddp"}),
    (2, {"data_mode": "fsdp"}),
    (2, {"data_mode": "fsdp", "gather": "block"}),
    (2, {"data_mode": "ddp", "expert": 2}),
    (2, {"data_mode": "fsdp", "expert": 2}),
    (2, {"tensor": 2}),
    (4, {"data_mode": "hsdp", "hsdp_replicate": 2}),
    (4, {"data_mode": "hsdp", "hsdp_replicate": 2, "expert": 2}),
    (4, {"data_mode": "ddp", "expert": 2}),
    (4, {"data_mode": "fsdp", "expert": 2}),
    (4, {"data_mode": "fsdp", "tensor": 2}),
    (4, {"data_mode": "ddp", "tensor": 2, "sequence_parallel": True}),
    (4, {"data_mode": "fsdp", "tensor": 2, "sequence_parallel": True, "expert": 2}),
]


@pytest.mark.parametrize(
    ("ranks", "layout"),
    LAYOUTS,
    ids=["-".join(f"{k}={v}" for k, v in {"ranks": n, **d}.items()) for n, d in LAYOUTS],
)
def test_every_gradient_equals_the_single_process(ranks, layout, moe, single):
    if layout.get("expert", 1) > 1 and not moe:
        pytest.skip("a dense model has no experts to spread")
    results = spawn_ranks(ranks, step_gradients, ranks, moe, layout)
    for result in results:
        assert result["gradients"].keys() == single["gradients"].keys()
        for name, expected in single["gradients"].items():
            found = result["gradients"][name]
            error = (found - expected).norm() / expected.norm()
            assert error < 1e-12, f"{name}: relative error {error:.3g}"
        assert result["norm"] == pytest.approx(single["norm"], rel=1e-12)
        assert result["loss"] == pytest.approx(single["loss"], rel=1e-12)
        assert result["aux_loss"] == pytest.approx(single["aux_loss"], rel=1e-12)
        assert result["z_loss"] == pytest.approx(single["z_loss"], rel=1e-12)
        assert torch.equal(result["counts"], single["counts"])
        assert result["entropy"] == pytest.approx(single["entropy"], rel=1e-9)
        data = ranks // layout.get("tensor", 1)
        assert result["hash"] == sum(2**63 + rank for rank in range(data)) % 2**64
        assert result["signalled"]
