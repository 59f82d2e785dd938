"""Tensor parallelism: linear layers and embeddings cut over ranks, and what flows between them.

A *region* is a stretch of the network whose weights are cut over the tensor-parallel ranks
(Shoeybi et al. 2019, arXiv 1909.08053). Activations are whole on entry and partial sums on exit:

- `enter_region`: forward identity, backward sum over ranks;
- `exit_region`: forward sum over ranks, backward identity.

With sequence parallelism (Korthikanti et al. 2022, arXiv 2205.05198) activations outside regions
are cut by token: entry gathers (backward: reduce-scatter), exit reduce-scatters (backward:
gather). Tokens are cut in the flattened `[tokens, hidden]` order, so pieces are contiguous.

Inside a region the gradient of every whole (uncut) value is a *partial sum*. Whole parameters in
there (QK-norm, router, shared-expert gate) therefore collect partial gradients, as do norms that
see only a rank's own tokens. They are marked `tp_partial_grad` and completed once per step by
`sync_partial_gradients`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.nn.functional as F
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.tensor import DTensor

from megascale.kernels.matmul import linear
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import ShardSpec, collect_specs


def _all_reduce(x: Tensor, group: Any) -> Tensor:
    if torch.compiler.is_compiling():
        return funcol.wait_tensor(funcol.all_reduce(x, "sum", group))
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _all_gather(x: Tensor, group: Any) -> Tensor:
    """Concatenate over ranks along dimension 0."""
    if torch.compiler.is_compiling():
        return funcol.wait_tensor(funcol.all_gather_single(x.contiguous(), 0, group))
    whole = x.new_empty(x.shape[0] * group.size(), *x.shape[1:])
    dist.all_gather_single(whole, x.contiguous(), group=group)
    return whole


def _reduce_scatter(x: Tensor, group: Any) -> Tensor:
    """Sum over ranks and keep the own piece of dimension 0."""
    if torch.compiler.is_compiling():
        return funcol.wait_tensor(funcol.reduce_scatter_single(x.contiguous(), "sum", 0, group))
    piece = x.new_empty(x.shape[0] // group.size(), *x.shape[1:])
    dist.reduce_scatter_single(piece, x.contiguous(), group=group)
    return piece


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _all_reduce(grad, ctx.group), None


class _Exit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        return _all_reduce(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _EnterSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_gather(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _reduce_scatter(grad, ctx.group), None


class _ExitSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _reduce_scatter(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _all_gather(grad, ctx.group), None


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: int) -> Tensor:
        ctx.ranks = ranks
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.ranks, None


class _GatherColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_gather(x.t(), group).t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.chunk(ctx.group.size(), dim=1)[ctx.group.rank()].contiguous(), None


def enter_region(x: Tensor, mesh: Mesh, sequence_parallel: bool) -> Tensor:
    """Bring activations into a tensor-parallel region.

    Args:
        x: `[tokens, ...]`, or this rank's `[tokens / tp, ...]` with sequence parallelism.

    Returns:
        `[tokens, ...]`, whose gradient is summed over the tensor-parallel ranks.
    """
    if mesh.tp_size == 1:
        return x
    return (_EnterSequence if sequence_parallel else _Enter).apply(x, mesh.tp_group)


def exit_region(x: Tensor, mesh: Mesh, sequence_parallel: bool) -> Tensor:
    """Sum the partial results of a region.

    Args:
        x: `[tokens, ...]`, this rank's addend.

    Returns:
        the sum: `[tokens, ...]`, or this rank's `[tokens / tp, ...]` with sequence parallelism.
    """
    if mesh.tp_size == 1:
        return x
    return (_ExitSequence if sequence_parallel else _Exit).apply(x, mesh.tp_group)


def exit_whole(x: Tensor, mesh: Mesh) -> Tensor:
    """Take a value that every rank computed whole inside a region (a balance loss) out of it.

    The gradient is divided by the number of ranks, because each of them adds its own.
    """
    return x if mesh.tp_size == 1 else _Whole.apply(x, mesh.tp_size)


def gather_columns(x: Tensor, mesh: Mesh) -> Tensor:
    """`[tokens, columns / tp]` to `[tokens, columns]`; every rank must use the result alike."""
    return x if mesh.tp_size == 1 else _GatherColumns.apply(x, mesh.tp_group)


class ColumnParallelLinear(nn.Module):
    """`y = x W^T + b` with the output features cut over the tensor-parallel ranks."""

    def __init__(self, in_features: int, out_features: int, bias: bool, mesh: Mesh):
        """Hold rows `[out_features / tp, in_features]` of W, uninitialised."""
        super().__init__()
        self._shape = (out_features, in_features)
        local = out_features // mesh.tp_size
        self.weight = nn.Parameter(torch.empty(local, in_features))
        self.bias = nn.Parameter(torch.empty(local)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, in]` inside a region to `[tokens, out / tp]`."""
        return linear(x, self.weight, self.bias)

    def shard_specs(self) -> dict[str, ShardSpec]:
        """Both parameters are cut along their rows."""
        specs = {"weight": ShardSpec(self._shape, tp_dim=0)}
        if self.bias is not None:
            specs["bias"] = ShardSpec(self._shape[:1], tp_dim=0)
        return specs


