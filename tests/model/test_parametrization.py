"""Factors by width and depth: the published rules, and the folding of multipliers."""

from __future__ import annotations

import pytest
import torch

from megascale.model.config import ModelConfig
from megascale.model.count import parameter_shapes
from megascale.model.parametrization import Ratios, Scaling, scaling_of

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "attention_bias": True,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ONES = Ratios(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("tied", [True, False])
def test_the_base_itself_is_the_standard_parametrization(tied: bool) -> None:
    config = ModelConfig(**SHAPE, **EXPERTS, tie_word_embeddings=tied)
    for name, _ in parameter_shapes(config):
        assert scaling_of(name, config, ONES, 1.0) == Scaling(), name


def test_hidden_matrices_follow_the_table_of_the_papers() -> None:
    """arXiv 2505.01618, table 1 with alpha 1: here at 4 times the width, twice the depth."""
    config = ModelConfig(**SHAPE)
    ratios = Ratios(4.0, 2.0, 4.0, 4.0, 4.0, 4.0, 1.0)
    layer = "model.layers.0."
    inner = scaling_of(layer + "mlp.up_proj.weight", config, ratios, 1.0)
    assert inner == Scaling(initial=0.5, lr=0.25, weight_decay=4.0, eps=0.125)
    # the same with the branch's multiplier of 1/2 folded in
    residual = scaling_of(layer + "mlp.down_proj.weight", config, ratios, 1.0)
    assert residual == Scaling(initial=0.25, lr=0.125, weight_decay=8.0, eps=0.25)
    # logits divided by 4, and eps by the width, in a matrix of its own
    head = scaling_of("lm_head.weight", config, ratios, 1.0)
    assert head == Scaling(initial=0.25, lr=0.25, weight_decay=4.0, eps=1.0)
    assert scaling_of("model.embed_tokens.weight", config, ratios, 1.0) == Scaling(eps=0.25)
    gain = scaling_of(layer + "input_layernorm.weight", config, ratios, 0.5)
    assert gain.lr == pytest.approx(2**-0.5)
    assert gain.eps == pytest.approx(2**-0.5 / 4)


def test_matrices_of_unequal_growth_follow_their_own_inputs() -> None:
    """arXiv 2601.20205: an expert's second matrix by expert width, its deviation not by fan-in."""
    config = ModelConfig(**SHAPE, **EXPERTS)
    ratios = Ratios(4.0, 1.0, 2.0, 1.0, 8.0, 1.0, 1.0)
    layer = "model.layers.0."
    down = scaling_of(layer + "mlp.experts.down", config, ratios, 1.0)
    assert (down.initial, down.lr) == (2.0 / 8.0, 1 / 8)
    up = scaling_of(layer + "mlp.experts.gate_up", config, ratios, 1.0)
    assert (up.initial, up.lr) == (0.5, 0.25)
    router = scaling_of(layer + "mlp.gate.weight", config, ratios, 1.0)
    assert (router.initial, router.lr) == (0.25, 0.25)
    out = scaling_of(layer + "self_attn.o_proj.weight", config, ratios, 1.0)
    assert (out.initial, out.lr) == (2**-0.5, 0.5)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_wider_heads_are_scaled_by_one_over_their_width(qk_norm: bool) -> None:
    """q k / sqrt(d) with the query times sqrt(base / d) is q k sqrt(base) / d."""
    config = ModelConfig(**SHAPE, qk_norm=qk_norm)
    ratios = Ratios(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0)
    name = "q_norm.weight" if qk_norm else "q_proj.weight"
    assert scaling_of(f"model.layers.0.self_attn.{name}", config, ratios, 1.0).initial == 0.5
    key = "k_norm.weight" if qk_norm else "k_proj.weight"
    assert scaling_of(f"model.layers.0.self_attn.{key}", config, ratios, 1.0).initial == 1.0


def test_adamw_does_not_notice_a_folded_multiplier() -> None:
    """m W trained with torch's AdamW, against w = m W with the folded factors."""
    multiplier, base = 0.125, Scaling(initial=0.5, lr=0.25, weight_decay=4.0, eps=3.0)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    x = torch.randn(16, 8, generator=generator, dtype=torch.float64)
    y = torch.randn(16, 8, generator=generator, dtype=torch.float64)

    def train(scaling: Scaling, factor: float) -> torch.Tensor:
        weight = torch.nn.Parameter(start * scaling.initial)
        optimizer = torch.optim.AdamW(
            [weight],
            lr=0.01 * scaling.lr,
            weight_decay=0.1 * scaling.weight_decay,
            eps=1e-3 * scaling.eps,
        )
        for _ in range(20):
            optimizer.zero_grad()
            (x @ (factor * weight).T - y).square().mean().backward()
            optimizer.step()
        return factor * weight.detach()

    folded, plain = train(base.folded(multiplier), 1.0), train(base, multiplier)
    torch.testing.assert_close(folded, plain, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(folded, train(base, 1.0), rtol=1e-3)


def test_batch_and_duration_are_those_of_completed_p() -> None:
    found = Scaling(lr=0.5, weight_decay=2.0).over(4.0, 16.0)
    assert found == Scaling(lr=0.25, weight_decay=1.0, eps=2.0)
