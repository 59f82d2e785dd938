"""The optimizer over the local shards, with the gradient norm taken over all ranks.

The optimizer never sees a `DTensor`: it works on the plain tensors behind the parameters, which
is the same code for one process, DDP, FSDP2, tensor and expert parallel, and avoids the mixing of
plain and distributed tensors that fused kernels refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import Chunk, collect_specs, local_chunk
from megascale.train.groups import UpdateRule
from megascale.train.muon import MatrixPlace, matrix_place
from megascale.train.update_methods import STATE_KEYS, make


@dataclass
class LocalParameter:
    """One parameter's part on this rank.

    Attributes:
        name: fully qualified name in the model.
        owner: the parameter itself (a `DTensor` under FSDP2), whose `.grad` autograd fills.
        local: the same memory as a plain parameter, which the optimizer updates.
        weight: 1 / number of ranks that hold this very part: its share in the global norm.
        rule: how it is updated.
    """

    name: str
    owner: nn.Parameter
    local: nn.Parameter
    weight: float
    rule: UpdateRule


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The local tensor behind a `DTensor`, or the tensor itself."""
    return getattr(tensor, "_local_tensor", tensor)


class ShardedOptimizer:
    """AdamW, Muon, SGD or sign descent by each parameter's rule, on local shards.

    Weight decay is decoupled (Loshchilov and Hutter, arXiv 1711.05101) for all of them:
    `p -= lr * weight_decay * p` for decaying parameters, as PyTorch's AdamW has it, or with `lr` in
    units of its peak there.
    """

    def __init__(
        self,
        model: Any,
        mesh: Mesh,
        *,
        rules: Mapping[str, UpdateRule] | None = None,
        decay_unit: float = 1.0,
        beta2_half_life: int | None = None,
    ):
        """Collect the local parts of `model`'s parameters.

        Args:
            model: a `Qwen3`, already wrapped for its data dimension and initialised.
            mesh: the process's place.
            rules: parameter name -> how it is updated; None for the defaults of `UpdateRule`.
            decay_unit: learning rate at which weights lose exactly the coefficient of weight decay
                per step: 1 as PyTorch has it, the peak for a decay independent of the peak.
            beta2_half_life: tokens over which the second moment of rules without a beta2 of their
                own forgets half.
        """
        specs = collect_specs(model)
        self._mesh = mesh
        self._specs = specs
        self.parameters: list[LocalParameter] = []
        members: dict[UpdateRule, list[nn.Parameter]] = {}
        places: dict[nn.Parameter, MatrixPlace] = {}
        for name, parameter in model.named_parameters():
            rule = UpdateRule() if rules is None else rules[name]
            chunk = local_chunk(name, specs[name], parameter, mesh)
            # a rank without a part of a matrix still takes its turn in Muon's exchanges
            if chunk.local.numel() == 0 and rule.method != "muon":
                continue
            local = nn.Parameter(local_tensor(parameter.detach()))
            members.setdefault(rule, []).append(local)
            if rule.method == "muon":
                places[local] = matrix_place(specs[name], parameter, mesh)
            if chunk.local.numel():
                own = LocalParameter(name, parameter, local, 1.0 / chunk.replicas, rule)
                self.parameters.append(own)
        self._decay_unit, self._beta2_half_life = decay_unit, beta2_half_life
        self._updates = 0
        groups: dict[str, list[dict[str, Any]]] = {}
        for rule, owned in members.items():
            group: dict[str, Any] = {"params": owned, "rule": rule}
            if rule.method == "adamw":
                group["eps"] = rule.eps
            groups.setdefault(rule.method, []).append(group)
        self._methods = {method: make(method, owned, places) for method, owned in groups.items()}

    def gradients(self) -> list[torch.Tensor]:
        """Local gradients in the order of `parameters`; a missing one counts as zero."""
        found = []
        for parameter in self.parameters:
            gradient = parameter.owner.grad
            if gradient is None:
                parameter.owner.grad = torch.zeros_like(parameter.owner)
                gradient = parameter.owner.grad
            found.append(local_tensor(gradient))
        return found

    def local_square_sum(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """This rank's share of the squared gradient norm: its sum over all ranks is the square.

        Returns:
            A float64 scalar on the parameters' device.
        """
        norms = torch.stack(torch._foreach_norm(gradients)).double()
        weights = torch.tensor(
            [p.weight for p in self.parameters], dtype=torch.float64, device=norms.device
        )
        return (norms.square() * weights).sum()

    def step(
        self,
        gradients: list[torch.Tensor],
        *,
        lr: float,
        weight_decay: float,
        grad_norm: float,
        clip: float | None,
        batch_tokens: int | None = None,
    ) -> None:
        """Clip by the global norm, then update the local shards in place.

        Args:
            gradients: what `gradients()` returned.
            lr: learning rate of this step.
            weight_decay: coefficient for the decaying parameters.
            grad_norm: global gradient norm, before clipping.
            clip: largest norm let through, None for no clipping.
            batch_tokens: global batch, for rules whose beta2 follows it.
        """
        if clip is not None and grad_norm > clip:
            torch._foreach_mul_(gradients, clip / (grad_norm + 1e-6))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.local.grad = gradient
        for method, optimizer in self._methods.items():
            for group in optimizer.param_groups:
                rule: UpdateRule = group["rule"]
                group["lr"] = lr * rule.lr_multiplier * rule.scaling.lr
                group["weight_decay"] = self._decay(rule, weight_decay)
                if method == "adamw":
                    group["betas"] = (rule.beta1, self._beta2(rule, batch_tokens))
                else:
                    group["momentum"] = rule.beta1
            optimizer.step()
        self._updates += 1
        for parameter in self.parameters:
            parameter.local.grad = None

    def _decay(self, rule: UpdateRule, weight_decay: float) -> float:
        """The coefficient that a method multiplies by the group's learning rate."""
        if rule.weight_decay is not None:
            weight_decay = rule.weight_decay
        elif not rule.decays:
            return 0.0
        weight_decay *= rule.scaling.weight_decay
        if self._decay_unit == 1.0 or not rule.lr_multiplier:
            return weight_decay
        return weight_decay / (self._decay_unit * rule.lr_multiplier)

    def _beta2(self, rule: UpdateRule, batch_tokens: int | None) -> float:
        if rule.beta2 is not None:
            return rule.beta2
        if batch_tokens is None or self._beta2_half_life is None:
            raise ValueError("a beta2 by tokens needs the batch and the half-life")
        return 0.5 ** (batch_tokens / self._beta2_half_life)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.owner.grad = None

    def chunks(self) -> dict[str, Chunk]:
        """The optimizer's state, with the geometry of its parameters.

        Keys are `optimizer.STATE.NAME`, as in `optimizer.exp_avg.NAME`; tensors alias the
        optimizer's own, so loading into them restores it. Missing ones are made first.
        """
        found = {}
        for parameter in self.parameters:
            state = self._state(parameter)
            for key in STATE_KEYS[parameter.rule.method]:
                chunk = local_chunk(
                    parameter.name, self._specs[parameter.name], parameter.owner, self._mesh
                )
                name = f"optimizer.{key}.{parameter.name}"
                found[name] = replace(chunk, fqn=name, local=state[key])
        return found

    def state_tensors(self) -> list[torch.Tensor]:
        """Every tensor of Adam's state on this rank: two moments and a step count a parameter."""
        return [value for owned in self.parameters for value in self._state(owned).values()]

    def _state(self, parameter: LocalParameter) -> dict[str, torch.Tensor]:
        method = parameter.rule.method
        state = self._methods[method].state[parameter.local]
        if method == "adamw" and "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.local.device)
        for key in STATE_KEYS[method]:
            if state.get(key) is None:
                state[key] = torch.zeros_like(parameter.local)
        return state

    @property
    def updates(self) -> int:
        """Number of updates made (skipped steps do not count): Adam's bias correction."""
        return self._updates

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates = count
        for parameter in self.parameters:
            state = self._state(parameter)
            if parameter.rule.method == "adamw":
                state["step"].fill_(float(count))
