"""Loads of balance windows that are not a micro-batch's own, and the aux-free expert bias.

A balance window longer than a micro-batch cannot see its own loads before its backward passes. Its
loss uses trailing loads: those of the window before the last. That one has ended before the step
began in which the window's first token lies, as long as no batch is longer than a window; so which
loads a token meets follows from its place in the stream, whatever the batch and the micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from megascale.data.loader import LoadedMicroBatch, LoadedStep
from megascale.model.moe import TrailingLoads, update_expert_bias
from megascale.model.qwen3 import Qwen3
from megascale.parallel.shards import Chunk

_WINDOW = "trailing_window_tokens"


class ExpertBalance:
    """The loads of the last balance windows of all MoE layers, and the expert biases.

    Attributes:
        trails: whether the balance loss uses trailing loads; otherwise none are kept.
        older: [MoE layers, experts] slots of the window before the last complete one; zeros
            before there was one.
        previous: the same of the last complete window.
        current: the same of the window under way.
    """

    def __init__(
        self,
        model: Qwen3,
        *,
        window_tokens: int,
        trails: bool = False,
        bias_rate: float,
        device: torch.device,
    ):
        """Start with no loads known.

        Args:
            model: with at least one MoE layer.
            window_tokens: length of a balance window; with trailing loads no batch is longer.
            trails: whether the balance loss uses trailing loads.
            bias_rate: how far an expert bias moves per million consumed tokens.
        """
        self.trails = trails
        self._layers = model.moe_modules()
        self._window, self._rate = window_tokens, bias_rate
        shape = (len(self._layers), model.config.num_experts)
        self.older = torch.zeros(shape, dtype=torch.int64, device=device)
        self.previous, self.current = torch.zeros_like(self.older), torch.zeros_like(self.older)

    def trailing(self, step: LoadedStep, batch: LoadedMicroBatch) -> TrailingLoads | None:
        """What the balance loss of one micro-batch uses; None where each window uses its own."""
        if not self.trails:
            return None
        boundary = (step.start // self._window + 1) * self._window
        tokens = batch.inputs.numel()
        return TrailingLoads(
            torch.stack([self.older, self.previous], dim=1),
            split=min(max(boundary - batch.first, 0), tokens),
            end=min(max(step.stop - batch.first, 0), tokens),
        )

    def update(
        self, counts: torch.Tensor, window_counts: torch.Tensor, start: int, stop: int
    ) -> None:
        """Take in the loads of a step.

        Args:
            counts: [MoE layers, experts] slots of the whole global batch, for the biases.
            window_counts: [MoE layers, 2, experts], the step's `window_counts`.
            start, stop: the step's window in tokens.
        """
        if self.trails:
            earlier, later = window_counts.to(self.current.device).unbind(1)
            self.current += earlier
            self._pass(start, stop)
            self.current += later
        if self._rate:
            for layer, row in zip(self._layers, counts.to(self.current.device), strict=True):
                if layer.expert_bias is not None:
                    update_expert_bias(layer.expert_bias, row, stop - start, self._rate)

    def skip(self, start: int, stop: int) -> None:
        """Go past a step whose loads are not to be trusted."""
        if self.trails:
            self._pass(start, stop)

    def _pass(self, start: int, stop: int) -> None:
        """Close the window under way where the step's end reaches it."""
        if stop // self._window > start // self._window:
            self.older.copy_(self.previous)
            self.previous.copy_(self.current)
            self.current.zero_()

    def chunks(self, replicas: int, saved: Mapping[str, Any] | None = None) -> list[Chunk]:
        """The tensors of the balance state, held alike by every rank, for the checkpoint.

        Args:
            replicas: ranks that hold them.
            saved: what `state_dict` gave when the checkpoint to load was written; older ones have
                one tensor less.
        """
        named = [("balance.previous", self.previous), ("balance.current", self.current)]
        if saved is None or _WINDOW in saved:
            named.append(("balance.older", self.older))
        for number, layer in enumerate(self._layers):
            if layer.expert_bias is not None:
                named.append((f"balance.expert_bias.{number}", layer.expert_bias))
        return [
            Chunk(name, tuple(tensor.shape), (0,) * tensor.dim(), tensor, replicas)
            for name, tensor in named
        ]

    def state_dict(self) -> dict[str, Any]:
        """What of the state is not a tensor."""
        return {_WINDOW: self._window if self.trails else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> str | None:
        """Check loaded tensors against what `state_dict` gave with them.

        Returns:
            A note where the loads are of other windows, and start afresh.
        """
        if not self.trails or state.get(_WINDOW) == self._window:
            return None
        for loads in (self.older, self.previous, self.current):
            loads.zero_()
        return (
            "the balance loss starts from even loads: the checkpoint has none of windows of "
            f"{self._window} tokens"
        )
