"""Grouped-query attention with per-head QK-norm and rotary positions, cut by heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from megascale.model.config import ModelConfig
from megascale.model.documents import Documents, attend
from megascale.model.norm import RMSNorm, accumulation_dtype
from megascale.parallel.mesh import Mesh
from megascale.parallel.tensor import ColumnParallelLinear, RowParallelLinear, enter_region


def rope_tables(
    sequence_length: int, head_dim: int, theta: float, *, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every rotary angle (Su et al. 2021, arXiv 2104.09864).

    Angles are computed in fp32 (fp64 for an fp64 model) and rounded to `dtype`.

    Returns:
        two tables `[S, 1, head_dim / 2]`, ready to broadcast over heads.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    frequency = (1.0 / theta**exponent).to(accumulation_dtype(dtype))
    position = torch.arange(sequence_length, dtype=frequency.dtype, device=device)
    angle = (position[:, None] * frequency).unsqueeze(1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


class _Rotate(torch.autograd.Function):
    """Rotation by an angle; its backward is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, sin, -1), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=direction)
    return out


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim / 2) of every head, as Qwen3 lays them out.

    Args:
        x: `[B, S, heads, head_dim]`.
        cos, sin: `[S, 1, head_dim / 2]` of `rope_tables`.
    """
    if not torch.compiler.is_compiling() and cos.dtype == x.dtype:
        return _Rotate.apply(x, cos, sin)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@torch.no_grad()
def largest_attention_logit(query: Tensor, key: Tensor) -> Tensor:
    """The largest q k / sqrt(head_dim) that causal attention within one sequence sees.

    Args:
        query: `[S, heads, head_dim]`, after norms and rotation.
        key: `[S, key-value heads, head_dim]`.
    """
    group = query.shape[1] // key.shape[1]
    hidden = torch.ones(query.shape[0], key.shape[0], dtype=torch.bool, device=query.device).triu(1)
    largest = [
        (query[:, head] @ key[:, head // group].T).masked_fill(hidden, -torch.inf).max()
        for head in range(query.shape[1])
    ]
    return torch.stack(largest).max() / query.shape[2] ** 0.5


class Attention(nn.Module):
    """Qwen3's self-attention, or Llama's without QK-norm; a tensor-parallel region over heads.

    Attributes:
        largest_logit: where a tensor is put, forward passes raise it to the largest logit of the
            first sequence, over this rank's heads; None does nothing.
    """

    def __init__(self, config: ModelConfig, mesh: Mesh, sequence_parallel: bool):
        """Args: the model's shape, this rank's place, whether activations come cut by token."""
        super().__init__()
        self.largest_logit: Tensor | None = None
        self._mesh, self._sequence_parallel = mesh, sequence_parallel
        self._head_dim = config.head_dim
        self._qk_norm = config.qk_norm
        self._grouped = config.num_key_value_heads != config.num_attention_heads
        hidden, bias = config.hidden_size, config.attention_bias
        self.q_proj = ColumnParallelLinear(hidden, config.query_size, bias, mesh)
        self.k_proj = ColumnParallelLinear(hidden, config.key_value_size, bias, mesh)
        self.v_proj = ColumnParallelLinear(hidden, config.key_value_size, bias, mesh)
        self.o_proj = RowParallelLinear(config.query_size, hidden, bias, mesh, sequence_parallel)
        partial = mesh.tp_size > 1  # each rank sees its own heads only
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps, tp_partial_grad=partial)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps, tp_partial_grad=partial)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, documents: Documents | None) -> Tensor:
        """Attend within each sequence, or within each document.

        Args:
            x: `[B * S, H]` (`[B * S / tp, H]` with sequence parallelism).
            cos, sin: rotary tables for S positions.
            documents: of the micro-batch; None for whole sequences.
        """
        x = enter_region(x, self._mesh, self._sequence_parallel)
        shape = (-1, cos.shape[0], self._heads(self.q_proj), self._head_dim)
        kv_shape = (-1, cos.shape[0], self._heads(self.k_proj), self._head_dim)
        query, key = self.q_proj(x).view(shape), self.k_proj(x).view(kv_shape)
        if self._qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = apply_rope(query, cos, sin), apply_rope(key, cos, sin)
        value = self.v_proj(x).view(kv_shape)
        if self.largest_logit is not None:
            found = largest_attention_logit(query[0], key[0]).to(self.largest_logit.dtype)
            self.largest_logit = torch.maximum(self.largest_logit, found)
        attended = attend(query, key, value, documents, grouped=self._grouped)
        return self.o_proj(attended.reshape(x.shape[0], -1))

    def _heads(self, projection: ColumnParallelLinear) -> int:
        return projection.weight.shape[0] // self._head_dim
