"""Qwen3 and Qwen3-MoE: one decoder that runs alone or cut over tensor and expert ranks.

Computes what transformers' `Qwen3ForCausalLM` and `Qwen3MoeForCausalLM` compute from the same
weights. Activations travel as `[tokens, hidden]`, sequences one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megascale.kernels.matmul import linear
from megascale.model.attention import Attention, rope_tables
from megascale.model.config import ModelConfig
from megascale.model.documents import Documents
from megascale.model.experts import Experts
from megascale.model.loss import linear_cross_entropy
from megascale.model.mlp import MLP
from megascale.model.moe import MoE, Statistics, TrailingLoads
from megascale.model.norm import RMSNorm
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import ShardSpec, collect_specs
from megascale.parallel.tensor import (
    ColumnParallelLinear,
    VocabParallelEmbedding,
    enter_region,
    gather_columns,
)


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How to compute, never what: outputs do not depend on these (beyond rounding).

    Attributes:
        sequence_parallel: cut activations between tensor-parallel regions by token.
        checkpoint_every: recompute every n-th block in backward; 0 keeps all activations.
        compile: compile each block (MoE blocks: all but the experts).
        balance_window_tokens: window of the MoE balance loss; None computes none (zeros).
        router_fp32: compute the router of MoE layers in fp32 in a half-precision model too.
        expert_backend: `auto`, `loop` or `grouped`; see `megascale.model.experts`.
    """

    sequence_parallel: bool = False
    checkpoint_every: int = 0
    compile: bool = False
    balance_window_tokens: int | None = None
    router_fp32: bool = False
    expert_backend: str = "auto"


class ModelOutput(NamedTuple):
    """Sums over one micro-batch; the same on every tensor-parallel rank.

    Attributes:
        loss_sum: scalar, cross-entropy summed over targets that are not -100.
        aux_sum: scalar, MoE balance loss summed over windows, mean over MoE layers.
        z_sum: scalar, squared router log-partition summed over tokens, mean over MoE layers.
        expert_counts: `[L_moe, E]` int64, top-k slots on each expert.
        router_entropy_sum: `[L_moe]`, entropy of the router (nats) summed over tokens.
        window_counts: `[L_moe, 2, E]` int64, slots in the two windows of trailing loads;
            `[L_moe, 0, E]` without them.
    """

    loss_sum: Tensor
    aux_sum: Tensor
    z_sum: Tensor
    expert_counts: Tensor
    router_entropy_sum: Tensor
    window_counts: Tensor


class Block(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: ModelConfig, layer: int, mesh: Mesh, options: ModelOptions):
        """Args: the model's shape, the layer's number from 0, this rank's place, options."""
        super().__init__()
        sequence_parallel = options.sequence_parallel
        partial = sequence_parallel and mesh.tp_size > 1
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, mesh, sequence_parallel)
        self.mlp: MLP | MoE
        if config.is_moe_layer(layer):
            self.mlp = MoE(
                config,
                mesh,
                sequence_parallel,
                expert_backend=options.expert_backend,
                balance_window_tokens=options.balance_window_tokens,
                router_fp32=options.router_fp32,
            )
        else:
            self.mlp = MLP(hidden, config.intermediate_size, mesh, sequence_parallel)
        self.input_layernorm = RMSNorm(hidden, eps, tp_partial_grad=partial)
        self.post_attention_layernorm = RMSNorm(hidden, eps, tp_partial_grad=partial)
        self._attend_and_norm = self._attention_half
        self._dense = self._dense_block
        if options.compile:
            self._attend_and_norm = torch.compile(self._attention_half, dynamic=False)
            self._dense = torch.compile(self._dense_block, dynamic=False)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        documents: Documents | None = None,
        trailing: TrailingLoads | None = None,
    ) -> tuple[Tensor, Statistics | None]:
        """`[tokens, H]` to `[tokens, H]` and, from an MoE layer, its statistics."""
        if isinstance(self.mlp, MLP):
            return self._dense(x, cos, sin, documents), None
        x, normed = self._attend_and_norm(x, cos, sin, documents)
        update, statistics = self.mlp(normed, trailing)
        return x + update, statistics

    def _attention_half(
        self, x: Tensor, cos: Tensor, sin: Tensor, documents: Documents | None
    ) -> tuple[Tensor, Tensor]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, documents)
        return x, self.post_attention_layernorm(x)

    def _dense_block(
        self, x: Tensor, cos: Tensor, sin: Tensor, documents: Documents | None
    ) -> Tensor:
        x, normed = self._attention_half(x, cos, sin, documents)
        return x + self.mlp(normed)

    def expert_module(self) -> Experts | None:
        """The module whose parameters are cut over expert ranks, if the layer is MoE."""
        return self.mlp.experts if isinstance(self.mlp, MoE) else None


