"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon) on whole matrices, however they are cut.

The update of torch.optim.Muon: Nesterov momentum, five Newton-Schulz steps in bf16, and a rate
scaled by 0.2 sqrt(max(rows, columns)), which gives the update AdamW's RMS (Liu et al.,
arXiv 2502.16982). Momentum stays in shards. What is orthogonalised is gathered in bf16, which the
iteration takes anyway, so that a layout changes no bit of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from megascale.parallel.exchange import Cut, ShardExchange, even_chunks
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import ShardSpec

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
SMALLEST_NORM = 1e-7
"""Of torch.optim.Muon and its reference."""
RMS = 0.2
"""Of AdamW's updates, which a rate scaled by it and sqrt(max(rows, columns)) matches."""


@dataclass(frozen=True, slots=True)
class MatrixPlace:
    """Where the matrices of one parameter are, as a stack `[matrices, rows, columns]`.

    Attributes:
        rows, columns: of one whole matrix.
        rows_cut: cut over data ranks by FSDP, None where every data rank has whole matrices.
        rows_group: those ranks.
        tensor_cut: cut over the tensor-parallel ranks, None if whole.
        tensor_group: those ranks.
    """

    rows: int
    columns: int
    rows_cut: Cut | None = None
    rows_group: dist.ProcessGroup | None = None
    tensor_cut: Cut | None = None
    tensor_group: dist.ProcessGroup | None = None


def matrix_place(spec: ShardSpec, parameter: Tensor, mesh: Mesh) -> MatrixPlace:
    """The place of a parameter's matrices: a weight `[m, n]` is one, experts' stacks are many.

    Args:
        spec: of the parameter.
        parameter: plain, or the `DTensor` of FSDP2.
        mesh: this rank's place.
    """
    shape = spec.global_shape
    shift = len(shape) - 3
    rows, columns = shape[-2:]
    tensor_cut, tensor_group = None, None
    if spec.tp_dim is not None and mesh.tp_size > 1:
        each = shape[spec.tp_dim] // mesh.tp_size
        tensor_cut = Cut(spec.tp_dim - shift, (each,) * mesh.tp_size)
        tensor_group = mesh.tp_group
    rows_cut, rows_group = None, None
    if isinstance(parameter, DTensor) and len(shape) == 2:
        for dim, placement in enumerate(parameter.placements):
            ranks = parameter.device_mesh.size(dim)
            if placement.is_shard() and ranks > 1:
                rows_cut = Cut(1, even_chunks(parameter.shape[0], ranks))
                rows_group = parameter.device_mesh.get_group(dim)
    return MatrixPlace(rows, columns, rows_cut, rows_group, tensor_cut, tensor_group)


def orthogonalized(stack: Tensor) -> Tensor:
    """Each matrix with its singular values moved to about 1 by five Newton-Schulz steps, in bf16.

    Args:
        stack: `[matrices, rows, columns]`.

    Returns:
        the same shape, in bf16.
    """
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    a, b, c = COEFFICIENTS
    if x.shape[0] == 1:  # the products of torch.optim.Muon, bit for bit
        one = x[0]
        one = one / one.norm().clamp(min=SMALLEST_NORM)
        for _ in range(STEPS):
            gram = one @ one.T
            update = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            one = torch.addmm(one, update, one, beta=a)
        x = one.unsqueeze(0)
    else:
        norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        x = x / norms.clamp(min=SMALLEST_NORM)
        for _ in range(STEPS):
            gram = x @ x.mT
            update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            x = torch.baddbmm(x, update, x, beta=a)
    return x.transpose(1, 2) if tall else x


class ShardedMuon(Optimizer):
    """Muon over local shards of matrices and of stacks of them."""

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, places: Mapping[nn.Parameter, MatrixPlace]
    ):
        """Args:
        groups: parameter groups; every rank has the same parameters in the same order, empty
            parts too.
        lr: learning rate of groups without one.
        places: parameter -> where its matrices are.
        """
        super().__init__(groups, {"lr": lr, "momentum": 0.95, "weight_decay": 0.0})
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        self._places = [places[parameter] for parameter in self._parameters]
        self._exchanges = [
            *_exchanges({n: (p.rows_group, p.rows_cut) for n, p in enumerate(self._places)}),
            *_exchanges({n: (p.tensor_group, p.tensor_cut) for n, p in enumerate(self._places)}),
        ]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter. Collective over the ranks that share matrices."""
        updates: dict[int, Tensor] = {}
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                update = self._averaged(parameter, group["momentum"])
                updates[number] = _stacked(update.bfloat16())
                number += 1
        for exchange in self._exchanges:
            updates = exchange.gather(updates)
        updates = {n: orthogonalized(u) if u.numel() else u for n, u in updates.items()}
        for exchange in reversed(self._exchanges):
            updates = exchange.scatter(updates)
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place = self._places[number]
                scale = RMS * max(place.rows, place.columns) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                change = updates[number].reshape(parameter.shape)
                parameter.add_(change, alpha=-group["lr"] * scale)
                number += 1

    def _averaged(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """The gradient with Nesterov momentum, elementwise."""
        gradient = parameter.grad
        if gradient is None:
            gradient = torch.zeros_like(parameter)
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def _stacked(update: Tensor) -> Tensor:
    """`[..., rows, columns]` of a rank's part as a stack; a weight `[m, n]` is one matrix."""
    if update.dim() == 2:
        return update.unsqueeze(0)
    return update.reshape(-1, *update.shape[-2:])


def _exchanges(
    cuts: Mapping[int, tuple[dist.ProcessGroup | None, Cut | None]],
) -> list[ShardExchange]:
    """One exchange for each group that cuts anything."""
    by_group: dict[dist.ProcessGroup, dict[int, Cut]] = {}
    for number, (group, cut) in cuts.items():
        if group is not None and cut is not None:
            by_group.setdefault(group, {})[number] = cut
    return [ShardExchange(group, own) for group, own in by_group.items()]
