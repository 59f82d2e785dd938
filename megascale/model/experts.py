"""The routed experts of one MoE layer: all SwiGLU experts stacked, applied to sorted rows.

Tokens are dropless: each is copied to its k experts, whatever the load. Rows are sorted by
expert, every expert multiplies its contiguous slice, and each token sums its k results. Routing
weights multiply the inner activations, which is the same function as multiplying the results and
leaves less to keep for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megascale.kernels.choice import Measured, choose
from megascale.kernels.matmul import library_in_use, matmul_nt, question, row_window
from megascale.model.config import ModelConfig
from megascale.model.mlp import swiglu
from megascale.parallel.expert import Permute, dispatch, invert
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import ShardSpec

ExpertPath = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

MOST_MEASURED = 1 << 24
"""Parameters that a measurement makes, or four experts."""


def _sum_rows(rows: Tensor, index: Tensor) -> Tensor:
    """`[T, k]` row numbers into `[n, H]` to the sums `[T, H]`, without the `[T, k, H]` copy."""
    return F.embedding_bag(index, rows, mode="sum")


class _Spread(torch.autograd.Function):
    """`[T, H]` to `[T * k, H]` sorted by expert."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return x.index_select(0, order // places.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return _sum_rows(grad.contiguous(), places), None, None


class _Collect(torch.autograd.Function):
    """`[T * k, H]` sorted by expert to each token's sum `[T, H]`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        ctx.top_k = places.shape[1]
        return _sum_rows(rows.contiguous(), places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return grad.index_select(0, order // ctx.top_k), None, None


class _ExpertLoop(torch.autograd.Function):
    """One matrix multiplication per expert and weight: any dtype, any size, no O(E^2) backward.

    Keeps the rows, the routing weights and the two inner activations. The gradient of a routing
    weight is `inner . (grad W_down)`, so results need not be kept.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, counts: list[int]
    ) -> Tensor:
        width = down.shape[2]
        out = rows.new_empty(rows.shape[0], down.shape[1])
        inner = []
        for expert, window, kept in _windows(counts):
            both = matmul_nt(rows[window], gate_up[expert].flatten(0, 1))
            inner.append(both)
            activated = F.silu(both[:, :width]).mul_(both[:, width:])
            activated.mul_(weights[window].unsqueeze(1))
            results = matmul_nt(activated, down[expert])
            out[window][kept] = results[kept]
        ctx.counts = counts
        ctx.save_for_backward(rows, weights, gate_up, down, *inner)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        rows, weights, gate_up, down, *inner = ctx.saved_tensors
        grad = grad.contiguous()
        width = down.shape[2]
        grad_rows, grad_weights = torch.empty_like(rows), torch.empty_like(weights)
        grad_gate_up, grad_down = torch.empty_like(gate_up), torch.empty_like(down)
        for (expert, window, kept), both in zip(_windows(ctx.counts), inner, strict=True):
            gate, up = both[:, :width], both[:, width:]
            grad_activated = matmul_nt(grad[window], down[expert].t())
            silu = F.silu(gate)
            activated = silu * up
            grad_weights[window][kept] = (activated * grad_activated).sum(1)[kept]
            # rows outside `kept` belong to other experts: from here on they weigh nothing
            weight = weights.new_zeros(both.shape[0], 1)
            weight[kept] = weights[window][kept].unsqueeze(1)
            grad_down[expert] = matmul_nt(grad[window].t(), activated.mul_(weight).t())
            grad_activated.mul_(weight)
            grad_both = torch.empty_like(both)
            torch.mul(grad_activated, silu, out=grad_both[:, width:])
            grad_activated.mul_(up)
            torch.ops.aten.silu_backward(grad_activated, gate, grad_input=grad_both[:, :width])
            matrix = gate_up[expert].flatten(0, 1)
            grad_rows[window][kept] = matmul_nt(grad_both, matrix.t())[kept]
            grad_gate_up[expert] = matmul_nt(grad_both.t(), rows[window].t()).view_as(
                gate_up[expert]
            )
        for expert, count in enumerate(ctx.counts):
            if count == 0:
                grad_gate_up[expert].zero_()
                grad_down[expert].zero_()
        return grad_rows, grad_weights, grad_gate_up, grad_down, None


def _windows(counts: list[int]) -> Iterator[tuple[int, slice, slice]]:
    """Experts that have rows, each with the window to multiply and its own rows within."""
    total, start = sum(counts), 0
    for expert, count in enumerate(counts):
        if count:
            window = row_window(start, start + count, total)
            yield expert, window, slice(start - window.start, start - window.start + count)
        start += count


def expert_loop(
    rows: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, counts: Tensor
) -> Tensor:
    """Apply each expert to its slice of rows, one matrix multiplication at a time.

    Args:
        rows: `[n, H]` sorted by expert.
        weights: `[n]` routing weights.
        gate_up: `[E, 2, I, H]`.
        down: `[E, H, I]`.
        counts: `[E]` rows per expert, summing to n.

    Returns:
        `[n, H]`: `weight * down(silu(gate x) * up x)` of each row.
    """
    return _ExpertLoop.apply(rows, weights, gate_up, down, counts.tolist())


