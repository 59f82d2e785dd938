"""The mixture-of-experts layer of Qwen3-MoE, its balance losses and the aux-free expert bias.

Every statistic is returned, never stored, so recomputation under activation checkpointing cannot
count twice. Balance windows are cut from the stream of tokens, so their loss does not know how
the stream was cut into micro-batches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megascale.errors import LayoutError
from megascale.kernels.matmul import linear
from megascale.model.config import ModelConfig, nearest_divisors
from megascale.model.experts import Experts
from megascale.model.mlp import MLP
from megascale.model.norm import accumulation_dtype
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import ShardSpec
from megascale.parallel.tensor import enter_region, exit_region, exit_whole


class Routing(NamedTuple):
    """What the router decided for T tokens.

    Attributes:
        logits: `[T, E]` in the router's dtype.
        probabilities: `[T, E]` in fp32 (fp64 in an fp64 model).
        weights: `[T, k]` in the router's dtype.
        experts: `[T, k]`.
    """

    logits: Tensor
    probabilities: Tensor
    weights: Tensor
    experts: Tensor


class TrailingLoads(NamedTuple):
    """What a balance loss on trailing loads needs to know about one micro-batch.

    A micro-batch lies in at most two windows, because no batch is longer than a window.

    Attributes:
        counts: `[..., 2, E]` int64, slots of the window that the loss of the earlier and of the
            later window uses; leading dimensions are MoE layers.
        split: tokens of the micro-batch in the earlier window.
        end: tokens of the micro-batch that the run consumes; those after it are padding.
    """

    counts: Tensor
    split: int
    end: int

    def of_layer(self, layer: int) -> TrailingLoads:
        """Those of one MoE layer."""
        return self._replace(counts=self.counts[layer])


class Statistics(NamedTuple):
    """What one MoE layer reports about one micro-batch of T tokens.

    Attributes:
        aux_sum: scalar, sum over balance windows of the window's loss; differentiable.
        z_sum: scalar, sum over tokens of the squared log-partition; differentiable.
        expert_counts: `[E]` int64, top-k slots on each expert (sums to `T * k`).
        entropy_sum: scalar, sum over tokens of the router's entropy (nats).
        window_counts: `[2, E]` int64, the slots of consumed tokens in the earlier and the later
            window of trailing loads; `[0, E]` without them.
    """

    aux_sum: Tensor
    z_sum: Tensor
    expert_counts: Tensor
    entropy_sum: Tensor
    window_counts: Tensor


class Router(nn.Module):
    """Top-k softmax router."""

    def __init__(self, config: ModelConfig, mesh: Mesh, *, fp32: bool = False):
        """Hold the whole `[E, H]` weight on every rank, uninitialised.

        Args:
            config: the model's shape.
            mesh: this rank's place.
            fp32: compute logits and weights in fp32 in a half-precision model too.
        """
        super().__init__()
        self._fp32 = fp32
        self._top_k, self._normalise = config.num_experts_per_tok, config.norm_topk_prob
        self._partial = mesh.tp_size > 1  # lives inside a tensor-parallel region
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, x: Tensor, bias: Tensor | None) -> Routing:
        """Choose k experts for each token.

        Args:
            x: `[T, H]`.
            bias: `[E]` added to the probabilities for the choice alone, not for the weights
                (Wang et al. 2024, arXiv 2408.15664).
        """
        logits = self._logits(x)
        probabilities = F.softmax(logits, dim=-1, dtype=accumulation_dtype(logits.dtype))
        if bias is None:
            weights, experts = torch.topk(probabilities, self._top_k, dim=-1)
        else:
            experts = torch.topk(probabilities.detach() + bias, self._top_k, dim=-1).indices
            weights = probabilities.gather(1, experts)
        if self._normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(logits, probabilities, weights.to(logits.dtype), experts)

    def _logits(self, x: Tensor) -> Tensor:
        if not self._fp32:
            return linear(x, self.weight)
        wide = accumulation_dtype(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return linear(x.to(wide), self.weight.to(wide))

    def shard_specs(self) -> dict[str, ShardSpec]:
        """Whole everywhere."""
        return {"weight": ShardSpec(tuple(self.weight.shape), tp_partial_grad=self._partial)}


class SharedExpertGate(nn.Module):
    """One sigmoid per token that scales the shared expert."""

    def __init__(self, hidden_size: int, mesh: Mesh):
        """Hold the whole `[1, H]` weight on every rank, uninitialised."""
        super().__init__()
        self._partial = mesh.tp_size > 1
        self.weight = nn.Parameter(torch.empty(1, hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """`[T, H]` to `[T, 1]`."""
        return torch.sigmoid(F.linear(x, self.weight))

    def shard_specs(self) -> dict[str, ShardSpec]:
        """Whole everywhere."""
        return {"weight": ShardSpec(tuple(self.weight.shape), tp_partial_grad=self._partial)}


class MoE(nn.Module):
    """Router, routed experts and, as an option, a shared expert; one tensor-parallel region."""

    expert_bias: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        sequence_parallel: bool,
        *,
        expert_backend: str,
        balance_window_tokens: int | None,
        router_fp32: bool = False,
    ):
        """Args: shape, place and options of the model; see `ModelOptions`."""
        super().__init__()
        self._mesh, self._sequence_parallel = mesh, sequence_parallel
        self._window = balance_window_tokens
        self.gate = Router(config, mesh, fp32=router_fp32)
        self.experts = Experts(config, mesh, expert_backend)
        self.shared_expert: MLP | None = None
        self.shared_expert_gate: SharedExpertGate | None = None
        if width := config.shared_expert_intermediate_size:
            self.shared_expert = MLP(config.hidden_size, width, mesh, sequence_parallel)
            if config.shared_expert_gate:
                self.shared_expert_gate = SharedExpertGate(config.hidden_size, mesh)
        bias = torch.zeros(config.num_experts) if config.expert_bias else None
        self.register_buffer("expert_bias", bias)

    def forward(
        self, x: Tensor, trailing: TrailingLoads | None = None
    ) -> tuple[Tensor, Statistics]:
        """Route, compute and report.

        Args:
            x: `[T, H]` (`[T / tp, H]` with sequence parallelism).
            trailing: earlier loads that the balance loss is to use, counts `[2, E]`; None uses
                each window's own.

        Raises:
            LayoutError: the balance window does not divide the micro-batch.
        """
        x = enter_region(x, self._mesh, self._sequence_parallel)
        routing, statistics = self.route(x, trailing)
        y = self.experts(x, routing.weights, routing.experts, statistics.expert_counts)
        if self.shared_expert is not None:
            shared = self.shared_expert.partial(x)
            if self.shared_expert_gate is not None:
                shared = self.shared_expert_gate(x) * shared
            y = y + shared
        return exit_region(y, self._mesh, self._sequence_parallel), statistics

    def route(self, x: Tensor, trailing: TrailingLoads | None) -> tuple[Routing, Statistics]:
        """Choose experts and measure the choice; `x` is `[T, H]` inside the region.

        Without gradients there is no balance loss: nothing would use it.
        """
        routing = self.gate(x, self.expert_bias)
        tokens, experts = routing.probabilities.shape
        window = self._window if torch.is_grad_enabled() else None
        aux = routing.probabilities.new_zeros(())
        in_windows = torch.zeros(0, experts, dtype=torch.int64, device=x.device)
        if window is None:
            total = count_slots(routing.experts, experts)
        elif trailing is None:
            if tokens % window:
                raise LayoutError.of(
                    "moe_balance.window_tokens",
                    window,
                    f"must divide the {tokens} tokens of a micro-batch",
                    nearest_divisors(window, tokens),
                )
            own = count_slots(routing.experts.view(-1, window, routing.experts.shape[1]), experts)
            total = own.sum(0)
            aux = balance_loss(routing.probabilities.view(-1, window, experts), own, window)
        else:
            parts = (slice(trailing.split), slice(trailing.split, trailing.end))
            in_windows = torch.stack(
                [count_slots(routing.experts[part], experts) for part in parts]
            )
            total = in_windows.sum(0) + count_slots(routing.experts[trailing.end :], experts)
            for part, loads in zip(
                (slice(trailing.split), slice(trailing.split, None)), trailing.counts, strict=True
            ):
                chosen = routing.probabilities[part]
                aux = aux + balance_loss(chosen.unsqueeze(0), loads.unsqueeze(0), window)
        log_partition = torch.logsumexp(routing.logits.to(routing.probabilities.dtype), dim=-1)
        return routing, Statistics(
            aux_sum=exit_whole(aux, self._mesh),
            z_sum=exit_whole(log_partition.square().sum(), self._mesh),
            expert_counts=total,
            entropy_sum=torch.special.entr(routing.probabilities.detach()).sum(),
            window_counts=in_windows,
        )


def count_slots(experts: Tensor, num_experts: int) -> Tensor:
    """Top-k slots per expert in each window.

    Args:
        experts: `[..., T, k]` chosen experts; leading dimensions are windows.
        num_experts: E.

    Returns:
        `[..., E]` int64.
    """
    slots = experts.flatten(-2)
    counts = torch.zeros(*slots.shape[:-1], num_experts, dtype=torch.int64, device=experts.device)
    return counts.scatter_add_(-1, slots, torch.ones_like(slots))


def balance_loss(probabilities: Tensor, loads: Tensor, window: int) -> Tensor:
    """Sum over windows of `E * sum_i f_i P_i` (Fedus et al. 2021, arXiv 2101.03961, eq. 4).

    `f_i` is the fraction of a window's slots on expert i, `P_i` the mean probability of expert i
    in it; perfect balance gives 1. The loss of a window is a sum over its tokens, so a window
    that is larger than a micro-batch gets its share from each.

    Args:
        probabilities: `[n, T, E]`, differentiable: the tokens of n windows, or of parts of them.
        loads: `[n, E]` slot counts of each window. A row of zeros counts as balanced.
        window: tokens of a whole window.

    Returns:
        scalar; sum it over the micro-batches and ranks that make up the batch.
    """
    experts = probabilities.shape[2]
    per_window = probabilities.sum(1) / window
    total = loads.sum(1, keepdim=True)
    fractions = torch.where(
        total > 0,
        loads.to(probabilities.dtype) / total.clamp(min=1).to(probabilities.dtype),
        1 / experts,
    )
    return experts * (fractions * per_window).sum()


@torch.no_grad()
def update_expert_bias(
    bias: Tensor, counts: Tensor, tokens: int, rate_per_million_tokens: float
) -> None:
    """Move each expert's bias against the sign of its load excess, in place.

    The step is proportional to the tokens consumed, so the path does not depend on how the
    tokens were cut into steps while the loads keep their signs. After Wang et al. 2024
    (arXiv 2408.15664), whose step is per batch.

    Args:
        bias: `[E]`.
        counts: `[E]` slots per expert, summed over all micro-batches and data ranks of the step.
        tokens: tokens of the step over all data ranks.
        rate_per_million_tokens: how far a bias moves in a million tokens.
    """
    excess = counts.to(bias.dtype) * counts.numel() - counts.sum().to(bias.dtype)
    bias.sub_(torch.sign(excess), alpha=rate_per_million_tokens * tokens / 1e6)
