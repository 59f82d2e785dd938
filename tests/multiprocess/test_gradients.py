"""Every parameter's gradient is the single process's, on every layout, in fp64.

The loss alone proves nothing here: whole parameters inside tensor-parallel regions can hold a
fraction of their gradient while every loss is right.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from megascale.model.config import ModelConfig
from megascale.model.documents import Documents
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import gather_full, gradient
from megascale.parallel.tensor import sync_partial_gradients
from tests.multiprocess.harness import spawn_ranks

DENSE = ModelConfig(
    vocab_size=64,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    attention_bias=True,
)
MOE = DENSE.model_copy(
    update={
        "num_hidden_layers": 3,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 12,
        "mlp_only_layers": (1,),
        "shared_expert_intermediate_size": 8,
        "shared_expert_gate": True,
        "expert_bias": True,
    }
)
SEQUENCES, LENGTH, MICRO_BATCHES, WINDOW = 8, 16, 2, 16
TOLERANCE = 1e-12


def make(config: ModelConfig, mesh: Mesh, **options) -> Qwen3:
    model = Qwen3(config, mesh, ModelOptions(balance_window_tokens=WINDOW, **options)).double()
    initialize(model, mesh, seed=5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(torch.linspace(-0.3, 0.3, parameter.numel()))
            elif not name.endswith("bias"):
                parameter.mul_(8)
        for buffer in model.buffers():
            buffer.copy_(torch.linspace(-0.05, 0.05, buffer.numel()))
    return model


def train_step(model: Qwen3, mesh: Mesh) -> dict[str, torch.Tensor]:
    """Accumulate the whole batch's gradient, as the training objective defines it."""
    generator = torch.Generator().manual_seed(2)
    shape = (SEQUENCES, LENGTH)
    tokens = torch.randint(0, model.config.vocab_size, shape, generator=generator)
    targets = torch.randint(0, model.config.vocab_size, shape, generator=generator)
    targets[0, :5] = -100
    documents = (torch.arange(LENGTH) > 6).long().expand(shape)
    valid = (targets != -100).sum()
    rows = SEQUENCES // (MICRO_BATCHES * mesh.dp_size)
    loss = torch.zeros((), dtype=torch.float64)
    for index in range(MICRO_BATCHES):
        start = (index * mesh.dp_size + mesh.dp_rank) * rows
        part = slice(start, start + rows)
        out = model(tokens[part], targets[part], documents=Documents.of(documents[part]))
        objective = (
            out.loss_sum / valid
            + 0.1 * out.aux_sum / (tokens.numel() / WINDOW)
            + 0.01 * out.z_sum / tokens.numel()
        )
        objective.backward()
        loss += objective.detach()
    sync_partial_gradients(model, mesh)
    specs = model.shard_specs()
    if mesh.dp_size > 1:
        dist.all_reduce(loss, group=mesh.dp_group)
        for name, parameter in model.named_parameters():
            local = mesh.ep_size > 1 and specs[name].ep_dim is not None
            dist.all_reduce(parameter.grad, group=mesh.edp_group if local else mesh.dp_group)
    return {"loss": loss, **gather_full(model, mesh, gradient)}


def on_rank(rank: int, config: ModelConfig, degrees: dict, options: dict) -> dict[str, float]:
    """Relative error of the loss and of every gradient against one process."""
    mesh = Mesh(**degrees, rank=rank, world_size=dist.get_world_size())
    actual = train_step(make(config, mesh, **options), mesh)
    expected = train_step(make(config, Mesh()), Mesh())
    assert actual.keys() == expected.keys()
    errors = {}
    for name, gradient_ in expected.items():
        assert gradient_.norm() > 1e-9, name
        errors[name] = float((actual[name] - gradient_).norm() / gradient_.norm())
    return errors


LAYOUTS = [
    (DENSE, {"tensor": 2}, {}),
    (DENSE, {"tensor": 2}, {"sequence_parallel": True}),
    (DENSE.model_copy(update={"tie_word_embeddings": True}), {"tensor": 2}, {}),
    (DENSE.model_copy(update={"qk_norm": False}), {"tensor": 2}, {}),
    (MOE, {"tensor": 2}, {}),
    (MOE, {"tensor": 2}, {"sequence_parallel": True, "checkpoint_every": 2}),
    (MOE, {"data": 2}, {}),
    (MOE, {"data": 2, "expert": 2}, {}),
    (MOE, {"data": 2, "expert": 2}, {"checkpoint_every": 1}),
    (DENSE, {"tensor": 2, "data": 2}, {"sequence_parallel": True}),
    (MOE, {"tensor": 2, "data": 2}, {}),
    (MOE, {"tensor": 2, "data": 2, "expert": 2}, {}),
    (MOE, {"tensor": 2, "data": 2, "expert": 2}, {"sequence_parallel": True}),
    (MOE, {"data": 4, "expert": 2}, {}),
    (MOE, {"data": 4, "expert": 4}, {}),
]


def label(value) -> str | None:
    if isinstance(value, ModelConfig):
        return ("moe" if value.is_moe else "dense") + (" tied" * value.tie_word_embeddings)
    return " ".join(f"{key}={item}" for key, item in value.items()) or "-"


@pytest.mark.parametrize(("config", "degrees", "options"), LAYOUTS, ids=label)
def test_every_gradient(config, degrees, options):
    world = degrees.get("tensor", 1) * degrees.get("data", 1)
    for errors in spawn_ranks(world, on_rank, config, degrees, options):
        worst = max(errors, key=errors.__getitem__)
        assert errors[worst] < TOLERANCE, (worst, errors[worst])


def forgetful_rank(rank: int) -> float:
    """QK-norm's gradient without its sum over tensor ranks."""
    mesh = Mesh(tensor=2, rank=rank, world_size=2)
    whole = train_step(make(DENSE, Mesh()), Mesh())
    model = make(DENSE, mesh)
    for module in model.modules():
        if hasattr(module, "_partial"):
            module._partial = False
    name = "model.layers.0.self_attn.q_norm.weight"
    return float((train_step(model, mesh)[name] - whole[name]).norm() / whole[name].norm())


def test_the_comparison_sees_a_missing_sum():
    assert min(spawn_ranks(2, forgetful_rank)) > 0.1
