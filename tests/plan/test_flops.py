"""Model FLOPs against torch's own counter on transformers' models."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from megascale.model.config import ModelConfig, read_model_config
from megascale.plan.flops import device_peak, flops_per_token
from megascale.train.peak import measure_gemm

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
ROUTED = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def counted(config: ModelConfig, batch: int, length: int) -> dict[str, float]:
    """Training FLOPs per token by aten operation, of transformers' model with plain attention."""
    family = Qwen3MoeConfig if config.is_moe else Qwen3Config
    hf = family(**config.to_hf())
    hf._attn_implementation = "eager"
    hf._experts_implementation = "eager"  # the counter does not know grouped products
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(hf)
    tokens = torch.randint(config.vocab_size, (batch, length))
    with FlopCounterMode(display=False) as counter:
        model(tokens, use_cache=False).logits.float().logsumexp(-1).sum().backward()
    totals: dict[str, float] = {}
    for operation, flops in counter.get_flop_counts()["Global"].items():
        totals[str(operation)] = flops / (batch * length)
    return totals


@pytest.mark.parametrize("extra", [{}, {"tie_word_embeddings": True}, ROUTED])
def test_weights_and_attention_are_what_torch_counts(extra):
    config = ModelConfig(**SHAPE, **extra)
    length = 64
    ours = flops_per_token(config, length)
    theirs = counted(config, 2, length)
    # The counter sees the full square of attention; the past is half of it. Besides attention
    # there is one more batched product: the rotary angles, 2 FLOPs x head_dim / 2 per token,
    # forward only (its operands need no gradient).
    rotary = sum(theirs.values()) - theirs["aten.mm"] - 2 * ours.attention
    assert theirs["aten.mm"] == ours.weights
    assert 0 <= rotary <= config.head_dim


def test_known_totals(repository):
    # 6 x (8.19B - the input table of 0.62B - norms) and 36 layers of 4096-wide attention.
    config = read_model_config(repository / "configs/models/qwen3-8b.yaml")
    flops = flops_per_token(config, 4096)
    assert flops.attention == 6 * 36 * 4096 * 4096
    assert flops.weights == pytest.approx(6 * (8.190735e9 - 151936 * 4096), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA GeForce RTX 3060", None),
    ],
)
def test_device_names_find_their_peaks(name, peak):
    assert device_peak(name, "bf16") == peak


def test_the_measured_peak_is_a_rate_of_this_machine():
    # Any CPU of the last decades lies between these, and a unit slip would not.
    assert 1e8 < measure_gemm(size=256, seconds=0.02) < 1e15
