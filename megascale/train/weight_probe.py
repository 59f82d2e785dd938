"""Sizes of weights, of updates and of attention logits, by kind of parameter, at some steps.

Only measured steps pay: a copy of the rank's weights for the size of the update, and the logits of
the first sequence of every micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist

from megascale.model.attention import Attention
from megascale.model.kinds import KINDS, kind_of
from megascale.model.qwen3 import Qwen3
from megascale.parallel.mesh import Mesh
from megascale.train.optimizer import ShardedOptimizer


class WeightProbe:
    """Measures one step between `begin` and `end`."""

    def __init__(self, model: Qwen3, mesh: Mesh, optimizer: ShardedOptimizer):
        """Args: the bare model, the process's place, and the optimizer over its shards."""
        self._attention = [module for module in model.modules() if isinstance(module, Attention)]
        self._mesh, self._optimizer = mesh, optimizer
        self._kinds = [KINDS.index(kind_of(p.name)) for p in optimizer.parameters]
        self._before: list[torch.Tensor] = []
        self._found: dict[str, float] = {}

    def begin(self) -> None:
        """Before the forward pass: watch attention logits."""
        for module in self._attention:
            module.largest_logit = torch.full((), -torch.inf, device=self._mesh.device)

    def before_update(self) -> None:
        """Keep the weights as they are."""
        self._before = [p.local.detach().clone() for p in self._optimizer.parameters]

    def end(self) -> None:
        """After the update, or its skip: sum up over all ranks. Collective."""
        device = self._mesh.device
        logits = [m.largest_logit for m in self._attention if m.largest_logit is not None]
        largest = torch.stack(logits).float()
        for module in self._attention:
            module.largest_logit = None
        sums = torch.zeros(3, len(KINDS), dtype=torch.float64, device=device)
        applied = bool(self._before)
        for number, parameter in enumerate(self._optimizer.parameters):
            column, local = self._kinds[number], parameter.local.detach()
            sums[0, column] += parameter.weight * local.numel()
            sums[1, column] += parameter.weight * local.double().square().sum()
            if applied:
                change = (local - self._before[number]).double()
                sums[2, column] += parameter.weight * change.square().sum()
        self._before = []
        if self._mesh.world_size > 1:
            dist.all_reduce(sums)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        count, weights, updates = sums.tolist()
        self._found = {"attention_logit_max": float(largest.max())}
        for column, kind in enumerate(KINDS):
            if count[column]:
                self._found[f"weight_rms_{kind}"] = (weights[column] / count[column]) ** 0.5
                if applied:
                    self._found[f"update_rms_{kind}"] = (updates[column] / count[column]) ** 0.5

    def record(self) -> Mapping[str, float]:
        """Keys for a metrics record; empty where nothing was measured since the last call."""
        found, self._found = self._found, {}
        return found
