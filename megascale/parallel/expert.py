"""Expert parallelism: send rows to the ranks that hold their experts, and bring results back.

Rows arrive sorted by expert. One exchange of counts, then one all-to-all of rows and one of their
routing weights; received rows are put in expert order. The way back is the exact reverse, so
`backward` of each all-to-all is the all-to-all with its splits exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megascale.parallel.mesh import Mesh


def _exchange(x: Tensor, send: list[int], receive: list[int], group: Any) -> Tensor:
    out = x.new_empty(sum(receive), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), receive, send, group=group)
    return out


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, send: list[int], receive: list[int], group: Any) -> Tensor:
        ctx.splits, ctx.group = (send, receive), group
        return _exchange(x, send, receive, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        send, receive = ctx.splits
        return _exchange(grad, receive, send, ctx.group), None, None, None


class Permute(torch.autograd.Function):
    """`x[order]` along dimension 0 for a permutation, given with its inverse."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """Rows of `x` in the given order."""
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The inverse permutation of the gradient."""
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


def invert(order: Tensor) -> Tensor:
    """Inverse of a permutation `[n]`."""
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel(), device=order.device, dtype=order.dtype)
    return inverse


@dataclass(frozen=True)
class Dispatch:
    """Rows on the rank of their experts, and the way back.

    Attributes:
        rows: `[received, H]`, in order of local expert.
        weights: `[received]` routing weights of the rows.
        counts: `[E / ep]` rows of each local expert.
    """

    rows: Tensor
    weights: Tensor
    counts: Tensor
    _order: Tensor
    _inverse: Tensor
    _send: list[int]
    _receive: list[int]
    _group: Any

    def bring_back(self, results: Tensor) -> Tensor:
        """`[received, H]` results in the order of `rows` to `[sent, H]` in the order they left."""
        results = Permute.apply(results, self._inverse, self._order)
        return _AllToAll.apply(results, self._receive, self._send, self._group)


def dispatch(rows: Tensor, weights: Tensor, counts: Tensor, mesh: Mesh) -> Dispatch:
    """Send rows to the ranks of their experts. Collective over the expert-parallel group.

    Args:
        rows: `[n, H]` sorted by expert.
        weights: `[n]` routing weights.
        counts: `[E]` rows per expert over all experts, summing to n.
    """
    group, ranks = mesh.ep_group, mesh.ep_size
    theirs = torch.empty_like(counts)
    dist.all_to_all_single(theirs, counts.contiguous(), group=group)
    incoming = theirs.view(ranks, -1)  # [source rank, local expert]
    send = counts.view(ranks, -1).sum(1).tolist()
    receive = incoming.sum(1).tolist()
    received = _AllToAll.apply(rows, send, receive, group)
    received_weights = _AllToAll.apply(weights, send, receive, group)
    experts = torch.arange(incoming.shape[1], device=rows.device).repeat(ranks)
    owner = experts.repeat_interleave(theirs, output_size=sum(receive))
    order = owner.argsort(stable=True)
    inverse = invert(order)
    return Dispatch(
        rows=Permute.apply(received, order, inverse),
        weights=Permute.apply(received_weights, order, inverse),
        counts=incoming.sum(0),
        _order=order,
        _inverse=inverse,
        _send=send,
        _receive=receive,
        _group=group,
    )