def expert_grouped(
    rows: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, counts: Tensor
) -> Tensor:
    """The same with one grouped matrix multiplication for all experts, never leaving the device.

    Needs fp32 or bf16 and widths whose rows are multiples of 16 bytes; see `can_group`.
    """
    offsets = counts.cumsum(0).to(torch.int32)
    inner = F.grouped_mm(rows, gate_up.flatten(1, 2).transpose(1, 2), offs=offsets)
    gate, up = inner.chunk(2, dim=1)
    activated = swiglu(gate, up) * weights.unsqueeze(1)
    return F.grouped_mm(activated, down.transpose(1, 2), offs=offsets)


def measure_experts(
    experts: int, hidden: int, inner: int, rows: int, dtype: torch.dtype
) -> Measured:
    """Which of `expert_loop` and `expert_grouped` is faster on this CPU, forward and backward.

    Args:
        experts: of one rank.
        hidden, inner: widths of an expert on this rank.
        rows: copies of tokens that a rank's experts get in one micro-batch.
        dtype: that they compute in.
    """
    ways: dict[str, ExpertPath] = {"loop": expert_loop}
    if can_group(dtype, hidden, 2 * inner, inner):
        ways["grouped"] = expert_grouped
    if len(ways) == 1:
        return Measured("loop", {})
    # The rows that an expert gets decide, not how many experts there are.
    most = min(experts, max(4, MOST_MEASURED // (3 * inner * hidden)))
    rows = max(1, rows * most // experts)
    generator = torch.Generator().manual_seed(0)
    owner = torch.randint(0, most, (rows,), generator=generator)
    counts = torch.bincount(owner, minlength=most)
    shapes = ((rows, hidden), (rows,), (most, 2, inner, hidden), (most, hidden, inner))
    x, weights, gate_up, down = (
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    )
    grad = torch.randn(rows, hidden, generator=generator, dtype=dtype)

    def call(path: ExpertPath) -> None:
        y = path(x, weights, gate_up, down, counts)
        torch.autograd.grad(y, (x, weights, gate_up, down), grad)

    asked = question(
        "experts", shape=[most, rows, hidden, inner], dtype=str(dtype), matmul=library_in_use()
    )
    return choose(asked, {name: partial(call, path) for name, path in ways.items()})


def can_group(dtype: torch.dtype, *widths: int) -> bool:
    """Whether `expert_grouped` takes this dtype and these row widths."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    return all(width * dtype.itemsize % 16 == 0 for width in widths)


class Experts(nn.Module):
    """E stacked SwiGLU experts, cut over expert ranks (by expert) and tensor ranks (by width).

    Attributes:
        backend: `loop`, `grouped`, or `auto` (grouped on CUDA in bf16 where it can be).
    """

    def __init__(self, config: ModelConfig, mesh: Mesh, backend: str):
        """Hold `gate_up [E / ep, 2, I / tp, H]` and `down [E / ep, H, I / tp]`, uninitialised.

        Args:
            config: the model's shape.
            mesh: this rank's place.
            backend: see the class.
        """
        super().__init__()
        self._mesh, self.backend = mesh, backend
        experts, inner = config.num_experts, config.moe_intermediate_size
        hidden = config.hidden_size
        self._shapes = {"gate_up": (experts, 2, inner, hidden), "down": (experts, hidden, inner)}
        local, width = experts // mesh.ep_size, inner // mesh.tp_size
        self.gate_up = nn.Parameter(torch.empty(local, 2, width, hidden))
        self.down = nn.Parameter(torch.empty(local, hidden, width))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor, counts: Tensor) -> Tensor:
        """Send each token through its experts and sum.

        Args:
            x: `[T, H]`, inside a tensor-parallel region.
            weights: `[T, k]` routing weights.
            experts: `[T, k]` expert numbers.
            counts: `[E]` tokens per expert.

        Returns:
            `[T, H]`, this rank's addend of the region's output.
        """
        order = experts.flatten().argsort(stable=True)
        inverse = invert(order)
        places = inverse.view_as(experts)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rows = _Spread.apply(x, order, places)
        row_weights = Permute.apply(weights.flatten().to(x.dtype), order, inverse)
        if self._mesh.ep_size == 1:
            results = self._compute(rows, row_weights, counts)
        else:
            sent = dispatch(rows, row_weights, counts, self._mesh)
            results = sent.bring_back(self._compute(sent.rows, sent.weights, sent.counts))
        return _Collect.apply(results, order, places)

    def _compute(self, rows: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
        gate_up, down = self.gate_up.to(rows.dtype), self.down.to(rows.dtype)
        grouped = self.backend == "grouped" or (
            self.backend == "auto"
            and rows.is_cuda
            and rows.dtype == torch.bfloat16
            and can_group(rows.dtype, rows.shape[1], 2 * down.shape[2], down.shape[2])
        )
        return (expert_grouped if grouped else expert_loop)(rows, weights, gate_up, down, counts)

    def shard_specs(self) -> dict[str, ShardSpec]:
        """Both stacks are cut by expert and by inner width."""
        return {
            "gate_up": ShardSpec(self._shapes["gate_up"], tp_dim=2, ep_dim=0),
            "down": ShardSpec(self._shapes["down"], tp_dim=2, ep_dim=0),
        }
