"""Memory of one rank, on paper: parameters, gradients, optimizer, activations, buffers.

Parameters, gradients and optimizer state are counted exactly, for the rank that holds most.
Activations are the tensors autograd keeps, by the blocks' own operations. Allocator
fragmentation, the framework itself and kernels' scratch space are not in it: leave a tenth free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from megascale.model.config import ModelConfig
from megascale.model.count import component_of, elements, parameter_shapes
from megascale.model.kinds import method_of
from megascale.parallel.layout import Layout

FP32 = 4
BF16 = 2
INT64 = 8
LOGITS_IN_FLIGHT = 1 << 21
"""Elements of logits that exist at a time: the loss works through chunks of tokens."""


@dataclass(frozen=True, slots=True)
class MemoryLine:
    """One use of memory on one rank.

    Attributes:
        name: what for.
        bytes: how much.
        note: what decides it.
    """

    name: str
    bytes: int
    note: str


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Memory of the rank that needs most."""

    lines: tuple[MemoryLine, ...]
    local_parameters: int

    @property
    def total(self) -> int:
        """All lines together, in bytes."""
        return sum(line.bytes for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, bytes throughout."""
        return {
            "total_bytes": self.total,
            "local_parameters": self.local_parameters,
            "lines": [asdict(line) for line in self.lines],
        }


def _optimizer_line(sizes: dict[str, int], optimizer: str) -> MemoryLine:
    if optimizer == "adamw":
        return MemoryLine("AdamW moments", 2 * sum(sizes.values()) * FP32, "two, fp32")
    held = sum(sizes.values())
    note = "one, fp32"
    if optimizer == "muon":
        held += sum(size for name, size in sizes.items() if method_of(name, "muon") != "muon")
        note = "one of matrices and experts, two of the rest, fp32"
    return MemoryLine("optimizer state", held * FP32, note)


def estimate_memory(
    config: ModelConfig,
    layout: Layout,
    *,
    sequence_length: int,
    micro_batch_size: int,
    micro_batches: int,
    precision: str = "fp32",
    checkpoint_every: int = 0,
    fsdp_gather: str = "step",
    optimizer: str = "adamw",
    mask_documents: bool = False,
) -> MemoryEstimate:
    """Estimate the peak memory of one rank in a training step.

    Args:
        config: the model.
        layout: degrees and data mode.
        sequence_length: tokens of a sequence (the longest of the schedule).
        micro_batch_size: sequences of a micro-batch.
        micro_batches: micro-batches of a step on one rank; more than one makes FSDP keep whole
            gradients until the last.
        precision: `fp32` or `bf16`.
        checkpoint_every: recompute every n-th block; 0 keeps all activations.
        fsdp_gather: `step` or `block`: how long FSDP keeps whole parameters.
        optimizer: `adamw`, `muon`, `sgd` or `sign`: AdamW keeps two moments of a parameter, the
            others one; Muon leaves all but the projections to AdamW.
        mask_documents: whether attention stays within documents, one after another: no mask
            exists, but their results are put together in a copy.
    """
    sizes = dict(local_sizes(config, layout))
    whole = dict(local_sizes(config, layout, sharded=False))
    sharded, unsharded = sum(sizes.values()), sum(whole.values())
    fsdp = layout.data_mode in ("fsdp", "hsdp")
    compute = BF16 if precision == "bf16" else FP32
    tokens = sequence_length * micro_batch_size
    table = config.vocab_size // layout.tensor * config.hidden_size
    lines = [
        MemoryLine("parameters", sharded * FP32, "fp32, also the master weights"),
        MemoryLine("gradients", sharded * FP32, "fp32"),
        _optimizer_line(sizes, optimizer),
    ]
    if fsdp:
        block, root = _largest_block(whole), _outside_blocks(whole)
        gathered = (unsharded, "all, whole until the last backward of a step")
        if fsdp_gather == "block":
            gathered = (
                2 * block + root,
                "two blocks, the embedding and the output projection, whole",
            )
        lines.append(MemoryLine("gathered parameters", gathered[0] * compute, gathered[1]))
        if micro_batches > 1:
            lines.append(
                MemoryLine(
                    "gathered gradients",
                    unsharded * FP32,
                    "whole until the last micro-batch: nothing is communicated before",
                )
            )
        else:
            lines.append(
                MemoryLine("gathered gradients", (block + root) * FP32, "one block at a time")
            )
    elif precision == "bf16":
        cast = sum(size for name, size in whole.items() if component_of(name) != "norms")
        lines.append(
            MemoryLine("bf16 parameters", cast * BF16, "copies that a micro-batch computes with")
        )
    autocast = precision == "bf16" and not fsdp
    lines.append(
        _activations(config, layout, tokens, compute, autocast, checkpoint_every, mask_documents)
    )
    # The table's gradient is formed in the forward pass, the hidden states' with it.
    loss = table * FP32 + tokens * config.hidden_size * (FP32 if autocast else compute)
    loss += min(tokens * config.vocab_size // layout.tensor, LOGITS_IN_FLIGHT) * 2 * FP32
    lines.append(
        MemoryLine("loss", loss, "gradient of the output projection, and a chunk of logits")
    )
    return MemoryEstimate(tuple(lines), sharded)


def local_shape(
    name: str, shape: tuple[int, ...], layout: Layout, *, sharded: bool = True
) -> tuple[int, ...]:
    """Shape of a parameter on the rank that holds most of it.

    Args:
        name: of the parameter, as `count.parameter_shapes` gives it.
        shape: global.
        layout: degrees and data mode.
        sharded: False for the parameter gathered over the data ranks of FSDP.
    """
    local = list(shape)
    if (dim := tensor_dim(name)) is not None:
        local[dim] //= layout.tensor
    expert = layout.expert if ".mlp.experts." in name else 1
    local[0] //= expert
    if sharded and layout.data_mode in ("fsdp", "hsdp"):
        ranks = layout.data // layout.hsdp_replicate // expert
        local[0] = -(-local[0] // ranks)
    return tuple(local)


def tensor_dim(name: str) -> int | None:
    """Dimension that tensor parallelism cuts, None for a parameter that is whole everywhere."""
    if ".mlp.experts." in name:
        return 2
    if "embed_tokens." in name or name.startswith("lm_head."):
        return 0
    module, _, kind = name.rpartition(".")
    projection = module.rpartition(".")[2]
    if projection in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        return 0
    if projection in ("o_proj", "down_proj") and kind == "weight":
        return 1
    return None


def local_sizes(
    config: ModelConfig, layout: Layout, *, sharded: bool = True
) -> Iterable[tuple[str, int]]:
    """Yield every parameter's name and its elements on the rank that holds most of it."""
    for name, shape in parameter_shapes(config):
        yield name, elements(local_shape(name, shape, layout, sharded=sharded))


def _block_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else None


def _largest_block(sizes: dict[str, int]) -> int:
    blocks: dict[int, int] = {}
    for name, size in sizes.items():
        if (block := _block_of(name)) is not None:
            blocks[block] = blocks.get(block, 0) + size
    return max(blocks.values())


def _outside_blocks(sizes: dict[str, int]) -> int:
    return sum(size for name, size in sizes.items() if _block_of(name) is None)


def _activations(
    config: ModelConfig,
    layout: Layout,
    tokens: int,
    compute: int,
    autocast: bool,
    checkpoint_every: int,
    mask_documents: bool,
) -> MemoryLine:
    kept = recomputed = 0
    largest = 0
    residual = FP32 if autocast else compute
    for layer in range(config.num_hidden_layers):
        size = tokens * block_activation_bytes(config, layer, layout, compute, autocast)
        if mask_documents:
            size += tokens * config.query_size // layout.tensor * compute
        if checkpoint_every and layer % checkpoint_every == 0:
            kept += tokens * config.hidden_size * residual // _stream_ranks(layout)
            recomputed += 1
            largest = max(largest, size)
        else:
            kept += size
    kept += tokens * config.hidden_size * residual // _stream_ranks(layout)  # the last norm's input
    note = f"{tokens} tokens of one micro-batch, all blocks"
    if recomputed:
        note = f"{tokens} tokens of one micro-batch, {recomputed} blocks recomputed one at a time"
    return MemoryLine("activations", kept + largest, note)


def _stream_ranks(layout: Layout) -> int:
    return layout.tensor if layout.sequence_parallel else 1


def block_activation_bytes(
    config: ModelConfig, layer: int, layout: Layout, compute: int, autocast: bool
) -> int:
    """Bytes per token that autograd keeps of one block, on one rank.

    Kept are: the inputs of both norms (the residual stream, cut by token with sequence
    parallelism), the inputs of all products (whole within tensor-parallel regions), queries and
    keys before and after norm and rotation, values, the attention's output, gate and up, their
    product, and for experts the copied rows. Under autocast (DDP in bf16) the residual stream is
    fp32 and every product keeps its own bf16 copy of its input.

    Args:
        config: the model.
        layer: its number.
        layout: degrees.
        compute: bytes of a computed element.
        autocast: whether bf16 comes from autocast.
    """
    hidden, tensor = config.hidden_size, layout.tensor
    residual = FP32 if autocast else compute
    stream = 2 * (hidden * residual + FP32) // _stream_ranks(layout)
    query, key = config.query_size // tensor, config.key_value_size // tensor
    heads = (config.num_attention_heads + config.num_key_value_heads) // tensor
    attention = (3 if autocast else 1) * hidden * compute
    # before the norm (where there is one), rotated, and the output; keys likewise, and values
    kept = 3 if config.qk_norm else 2
    attention += kept * (query + key) * compute
    attention += config.num_attention_heads // tensor * FP32
    attention += heads * FP32 if config.qk_norm else 0
    inner = 3 * config.intermediate_size // tensor
    if not config.is_moe_layer(layer):
        return stream + attention + ((2 if autocast else 1) * hidden + inner) * compute
    top_k, experts = config.num_experts_per_tok, config.num_experts
    routing = hidden * compute + experts * (compute + FP32) + top_k * (FP32 + INT64) + 3 * FP32
    rows = top_k * (hidden + 2 * config.moe_intermediate_size // tensor) * compute
    rows += top_k * (3 * INT64 + compute)
    if config.shared_expert_intermediate_size:
        rows += (3 * config.shared_expert_intermediate_size // tensor) * compute
        rows += (2 * hidden * compute) if autocast else 0
        # The gate multiplies the shared expert's result, and autocast casts its input once more.
        gated = 2 if autocast else 1
        rows += gated * hidden * compute if config.shared_expert_gate else 0
    return stream + attention + routing + rows


def checkpoint_interval(setting: str) -> int:
    """`train.activation_checkpointing` as a number: `off` 0, `blocks` 1, `every_n` n."""
    known = {"off": 0, "blocks": 1}
    return known[setting] if setting in known else int(setting.removeprefix("every_"))
