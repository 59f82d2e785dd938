"""The shape of a Qwen3 or Qwen3-MoE model, under the key names of the hub's `config.json`.

One class describes both families: `num_experts = 0` is dense. Everything that changes the
function the model computes is here and nothing else is, so two equal configs are the same
function family and a checkpoint can be compared with a model by comparing configs.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from megascale.errors import ConfigError
from megascale.shipped import locate

Int = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class ModelConfig(BaseModel):
    """Shape and constants of one decoder-only model.

    Raises:
        ConfigError: a value breaks a rule (the message names the key, the rule and the nearest
            legal values). Unknown keys and wrong types raise pydantic's `ValidationError`,
            which `megascale.config` turns into a `ConfigError`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: Int = Field(description="rows of the embedding: one more than the largest token id")
    hidden_size: Int = Field(description="width of the residual stream")
    intermediate_size: Int = Field(description="inner width of a dense SwiGLU layer")
    num_hidden_layers: Int = Field(description="decoder layers")
    num_attention_heads: Int = Field(description="query heads")
    num_key_value_heads: Int = Field(
        description="key and value heads; divides num_attention_heads (GQA)"
    )
    head_dim: Int = Field(description="width of one head, even; independent of hidden_size")
    rms_norm_eps: Number = Field(1e-6, description="added to the mean square inside every RMSNorm")
    rope_theta: Number = Field(1e6, description="base of the rotary frequencies")
    max_position_embeddings: Int = Field(
        32768,
        description="longest sequence the model is declared for; sequence_length may not exceed it",
    )
    tie_word_embeddings: Flag = Field(
        False, description="the output projection is the embedding, counted and stored once"
    )
    attention_bias: Flag = Field(False, description="biases on q, k, v and o projections")
    qk_norm: Flag = Field(
        True,
        description="RMSNorm of queries and keys of each head, as in Qwen3; without it a dense "
        "model is a Llama",
    )
    hidden_act: str = Field("silu", description="activation of SwiGLU; only silu exists in Qwen3")
    initializer_range: Number = Field(0.02, description="standard deviation of the initial weights")

    num_experts: Int = Field(0, description="routed experts of an MoE layer; 0 makes a dense model")
    num_experts_per_tok: Int = Field(0, description="experts each token is sent to (top-k)")
    moe_intermediate_size: Int = Field(0, description="inner width of one routed expert")
    norm_topk_prob: Flag = Field(
        True, description="the chosen experts' probabilities are rescaled to sum to 1"
    )
    decoder_sparse_step: Int = Field(
        1, description="layer i is MoE when i + 1 is a multiple of this"
    )
    mlp_only_layers: tuple[Int, ...] = Field(
        (), description="layers (from 0) that stay dense whatever decoder_sparse_step says"
    )

    shared_expert_intermediate_size: Int = Field(
        0, description="inner width of an expert that sees every token; 0 for none (not in Qwen3)"
    )
    shared_expert_gate: Flag = Field(
        False, description="scale the shared expert's output by a learned sigmoid (not in Qwen3)"
    )
    expert_bias: Flag = Field(
        False,
        description="a per-expert bias that moves the choice of experts, not their weights: "
        "balance without an auxiliary loss (not in Qwen3)",
    )

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return self.num_experts > 0

    def is_moe_layer(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) is MoE, by Qwen3-MoE's rule."""
        return (
            self.is_moe
            and layer not in self.mlp_only_layers
            and (layer + 1) % self.decoder_sparse_step == 0
        )

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the MoE layers, ascending."""
        return tuple(i for i in range(self.num_hidden_layers) if self.is_moe_layer(i))

    @property
    def query_size(self) -> int:
        """Width of all query heads together: num_attention_heads x head_dim."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key (or value) heads together: num_key_value_heads x head_dim."""
        return self.num_key_value_heads * self.head_dim

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all keys: equal digests, equal models."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> Self:
        """Read a hub `config.json` of `Qwen3ForCausalLM` or `Qwen3MoeForCausalLM`.

        See `megascale.model.hf_config.from_hf` for what is refused.

        Raises:
            ConfigError: the file describes something this model cannot compute.
        """
        from megascale.model.hf_config import from_hf

        return cls(**from_hf(hf))

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers loads as the same model.

        Raises:
            ConfigError: shared experts or an expert bias are in use; Qwen3-MoE has neither.
        """
        from megascale.model.hf_config import to_hf

        return to_hf(self)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "decoder_sparse_step",
        ):
            self._at_least(key, 1)
        for key, field in type(self).model_fields.items():
            if field.annotation is int:
                self._at_most(key, LARGEST.get(key, LARGEST_SIZE))
        self._at_least("vocab_size", 2)
        self._at_least("shared_expert_intermediate_size", 0)
        self._at_least("num_experts", 0)
        for key in ("rms_norm_eps", "rope_theta", "initializer_range"):
            value = getattr(self, key)
            if not 0 < value < float("inf"):
                raise ConfigError.of(f"model.{key}", value, "must be positive and finite")
        if self.head_dim < 2 or self.head_dim % 2:
            even = max(2, self.head_dim - 1)
            raise ConfigError.of(
                "model.head_dim",
                self.head_dim,
                "must be even: rotary embedding turns pairs",
                sorted({even, max(2, self.head_dim + 1)}),
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError.of(
                "model.num_key_value_heads",
                self.num_key_value_heads,
                f"must divide num_attention_heads = {self.num_attention_heads}",
                nearest_divisors(self.num_key_value_heads, self.num_attention_heads),
            )
        if self.hidden_act != "silu":
            raise ConfigError.of(
                "model.hidden_act",
                self.hidden_act,
                "Qwen3 is SwiGLU: the activation is silu",
                "silu",
            )
        if self.is_moe:
            self._check_moe()
        else:
            self._check_dense()
        return self

    def _check_moe(self) -> None:
        self._at_least("moe_intermediate_size", 1)
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ConfigError.of(
                "model.num_experts_per_tok",
                self.num_experts_per_tok,
                f"a token goes to 1 to num_experts = {self.num_experts} experts",
                min(max(self.num_experts_per_tok, 1), self.num_experts),
            )
        last = self.num_hidden_layers - 1
        for layer in self.mlp_only_layers:
            if not 0 <= layer <= last:
                raise ConfigError.of(
                    "model.mlp_only_layers",
                    list(self.mlp_only_layers),
                    f"layer {layer} does not exist: layers are 0 to {last}",
                    min(max(layer, 0), last),
                )
        if list(self.mlp_only_layers) != sorted(set(self.mlp_only_layers)):
            raise ConfigError.of(
                "model.mlp_only_layers",
                list(self.mlp_only_layers),
                "layers must be ascending, each once",
                [sorted(set(self.mlp_only_layers))],
            )
        if not self.moe_layers:
            raise ConfigError.of(
                "model.num_experts",
                self.num_experts,
                f"decoder_sparse_step = {self.decoder_sparse_step} and mlp_only_layers leave no "
                f"MoE layer among {self.num_hidden_layers}",
                0,
            )
        if self.shared_expert_gate and not self.shared_expert_intermediate_size:
            raise ConfigError.of(
                "model.shared_expert_gate",
                True,
                "there is no shared expert to gate: shared_expert_intermediate_size = 0",
                False,
            )

    def _check_dense(self) -> None:
        for key in MOE_KEYS:
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default:
                raise ConfigError.of(
                    f"model.{key}",
                    list(value) if isinstance(value, tuple) else value,
                    "has no meaning in a dense model (num_experts = 0)",
                    default,
                )

    def _at_least(self, key: str, smallest: int) -> None:
        value = getattr(self, key)
        if value < smallest:
            raise ConfigError.of(f"model.{key}", value, f"must be at least {smallest}", smallest)

    def _at_most(self, key: str, largest: int) -> None:
        value = getattr(self, key)
        if value > largest:
            raise ConfigError.of(f"model.{key}", value, f"must be at most {largest}", largest)


LARGEST_SIZE = 2**31 - 1
LARGEST = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16,
    "num_experts": 2**16,
    "num_experts_per_tok": 2**16,
}
"""Largest legal sizes, of most keys and of those that checks count through one by one."""

MOE_KEYS = (
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
    "shared_expert_intermediate_size",
    "shared_expert_gate",
    "expert_bias",
)
"""Keys that must keep their defaults when `num_experts` is 0."""


def nearest_divisors(value: int, of: int) -> list[int]:
    """The largest divisor of `of` below `value` and the smallest above it, where they exist."""
    small = [d for d in range(1, math.isqrt(max(of, 0)) + 1) if of % d == 0]
    divisors = sorted({*small, *(of // d for d in small)})
    below = [d for d in divisors if d <= value][-1:]
    above = [d for d in divisors if d > value][:1]
    return below + above


def read_model_config(path: str | Path) -> ModelConfig:
    """Read a model's shape from a YAML preset, a hub `config.json` or a folder that holds one.

    A name that stands for nothing here is looked for among the shipped presets.

    Raises:
        ConfigError: the file is missing, is not a mapping, or breaks a rule.
    """
    from megascale.formats.json_text import read_json
    from megascale.formats.yaml_text import MOST_CHARACTERS, parse_yaml

    path = locate(path, "models")
    if path.is_dir():
        path = path / "config.json"
    is_json = path.suffix == ".json"
    if is_json:
        content = read_json(path, "model preset", error=ConfigError, most_bytes=MOST_CHARACTERS)
    else:
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(MOST_CHARACTERS + 1)
        except (OSError, UnicodeDecodeError) as failure:
            raise ConfigError.of("model preset", str(path), f"cannot be read: {failure}") from None
        content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError.of("model preset", str(path), "must hold a mapping of keys to values")
    try:
        return ModelConfig.from_hf(content) if is_json else ModelConfig.model_validate(content)
    except ValidationError as failure:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
            for error in failure.errors()
        )
        raise ConfigError.of("model preset", str(path), problems) from failure
