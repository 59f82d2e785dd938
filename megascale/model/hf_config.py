"""Hub `config.json` to and from `ModelConfig` keys, refusing what the model cannot compute."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from megascale.errors import ConfigError

if TYPE_CHECKING:
    from megascale.model.config import ModelConfig

DENSE = ("Qwen3ForCausalLM", "qwen3")
MOE = ("Qwen3MoeForCausalLM", "qwen3_moe")
LLAMA = ("LlamaForCausalLM", "llama")

SHARED_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
}
MOE_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 4,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 768,
    "num_experts_per_tok": 8,
    "num_experts": 128,
    "norm_topk_prob": False,
    "mlp_only_layers": [],
}
LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "num_key_value_heads": None,
    "max_position_embeddings": 2048,
}
REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
ROPE_THETA = 10000.0
"""transformers' default where a file names no theta; every published Qwen3 names one."""

WITHOUT_EFFECT = frozenset(
    {
        "_attn_implementation",
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "max_window_layers",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "router_aux_loss_coef",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Keys that do not change the logits of a forward pass."""

CHECKED = frozenset(
    {
        "attention_dropout",
        "head_dim",
        "layer_types",
        "num_local_experts",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "use_sliding_window",
    }
)
"""Keys read or refused one by one below."""


def from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    """Translate a hub config (transformers 4 or 5 spelling) to `ModelConfig` arguments.

    Raises:
        ConfigError: another architecture; scaled RoPE; a sliding window in use; dropout in
            attention; quantised weights; or any key whose meaning is not known here.
    """
    family = _family(hf)
    moe, llama = family == MOE, family == LLAMA
    _refuse_what_cannot_be_computed(hf)
    defaults = SHARED_DEFAULTS | (MOE_DEFAULTS if moe else LLAMA_DEFAULTS if llama else {})
    known = WITHOUT_EFFECT | CHECKED | set(SHARED_DEFAULTS) | set(MOE_DEFAULTS) | set(REQUIRED)
    for key, value in hf.items():
        if key not in known and value not in (None, False, [], {}):
            raise ConfigError.of(
                f"config.json {key}",
                value,
                "is no known key of Qwen3 or Llama; remove it if it does not change the logits",
                difflib.get_close_matches(key, known, n=1) or None,
            )
    missing = [key for key in REQUIRED if key not in hf]
    if missing:
        raise ConfigError.of("config.json", sorted(hf), f"lacks {', '.join(missing)}")

    keys = {key: hf[key] for key in REQUIRED}
    for key, default in defaults.items():
        keys[key] = hf.get(key, default)
    if keys["num_key_value_heads"] is None:
        keys["num_key_value_heads"] = hf["num_attention_heads"]
    if moe:
        keys["num_experts"] = hf.get("num_experts", hf.get("num_local_experts", 128))
        keys["mlp_only_layers"] = tuple(keys["mlp_only_layers"] or ())
    # transformers defaults the head width differently in the families.
    default_head_dim = 128
    if moe or llama:
        default_head_dim = hf["hidden_size"] // hf["num_attention_heads"]
    keys["qk_norm"] = not llama
    keys["head_dim"] = hf.get("head_dim") or default_head_dim
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    thetas = [theta for theta in (hf.get("rope_theta"), rope.get("rope_theta")) if theta]
    for theta in thetas:
        if type(theta) not in (int, float):
            raise ConfigError.of("config.json rope_theta", theta, "must be a number", ROPE_THETA)
    if len(set(thetas)) > 1:
        raise ConfigError.of(
            "config.json rope_theta", thetas[0], f"rope_parameters says {thetas[1]}", thetas
        )
    keys["rope_theta"] = thetas[0] if thetas else ROPE_THETA
    return keys


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a model that transformers can compute.

    Both spellings of theta are written: `rope_theta` for transformers 4 and other readers,
    `rope_parameters` for transformers 5.

    Raises:
        ConfigError: shared experts or an expert bias are in use, or a MoE model has no QK-norm.
    """
    for key in ("shared_expert_intermediate_size", "expert_bias"):
        if getattr(config, key):
            raise ConfigError.of(
                f"model.{key}",
                getattr(config, key),
                "cannot be exported: transformers' Qwen3-MoE has no such part, and would load the "
                "rest as a different model",
                type(config).model_fields[key].default,
            )
    if config.is_moe and not config.qk_norm:
        raise ConfigError.of(
            "model.qk_norm",
            False,
            "cannot be exported: transformers' Qwen3-MoE always normalises queries and keys",
            True,
        )
    dense = DENSE if config.qk_norm else LLAMA
    architecture, model_type = MOE if config.is_moe else dense
    hf: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "attention_dropout": 0.0,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "use_cache": True,
    }
    if config.qk_norm:
        hf |= {"use_sliding_window": False, "sliding_window": None}
    else:
        hf["mlp_bias"] = False
    for key in (*REQUIRED, *SHARED_DEFAULTS, "head_dim"):
        hf[key] = getattr(config, key)
    if config.is_moe:
        for key in MOE_DEFAULTS:
            hf[key] = getattr(config, key)
        hf["mlp_only_layers"] = list(config.mlp_only_layers)
    return dict(sorted(hf.items()))


def _family(hf: dict[str, Any]) -> tuple[str, str]:
    architectures, model_type = hf.get("architectures") or [], hf.get("model_type")
    if not isinstance(architectures, list):
        raise ConfigError.of("config.json architectures", architectures, "must be a list")
    for family in (DENSE, MOE, LLAMA):
        if model_type == family[1] and all(name == family[0] for name in architectures):
            return family
    raise ConfigError.of(
        "config.json architectures",
        f"{list(architectures)} with model_type {model_type}",
        "only Qwen3 dense, Qwen3-MoE and Llama language models can be read",
        [f"{name} with model_type {kind}" for name, kind in (DENSE, MOE, LLAMA)],
    )


def _refuse_what_cannot_be_computed(hf: dict[str, Any]) -> None:
    for key in ("rope_scaling", "rope_parameters"):
        rope = hf.get(key) or {}
        if not isinstance(rope, dict):
            raise ConfigError.of(f"config.json {key}", rope, "must be a mapping or null")
        kind = rope.get("rope_type", rope.get("type", "default"))
        extra = sorted(set(rope) - {"rope_type", "type", "rope_theta"})
        if kind != "default" or extra:
            raise ConfigError.of(
                f"config.json {key}",
                rope,
                "scaled rotary embedding is not implemented; the model would compute other logits",
                "rope_type default",
            )
    kinds = hf.get("layer_types")
    if kinds is not None and not isinstance(kinds, list):
        raise ConfigError.of("config.json layer_types", kinds, "must be a list or null")
    sliding = [kind for kind in kinds or [] if kind != "full_attention"]
    if hf.get("use_sliding_window") or sliding:
        raise ConfigError.of(
            "config.json use_sliding_window",
            hf.get("use_sliding_window") or sliding[0],
            "sliding-window attention is not implemented; every layer attends to the whole past",
            False,
        )
    if hf.get("attention_dropout"):
        raise ConfigError.of(
            "config.json attention_dropout",
            hf["attention_dropout"],
            "there is no dropout in pretraining here",
            0.0,
        )