class RowParallelLinear(nn.Module):
    """`y = x W^T + b` with the input features cut over the ranks; leaves the region."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool, mesh: Mesh, sequence_parallel: bool
    ):
        """Hold columns `[out_features, in_features / tp]` of W and the whole bias."""
        super().__init__()
        self._shape = (out_features, in_features)
        self._mesh, self._sequence_parallel = mesh, sequence_parallel
        self.weight = nn.Parameter(torch.empty(out_features, in_features // mesh.tp_size))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, in / tp]` to `[tokens, out]` (`[tokens / tp, out]` with sequence parallelism).

        The bias is added once, after the sum.
        """
        y = exit_region(linear(x, self.weight), self._mesh, self._sequence_parallel)
        return y if self.bias is None else y + self.bias

    def shard_specs(self) -> dict[str, ShardSpec]:
        """The weight is cut along its columns; the bias is whole."""
        specs = {"weight": ShardSpec(self._shape, tp_dim=1)}
        if self.bias is not None:
            partial = self._sequence_parallel and self._mesh.tp_size > 1
            specs["bias"] = ShardSpec(self._shape[:1], tp_partial_grad=partial)
        return specs


class VocabParallelEmbedding(nn.Module):
    """Token embedding with the vocabulary cut over the tensor-parallel ranks."""

    def __init__(self, vocab_size: int, hidden_size: int, mesh: Mesh, sequence_parallel: bool):
        """Hold rows `[vocab_size / tp, hidden_size]`, uninitialised."""
        super().__init__()
        self._shape = (vocab_size, hidden_size)
        self._mesh, self._sequence_parallel = mesh, sequence_parallel
        self.weight = nn.Parameter(torch.empty(vocab_size // mesh.tp_size, hidden_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """`[tokens]` ids to `[tokens, hidden]` (`[tokens / tp, hidden]` with SP)."""
        if self._mesh.tp_size == 1:
            return F.embedding(tokens, self.weight)
        rows = self.weight.shape[0]
        index = tokens - self._mesh.tp_rank * rows
        elsewhere = (index < 0) | (index >= rows)
        embedded = F.embedding(index.masked_fill(elsewhere, 0), self.weight)
        embedded = embedded.masked_fill(elsewhere.unsqueeze(-1), 0)
        return exit_region(embedded, self._mesh, self._sequence_parallel)

    def shard_specs(self) -> dict[str, ShardSpec]:
        """The table is cut along its rows."""
        return {"weight": ShardSpec(self._shape, tp_dim=0)}


@torch.no_grad()
def sync_partial_gradients(model: nn.Module, mesh: Mesh) -> None:
    """Complete the gradients of parameters marked `tp_partial_grad`: one all-reduce per dtype.

    Call once per step, after the last backward and before clipping. Works on plain gradients and
    on FSDP2's (summing shards is the same as summing wholes), before or after the data-parallel
    reduction, because both are sums.
    """
    if mesh.tp_size == 1:
        return
    specs = collect_specs(model)
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for fqn, parameter in model.named_parameters():
        if specs[fqn].tp_partial_grad and parameter.grad is not None:
            gradient = parameter.grad
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            by_dtype.setdefault(local.dtype, []).append(local)
    for gradients in by_dtype.values():
        flat = _flatten_dense_tensors(gradients)
        dist.all_reduce(flat, group=mesh.tp_group)
        for gradient, total in zip(
            gradients, _unflatten_dense_tensors(flat, gradients), strict=True
        ):
            gradient.copy_(total)
