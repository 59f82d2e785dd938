"""transformers' own models, given our weights: the oracle of the parity tests."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_moe import modeling_qwen3_moe

from megascale.model.config import ModelConfig


class _TorchInDouble(ModuleType):
    """`torch` with single precision renamed to double: transformers' models upcast to fp32 by
    name in norms, rotary tables and the router, which would limit a comparison in fp64."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers' Qwen3 models, once built, compute in fp64 throughout."""
    for module in (modeling_qwen3, modeling_qwen3_moe, modeling_llama):
        monkeypatch.setattr(module, "torch", _TorchInDouble("torch"))


def hf_model(config: ModelConfig, attention: str = "sdpa", experts: str = "eager") -> nn.Module:
    """transformers' model of `config`, in the default dtype, with its own random weights."""
    keys: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "attn_implementation": attention,
        "use_cache": False,
        "experts_implementation": experts,
    }
    if not config.qk_norm:
        del keys["experts_implementation"]
        return LlamaForCausalLM(LlamaConfig(**keys))
    if not config.is_moe:
        return Qwen3ForCausalLM(Qwen3Config(**keys))
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **keys,
            num_experts=config.num_experts,
            num_experts_per_tok=config.num_experts_per_tok,
            moe_intermediate_size=config.moe_intermediate_size,
            norm_topk_prob=config.norm_topk_prob,
            decoder_sparse_step=config.decoder_sparse_step,
            mlp_only_layers=list(config.mlp_only_layers),
        )
    )


def hf_name(name: str) -> str:
    """transformers' in-memory name of one of our parameters."""
    return name.replace("experts.gate_up", "experts.gate_up_proj").replace(
        "experts.down", "experts.down_proj"
    )


@torch.no_grad()
def give_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy our weights into transformers' model; every parameter of it must be covered."""
    theirs = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        theirs.pop(hf_name(name)).copy_(parameter.reshape(_shape(target, name)))
    assert not theirs


def hf_gradient(model: nn.Module, name: str, like: Tensor) -> Tensor:
    """transformers' gradient of one of our parameters, in our shape."""
    gradient = model.get_parameter(hf_name(name)).grad
    assert gradient is not None, name
    return gradient.view_as(like)


def _shape(model: nn.Module, name: str) -> torch.Size:
    return model.get_parameter(hf_name(name)).shape
