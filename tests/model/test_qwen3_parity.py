"""Logits and every gradient equal transformers' with the same weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from megascale.model.config import ModelConfig
from megascale.model.count import parameter_shapes
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.mesh import Mesh
from tests.model.oracle import give_weights, hf_gradient, hf_model, in_double

DENSE = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
MOE = DENSE.model_copy(
    update={
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 20,
    }
)
VARIANTS = {
    "dense": DENSE,
    "dense, tied": DENSE.model_copy(update={"tie_word_embeddings": True}),
    "dense, biases, no grouping": DENSE.model_copy(
        update={"attention_bias": True, "num_key_value_heads": 4, "head_dim": 6}
    ),
    "llama": DENSE.model_copy(update={"qk_norm": False}),
    "llama, tied, biases": DENSE.model_copy(
        update={"qk_norm": False, "tie_word_embeddings": True, "attention_bias": True}
    ),
    "moe": MOE,
    "moe, weights not normalised": MOE.model_copy(update={"norm_topk_prob": False}),
    "moe, every second layer": MOE.model_copy(update={"decoder_sparse_step": 2}),
    "moe, layers 0 and 2 dense, tied": MOE.model_copy(
        update={"mlp_only_layers": (0, 2), "tie_word_embeddings": True}
    ),
}


def build(config: ModelConfig, dtype: torch.dtype, **options) -> Qwen3:
    """A model with weights large enough that every term matters."""
    torch.manual_seed(0)
    model = Qwen3(config, options=ModelOptions(**options)).to(dtype)
    initialize(model, Mesh(), seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            else:
                parameter.mul_(8)
    return model


def batch(config: ModelConfig, sequences: int = 2, length: int = 24):
    """Tokens and targets, some of them left out."""
    generator = torch.Generator().manual_seed(1)
    shape = (sequences, length)
    tokens = torch.randint(0, config.vocab_size, shape, generator=generator)
    targets = torch.randint(0, config.vocab_size, shape, generator=generator)
    targets[0, 3:6] = -100
    return tokens, targets


def compare(config, dtype, tolerance, monkeypatch, attention="sdpa"):
    """Logits from both, then the gradients of the summed loss from both."""
    model = build(config, dtype)
    assert {k: tuple(p.shape) for k, p in model.named_parameters()} == dict(
        parameter_shapes(config)
    )
    theirs = hf_model(config, attention).to(dtype)
    if dtype == torch.float64:
        in_double(monkeypatch)
    give_weights(model, theirs)
    tokens, targets = batch(config)
    logits = theirs(tokens).logits
    torch.testing.assert_close(model(tokens), logits, rtol=tolerance, atol=tolerance)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    loss.backward()
    ours = model(tokens, targets)
    ours.loss_sum.backward()
    torch.testing.assert_close(ours.loss_sum, loss, rtol=tolerance, atol=0)
    for name, parameter in model.named_parameters():
        expected = hf_gradient(theirs, name, parameter)
        error = (parameter.grad - expected).norm() / expected.norm()
        assert error < tolerance, (name, error)
        assert expected.norm() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_fp32(variant, monkeypatch):
    compare(VARIANTS[variant], torch.float32, 2e-5, monkeypatch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fp64(variant, monkeypatch):
    compare(VARIANTS[variant], torch.float64, 1e-12, monkeypatch)


def test_eager_attention_of_transformers_agrees_too(monkeypatch):
    compare(DENSE, torch.float64, 1e-12, monkeypatch, attention="eager")


def test_balance_loss_equals_transformers(monkeypatch):
    """Theirs pools all layers into one f and P; with one MoE layer and one window it is ours."""
    config = MOE.model_copy(update={"mlp_only_layers": (0, 2)})
    tokens, targets = batch(config)
    model = build(config, torch.float64, balance_window_tokens=tokens.numel())
    theirs = hf_model(config).double()
    in_double(monkeypatch)
    give_weights(model, theirs)
    aux = theirs(tokens, output_router_logits=True).aux_loss / config.num_experts_per_tok
    ours = model(tokens, targets).aux_sum
    torch.testing.assert_close(ours.double(), aux.double(), rtol=1e-6, atol=0)
    aux.backward()
    ours.backward()
    name = "model.layers.1.mlp.gate.weight"
    gradient = model.get_parameter(name).grad
    torch.testing.assert_close(gradient, hf_gradient(theirs, name, gradient), rtol=1e-5, atol=1e-9)


def test_bf16_rounds_like_transformers():
    """Same weights in bf16: both stay as close to fp64 as bf16 allows."""
    model = build(DENSE, torch.float64)
    tokens, _ = batch(DENSE)
    exact = model(tokens)
    theirs = hf_model(DENSE).double()
    give_weights(model, theirs)
    ours = model.to(torch.bfloat16)(tokens).double()
    hub = theirs.to(torch.bfloat16)(tokens).logits.double()
    assert (ours - exact).norm() < 1.15 * (hub - exact).norm()
