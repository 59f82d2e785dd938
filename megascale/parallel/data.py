"""The data dimension: DDP, FSDP2 (`fully_shard`) or HSDP around a model, behind one interface.

Gradients are *summed* over data ranks: the loss is already divided by the valid tokens of the
whole global batch, so no wrapper may divide again. Nothing is communicated before the last
micro-batch of a step.

Expert parameters live on fewer data ranks than the rest (`data / expert` of them), so each
wrapper reduces them over their own group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import collect_specs
from megascale.parallel.tensor import sync_partial_gradients

BUCKET_ELEMENTS = 25_000_000  # of one all-reduce of expert gradients (100 MB in fp32)


class ShardedBlock(Protocol):
    """A part of a model that is sharded as one."""

    def expert_module(self) -> nn.Module | None:
        """Its routed experts, which are sharded over fewer ranks; None where it has none."""


class BlockModel(Protocol):
    """What data parallelism asks of a model, besides being an `nn.Module`."""

    def blocks(self) -> Iterable[Any]:
        """Its `ShardedBlock`s, in order; each is an `nn.Module`."""


class DataParallel:
    """A model made ready for its data dimension.

    Attributes:
        model: the bare model; parameters are `DTensor`s afterwards under FSDP2 and HSDP.

    Call it like the model, inside `accumulate(last=...)`, and `finish()` after the last backward.
    """

    def __init__(self, model: Any, mesh: Mesh, *, precision: str, gather: str = "step"):
        """Wrap `model` in place by `mesh.data_mode`.

        Args:
            model: built on its final device (or on meta, for the FSDP modes).
            mesh: the process's place among all ranks.
            precision: `fp32` or `bf16` (compute in bf16; parameters, reductions and optimizer
                state stay in fp32).
            gather: FSDP modes: `step` gathers whole parameters once a step and keeps them until
                its last backward; `block` frees each block after its forward and backward.
        """
        self.model = model
        self._mesh = mesh
        self._precision = precision
        self._callable: nn.Module = model
        self._ddp: DistributedDataParallel | None = None
        self._fsdp: list[FSDPModule] = []
        self._gather = gather
        specs = collect_specs(model)
        self._local_experts = {
            name for name, spec in specs.items() if mesh.ep_size > 1 and spec.ep_dim is not None
        }
        if mesh.data_mode in ("fsdp", "hsdp") and mesh.dp_group is not None:
            self._shard()
        elif mesh.dp_size > 1:
            self._replicate()

    def _shard(self) -> None:
        policy = (
            MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            if self._precision == "bf16"
            else MixedPrecisionPolicy()
        )
        reshard = self._gather == "block"
        for block in self.model.blocks():
            if self._mesh.ep_size > 1 and (experts := block.expert_module()) is not None:
                fully_shard(
                    experts,
                    mesh=self._mesh.expert_mesh,
                    mp_policy=policy,
                    reshard_after_forward=reshard,
                )
            fully_shard(
                block, mesh=self._mesh.dense_mesh, mp_policy=policy, reshard_after_forward=reshard
            )
        fully_shard(
            self.model, mesh=self._mesh.dense_mesh, mp_policy=policy, reshard_after_forward=False
        )
        self._fsdp = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for module in self._fsdp:
            module.set_gradient_divide_factor(1.0)
            # a plain sum: gloo has no pre-multiplied one
            module.set_force_sum_reduction_for_comms(True)

    def _replicate(self) -> None:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self.model, self._local_experts
        )
        self._ddp = DistributedDataParallel(
            self.model,
            process_group=self._mesh.dp_group,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            init_sync=False,
        )
        self._ddp.register_comm_hook(self._mesh.dp_group, _sum_bucket)
        self._callable = self._ddp

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward, in the compute precision."""
        if self._precision == "bf16" and not self._fsdp:
            with torch.autocast(self._mesh.device.type, dtype=torch.bfloat16):
                return self._callable(*args, **kwargs)
        return self._callable(*args, **kwargs)

    @contextmanager
    def accumulate(self, *, last: bool) -> Iterator[None]:
        """Forward and backward of one micro-batch; only the `last` of a step communicates."""
        with ExitStack() as stack:
            for module in self._fsdp[:1]:  # the root passes it on to the blocks
                module.set_requires_gradient_sync(last)
                module.set_is_last_backward(last)
                module.set_reshard_after_backward(last or self._gather == "block")
            if self._ddp is not None and not last:
                stack.enter_context(self._ddp.no_sync())
            yield

    def gradient_leaves(self) -> dict[str, torch.Tensor]:
        """The tensors that a backward pass hands one micro-batch's whole gradient to, by name.

        These are the parameters themselves, and under FSDP2 the gathered ones, which stay the same
        objects for the life of the wrapper. A tensor hook on one sees the gradient of this rank's
        micro-batch alone, before it is accumulated or reduced. Collective under FSDP2.
        """
        if not self._fsdp:
            return dict(self.model.named_parameters())
        leaves: dict[str, torch.Tensor] = {}
        for module in self._fsdp:
            module.unshard()
            for name, parameter in self.model.named_parameters():
                if not isinstance(parameter, DTensor):
                    leaves.setdefault(name, parameter)
            module.reshard()
        return leaves

    def rest(self) -> None:
        """Free the whole parameters that forward passes without a backward left gathered.

        Until then `model.named_parameters()` gives whole parameters under FSDP2, not shards.
        """
        for module in self._fsdp:
            module.reshard()

    def finish(self) -> None:
        """Complete every parameter's gradient after the step's last backward."""
        if self._ddp is not None and self._mesh.ep_size > 1 and self._mesh.edp_size > 1:
            gradients = [
                parameter.grad
                for name, parameter in self.model.named_parameters()
                if name in self._local_experts and parameter.grad is not None
            ]
            for bucket in _buckets(gradients):
                flat = _flatten_dense_tensors(bucket)
                dist.all_reduce(flat, group=self._mesh.edp_group)
                for gradient, total in zip(
                    bucket, _unflatten_dense_tensors(flat, bucket), strict=True
                ):
                    gradient.copy_(total)
        sync_partial_gradients(self.model, self._mesh)


def _sum_bucket(group, bucket):  # without annotations: DDP refuses textual ones
    """DDP communication hook: a plain sum, where DDP's own would divide by the world size."""
    buffer = bucket.buffer()
    work = dist.all_reduce(buffer, group=group, async_op=True)
    return work.get_future().then(lambda _: buffer)  # summed in place


def _buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