class Decoder(nn.Module):
    """Embedding, blocks and the last norm (the hub's `model.` prefix)."""

    def __init__(self, config: ModelConfig, mesh: Mesh, options: ModelOptions):
        """Args: the model's shape, this rank's place, options."""
        super().__init__()
        sequence_parallel = options.sequence_parallel
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, mesh, sequence_parallel
        )
        self.layers = nn.ModuleList(
            Block(config, layer, mesh, options) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(
            config.hidden_size,
            config.rms_norm_eps,
            tp_partial_grad=sequence_parallel and mesh.tp_size > 1,
        )


class Qwen3(nn.Module):
    """The whole model.

    Attributes:
        config: its shape.
        options: how it computes.
    """

    def __init__(
        self, config: ModelConfig, mesh: Mesh | None = None, options: ModelOptions | None = None
    ):
        """Build this rank's part, uninitialised, on the default device and dtype.

        Args:
            config: shape of the model.
            mesh: this rank's place; None for a single process.
            options: how to compute.
        """
        super().__init__()
        self.config, self.options = config, options or ModelOptions()
        self._mesh = mesh or Mesh()
        self.model = Decoder(config, self._mesh, self.options)
        self.lm_head: ColumnParallelLinear | None = None
        if not config.tie_word_embeddings:
            self.lm_head = ColumnParallelLinear(
                config.hidden_size, config.vocab_size, False, self._mesh
            )
        self._rope: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        documents: Documents | None = None,
        trailing: TrailingLoads | None = None,
    ) -> Tensor | ModelOutput:
        """Logits of every position, or the sums of a training micro-batch.

        Args:
            tokens: `[B, S]` ids.
            targets: `[B, S]` ids, -100 where there is nothing to predict.
            documents: attention stays within each; None for whole sequences.
            trailing: earlier loads that the balance loss is to use, counts `[L_moe, 2, E]`; None
                uses each balance window's own.

        Returns:
            logits `[B, S, V]` (whole on every rank) without targets, else a `ModelOutput`.
        """
        batch, length = tokens.shape
        x = self.model.embed_tokens(tokens.flatten())
        cos, sin = self._rope_tables(length, x)
        collected: list[Statistics] = []
        for layer, block in enumerate(self.model.layers):
            loads = None
            if trailing is not None and self.config.is_moe_layer(layer):
                loads = trailing.of_layer(len(collected))
            every = self.options.checkpoint_every
            if every and layer % every == 0 and torch.is_grad_enabled():
                x, statistics = checkpoint(
                    block,
                    x,
                    cos,
                    sin,
                    documents,
                    loads,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                x, statistics = block(x, cos, sin, documents, loads)
            if statistics is not None:
                collected.append(statistics)
        x = self.model.norm(x)
        x = enter_region(x, self._mesh, self.options.sequence_parallel)
        weight = self.output_weight()
        if targets is None:
            return gather_columns(linear(x, weight), self._mesh).view(batch, length, -1)
        loss_sum = linear_cross_entropy(x, weight, targets.flatten(), mesh=self._mesh)
        return _output(loss_sum, collected, self.config.num_experts)

    def output_weight(self) -> Tensor:
        """The output projection `[V / tp, H]`; the embedding itself when tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def blocks(self) -> list[Block]:
        """The decoder layers in order."""
        return [block for block in self.model.layers if isinstance(block, Block)]

    def moe_modules(self) -> list[MoE]:
        """The MoE layers in order: the rows of `expert_counts`."""
        return [block.mlp for block in self.blocks() if isinstance(block.mlp, MoE)]

    def shard_specs(self) -> dict[str, ShardSpec]:
        """Specs of all parameters by name."""
        return collect_specs(self)

    def _rope_tables(self, length: int, x: Tensor) -> tuple[Tensor, Tensor]:
        key = (length, x.device, x.dtype)
        if key not in self._rope:
            self._rope[key] = rope_tables(
                length,
                self.config.head_dim,
                self.config.rope_theta,
                device=x.device,
                dtype=x.dtype,
            )
        return self._rope[key]


def _output(loss_sum: Tensor, collected: list[Statistics], num_experts: int) -> ModelOutput:
    if not collected:
        zero = loss_sum.new_zeros(())
        return ModelOutput(
            loss_sum,
            zero,
            zero,
            torch.zeros(0, num_experts, dtype=torch.int64, device=loss_sum.device),
            loss_sum.new_zeros(0),
            torch.zeros(0, 0, num_experts, dtype=torch.int64, device=loss_sum.device),
        )
    return ModelOutput(
        loss_sum=loss_sum,
        aux_sum=torch.stack([layer.aux_sum for layer in collected]).mean(),
        z_sum=torch.stack([layer.z_sum for layer in collected]).mean(),
        expert_counts=torch.stack([layer.expert_counts for layer in collected]),
        router_entropy_sum=torch.stack([layer.entropy_sum for layer in collected]),
        window_counts=torch.stack([layer.window_counts for layer in collected]),
    )
