"""How many parameters a model has: total, active, embedding, and by component.

Closed forms over `ModelConfig`; nothing is built. The counting convention is that of the Qwen3
model cards: a tied embedding is one table counted once; *embedding* is the input table plus, when
untied, the output projection; *active* is what one token passes through, embedding included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from megascale.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Component:
    """One kind of weight, summed over the layers that have it.

    Attributes:
        name: what it is, in model terms.
        parameters: elements in the whole model.
        active: elements that one token passes through.
    """

    name: str
    parameters: int
    active: int


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters of one model. All counts are elements, not bytes."""

    total: int
    active: int
    embedding: int
    non_embedding: int
    active_non_embedding: int
    matmul_active: int
    """Active parameters that multiply: without the input table and norms, with the output
    projection (tied or not). Six times this is the FLOPs per trained token, attention apart."""
    components: tuple[Component, ...]

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain JSON types."""
        return asdict(self)


def parameter_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every parameter's name and global shape, in model order.

    Names are the model's own: the hub's, with each MoE layer's experts stacked as
    `mlp.experts.gate_up [E, 2, I, H]` and `mlp.experts.down [E, H, I]`. A tied output projection
    is not listed. The expert bias is a buffer, not a parameter, and is not listed either.
    """
    hidden = config.hidden_size
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        attention = f"{prefix}.self_attn"
        for name, rows, columns in (
            ("q_proj", config.query_size, hidden),
            ("k_proj", config.key_value_size, hidden),
            ("v_proj", config.key_value_size, hidden),
            ("o_proj", hidden, config.query_size),
        ):
            yield f"{attention}.{name}.weight", (rows, columns)
            if config.attention_bias:
                yield f"{attention}.{name}.bias", (rows,)
        if config.qk_norm:
            yield f"{attention}.q_norm.weight", (config.head_dim,)
            yield f"{attention}.k_norm.weight", (config.head_dim,)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        if config.is_moe_layer(layer):
            experts, inner = config.num_experts, config.moe_intermediate_size
            yield f"{prefix}.mlp.gate.weight", (experts, hidden)
            yield f"{prefix}.mlp.experts.gate_up", (experts, 2, inner, hidden)
            yield f"{prefix}.mlp.experts.down", (experts, hidden, inner)
            if config.shared_expert_intermediate_size:
                shared = config.shared_expert_intermediate_size
                yield from _swiglu(f"{prefix}.mlp.shared_expert", hidden, shared)
                if config.shared_expert_gate:
                    yield f"{prefix}.mlp.shared_expert_gate.weight", (1, hidden)
        else:
            yield from _swiglu(f"{prefix}.mlp", hidden, config.intermediate_size)
    yield "model.norm.weight", (hidden,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, hidden)


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Count a model's parameters without building it."""
    parameters: dict[str, int] = {}
    active: dict[str, int] = {}
    for name, shape in parameter_shapes(config):
        component = component_of(name)
        size = elements(shape)
        used = size
        if component == "routed experts":
            used = size // config.num_experts * config.num_experts_per_tok
        parameters[component] = parameters.get(component, 0) + size
        active[component] = active.get(component, 0) + used
    table = config.vocab_size * config.hidden_size
    embedding = parameters["embedding"] + parameters.get("output projection", 0)
    total, total_active = sum(parameters.values()), sum(active.values())
    return ParameterCount(
        total=total,
        active=total_active,
        embedding=embedding,
        non_embedding=total - embedding,
        active_non_embedding=total_active - embedding,
        matmul_active=total_active - embedding - parameters["norms"] - _biases(config) + table,
        components=tuple(
            Component(name, parameters[name], active[name])
            for name in COMPONENTS
            if name in parameters
        ),
    )


COMPONENTS = (
    "embedding",
    "attention",
    "norms",
    "dense feed-forward",
    "router",
    "routed experts",
    "shared experts",
    "output projection",
)
"""Names of the components, in the order they are shown."""


def component_of(name: str) -> str:
    """The component of `COMPONENTS` that the parameter called `name` belongs to."""
    if name.startswith("lm_head."):
        return "output projection"
    if ".embed_tokens." in name:
        return "embedding"
    if name.endswith(("norm.weight", "_layernorm.weight")):
        return "norms"
    if ".self_attn." in name:
        return "attention"
    if ".mlp.experts." in name:
        return "routed experts"
    if ".mlp.shared_expert" in name:
        return "shared experts"
    if ".mlp.gate.weight" in name:
        return "router"
    return "dense feed-forward"


def elements(shape: tuple[int, ...]) -> int:
    """Product of a shape."""
    product = 1
    for size in shape:
        product *= size
    return product


def _swiglu(prefix: str, hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.gate_proj.weight", (inner, hidden)
    yield f"{prefix}.up_proj.weight", (inner, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, inner)


def _biases(config: ModelConfig) -> int:
    if not config.attention_bias:
        return 0
    per_layer = config.query_size + 2 * config.key_value_size + config.hidden_size
    return per_layer * config.num_hidden_layers
