"""Output projection and cross-entropy in one, a chunk of tokens at a time.

Logits never exist for more than a chunk: each chunk's gradient is formed where its logits are, in
the forward pass, so the backward pass only scales. With tensor parallelism every rank holds a
slice of the vocabulary, and a chunk costs one small gather of per-token log-sums.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megascale.kernels.matmul import matmul_nt, uses_onednn
from megascale.model.norm import accumulation_dtype
from megascale.parallel.mesh import Mesh

IGNORED = -100
CHUNK_ELEMENTS = 1 << 21  # of logits in flight (8 MB in fp32)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, mesh: Mesh | None, chunk: int
    ) -> Tensor:
        device = hidden.device.type
        compute = hidden.dtype
        if torch.is_autocast_enabled(device):
            compute = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return _forward(ctx, hidden, weight, targets, mesh, chunk, compute)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if ctx.gradients is None:
            raise RuntimeError("the gradient of linear_cross_entropy can be taken once")
        gradients, ctx.gradients = ctx.gradients, None
        grad_hidden, grad_weight = (
            None if gradient is None else gradient.mul_(grad.to(gradient.dtype))
            for gradient in gradients
        )
        return grad_hidden, grad_weight, None, None, None


def _forward(
    ctx: Any,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mesh: Mesh | None,
    chunk: int,
    compute: torch.dtype,
) -> Tensor:
    wide = accumulation_dtype(compute)
    inputs, matrix = hidden.to(compute), weight.to(compute)
    wants_hidden, wants_weight = ctx.needs_input_grad[:2]
    grad_hidden = torch.empty_like(hidden) if wants_hidden else None
    grad_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
    loss = torch.zeros((), dtype=wide, device=hidden.device)
    vocabulary = matrix.shape[0]
    step = max(1, min(chunk // vocabulary, hidden.shape[0]))
    for start in range(0, hidden.shape[0], step):
        part = slice(start, start + step)
        valid = targets[part] != IGNORED
        logits = matmul_nt(inputs[part], matrix).to(wide)
        index = targets[part].masked_fill(~valid, 0)
        owned = valid
        if mesh is not None:
            index = index - mesh.tp_rank * vocabulary
            owned = valid & (index >= 0) & (index < vocabulary)
            index = index.masked_fill(~owned, 0)
        index = index.unsqueeze(1)
        largest = logits.amax(dim=1, keepdim=True)
        logits.sub_(largest)
        target = logits.gather(1, index)
        logits.exp_()
        total = logits.sum(dim=1, keepdim=True)
        scale = 1 / total
        log_total = total.log()
        if mesh is not None:
            log_local = log_total + largest
            target = (target + largest).masked_fill(~owned.unsqueeze(1), 0)
            log_total, target = _combine(log_local, target, mesh)
            scale = (largest - log_total).exp()
        loss += (log_total - target).squeeze(1).masked_fill(~valid, 0).sum()
        if grad_hidden is None and grad_weight is None:
            continue
        logits.mul_(scale.masked_fill(~valid.unsqueeze(1), 0))
        logits.scatter_add_(1, index, -owned.unsqueeze(1).to(wide))
        gradient = logits.to(compute)
        if grad_hidden is not None:
            grad_hidden[part] = matmul_nt(gradient, matrix.t())
        if grad_weight is not None:
            if compute == wide and not uses_onednn(gradient.t(), inputs[part].t()):
                grad_weight.addmm_(gradient.t(), inputs[part])
            else:
                grad_weight.add_(matmul_nt(gradient.t(), inputs[part].t()))
    ctx.gradients = (grad_hidden, grad_weight)
    return loss


def _combine(log_local: Tensor, target: Tensor, mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Per-token log-sum-exp and target logit over the whole vocabulary, from slices `[c, 1]`."""
    mine = torch.cat((log_local, target), dim=1)
    slices = mine.new_empty(mesh.tp_size * mine.shape[0], 2)
    dist.all_gather_single(slices, mine, group=mesh.tp_group)
    slices = slices.view(mesh.tp_size, -1, 2)
    return slices[..., :1].logsumexp(0), slices[..., 1:].sum(0)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    mesh: Mesh | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Sum over tokens of `-log softmax(hidden W^T)[target]`.

    Logits are computed in the dtype of `hidden` (or autocast's), everything after them in fp32
    (fp64 for an fp64 model). With tensor parallelism the loss is whole on every rank, and the
    gradient of `hidden` is this rank's addend: call it inside a region.

    Args:
        hidden: `[T, H]`.
        weight: `[V, H]`, or this rank's `[V / tp, H]`.
        targets: `[T]` token ids over the whole vocabulary; -100 is left out.
        mesh: needed when the vocabulary is cut.
        chunk_elements: logits in flight at a time.

    Returns:
        scalar in fp32 (fp64).
    """
    cut = mesh if mesh is not None and mesh.tp_size > 1 else None
    return _LinearCrossEntropy.apply(hidden, weight, targets, cut, chunk_elements)
