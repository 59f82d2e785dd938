"""Balance over windows longer than a micro-batch, and the aux-free expert bias.

A balance window longer than a micro-batch cannot see its own loads before its backward passes, so
the loss of such a window uses the loads of the last complete one. Windows are counted in consumed
tokens; neither the number of micro-batches nor recomputation changes them.
"""

from __future__ import annotations

from typing import Any

import torch

from megascale.model.moe import update_expert_bias
from megascale.model.qwen3 import Qwen3
from megascale.parallel.shards import Chunk


class ExpertBalance:
    """The trailing loads of all MoE layers, and the expert biases.

    Attributes:
        previous: [MoE layers, experts] slots of the last complete window; zeros before it.
        current: the same for the window under way.
        tokens: consumed tokens of the window under way.
    """

    def __init__(self, model: Qwen3, *, window_tokens: int, bias_rate: float, device: torch.device):
        """Start with no loads known.

        Args:
            model: with at least one MoE layer.
            window_tokens: length of a balance window.
            bias_rate: how far an expert bias moves per million consumed tokens.
        """
        self._layers = model.moe_modules()
        self._window, self._rate = window_tokens, bias_rate
        shape = (len(self._layers), model.config.num_experts)
        self.previous = torch.zeros(shape, dtype=torch.int64, device=device)
        self.current = torch.zeros(shape, dtype=torch.int64, device=device)
        self.tokens = 0

    def update(self, counts: torch.Tensor, tokens: int) -> None:
        """Take in the loads of an applied step.

        Args:
            counts: [MoE layers, experts] slots of the whole global batch.
            tokens: consumed tokens of the step.
        """
        counts = counts.to(self.current.device, torch.int64)
        self.current += counts
        self.tokens += tokens
        if self.tokens >= self._window:
            self.previous.copy_(self.current)
            self.current.zero_()
            self.tokens = 0
        if self._rate:
            for layer, row in zip(self._layers, counts, strict=True):
                if layer.expert_bias is not None:
                    update_expert_bias(layer.expert_bias, row, tokens, self._rate)

    def chunks(self, replicas: int) -> list[Chunk]:
        """The tensors of the balance state, held alike by every rank, for the checkpoint."""
        named = [("balance.previous", self.previous), ("balance.current", self.current)]
        for number, layer in enumerate(self._layers):
            if layer.expert_bias is not None:
                named.append((f"balance.expert_bias.{number}", layer.expert_bias))
        return [
            Chunk(name, tuple(tensor.shape), (0,) * tensor.dim(), tensor, replicas)
            for name, tensor in named
        ]

    def state_dict(self) -> dict[str, Any]:
        """What of the state is not a tensor."""
        return {"tokens": self.tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.tokens = int(state["tokens"])
