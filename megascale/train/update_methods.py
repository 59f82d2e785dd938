"""The update methods behind `optimizer.name`, torch's own where torch has them.

Each takes its settings from a parameter group per step, and decays weights by lr x coefficient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from megascale.train.muon import MatrixPlace, ShardedMuon

Method = Literal["adamw", "muon", "sgd", "sign"]

STATE_KEYS: dict[str, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "muon": ("momentum_buffer",),
    "sgd": ("momentum_buffer",),
    "sign": ("momentum_buffer",),
}
"""Tensors of optimizer state that each method keeps for a parameter, shaped like it."""


class DecoupledSGD(torch.optim.SGD):
    """torch's SGD with momentum (no dampening) and weight decay apart from the gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Decay, then torch's own step."""
        coefficients = []
        for group in self.param_groups:
            coefficients.append(group["weight_decay"])
            _decay(group)
            group["weight_decay"] = 0.0  # torch's would go through the momentum
        super().step(closure)
        for group, coefficient in zip(self.param_groups, coefficients, strict=True):
            group["weight_decay"] = coefficient


class SignMomentum(Optimizer):
    """Sign descent on an average of gradients (Signum, Bernstein et al., arXiv 1802.04434).

    m = momentum m + (1 - momentum) g;  p -= lr sign(m). Momentum 0 is SignSGD.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        """Args: parameter groups, and the learning rate of those without one."""
        super().__init__(groups, {"lr": lr, "momentum": 0.9, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter with a gradient."""
        for group in self.param_groups:
            _decay(group)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                parameter.add_(average.sign(), alpha=-group["lr"])


def _decay(group: dict[str, Any]) -> None:
    if group["weight_decay"]:
        torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])


def make(
    method: str, groups: list[dict[str, Any]], places: Mapping[nn.Parameter, MatrixPlace]
) -> Optimizer:
    """The optimizer of a method over parameter groups; rates and constants are set per step.

    Args:
        method: `adamw`, `muon`, `sgd` or `sign`.
        groups: of local parameters.
        places: of Muon's matrices.
    """
    if method == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    if method == "muon":
        return ShardedMuon(groups, lr=0.0, places=places)
    if method == "sgd":
        return DecoupledSGD(groups, lr=0.0)
    return SignMomentum(groups, lr=0.0)
