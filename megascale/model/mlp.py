"""The SwiGLU feed-forward layer (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megascale.kernels.matmul import linear
from megascale.parallel.mesh import Mesh
from megascale.parallel.tensor import ColumnParallelLinear, RowParallelLinear, enter_region


class _SwiGLU(torch.autograd.Function):
    """Keeps its two inputs only; silu(gate) is computed again in backward."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, F.silu(gate).mul_(grad)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, elementwise."""
    if torch.compiler.is_compiling():
        return F.silu(gate) * up
    return _SwiGLU.apply(gate, up)


class MLP(nn.Module):
    """`down(silu(gate(x)) * up(x))`; a tensor-parallel region over the inner width."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, mesh: Mesh, sequence_parallel: bool
    ):
        """Args: whole widths, this rank's place, whether activations come cut by token."""
        super().__init__()
        self._mesh, self._sequence_parallel = mesh, sequence_parallel
        self.gate_proj = ColumnParallelLinear(hidden_size, intermediate_size, False, mesh)
        self.up_proj = ColumnParallelLinear(hidden_size, intermediate_size, False, mesh)
        self.down_proj = RowParallelLinear(
            intermediate_size, hidden_size, False, mesh, sequence_parallel
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, H]` to `[tokens, H]` (this rank's tokens with sequence parallelism)."""
        x = enter_region(x, self._mesh, self._sequence_parallel)
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))

    def partial(self, x: Tensor) -> Tensor:
        """Inside a region already: this rank's addend of the output, `[tokens, H]`."""
        return linear(swiglu(self.gate_proj(x), self.up_proj(x)), self.down_proj.weight)
