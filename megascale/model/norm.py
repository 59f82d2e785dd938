"""RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) with Qwen3's rounding.

The mean square is taken in at least fp32; the normalised value is rounded to the input's dtype
before it is multiplied by the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from megascale.parallel.shards import ShardSpec


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for half precisions, the dtype itself for fp32 and fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _RMSNorm(torch.autograd.Function):
    """Saves the input and one scale per row; two full passes forward, four backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(accumulation_dtype(x.dtype))
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = scale.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normalised = (wide * scale).to(x.dtype)
        if normalised.dtype == weight.dtype:
            return normalised.mul_(weight)
        return normalised * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        wide, wide_weight = x.to(scale.dtype), weight.to(scale.dtype)
        grad = grad.to(scale.dtype)
        product = (grad * wide).view(-1, width)
        grad_weight = product.t().mv(scale.view(-1))
        along = product.mv(wide_weight).view_as(scale)
        coefficient = scale.pow(3).mul_(along).mul_(-1 / width)
        grad_x = (grad * wide_weight).mul_(scale).addcmul_(wide, coefficient)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`weight * x / sqrt(mean(x^2) + eps)` over the last dimension.

    Args:
        x: `[..., width]`.
        weight: `[width]`.
        eps: added to the mean square.
    """
    if not torch.compiler.is_compiling():
        return _RMSNorm.apply(x, weight, eps)
    wide = x.to(accumulation_dtype(x.dtype))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


class RMSNorm(nn.Module):
    """RMSNorm with a learned weight `[width]`, whole on every rank."""

    def __init__(self, width: int, eps: float, *, tp_partial_grad: bool):
        """Args: see `rms_norm`; `tp_partial_grad` as in `ShardSpec`."""
        super().__init__()
        self._eps, self._partial = eps, tp_partial_grad
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` to the same shape."""
        return rms_norm(x, self.weight, self._eps)

    def shard_specs(self) -> dict[str, ShardSpec]:
        """Whole everywhere."""
        return {"weight": ShardSpec(tuple(self.weight.shape), tp_partial_grad=self._partial)}
