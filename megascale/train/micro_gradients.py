"""Squared norms of the micro-batch gradients that a step computes anyway, on every layout.

A hook on each parameter sees the gradient of one micro-batch of one rank before it is accumulated
or reduced, so nothing is stored and nothing is computed twice. Hooks are there only while a
measured step runs.

A *unit* is what one such gradient belongs to: for dense parameters a micro-batch of a
data-parallel rank; for experts spread over ranks the micro-batches of one expert-parallel group
together, because each of its ranks computes its experts' gradient of all their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from megascale.data.loader import LoadedMicroBatch
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import collect_specs
from megascale.train.noise_scale import NoiseMeasurement, PartSums
from megascale.train.optimizer import ShardedOptimizer

IGNORED = -100  # a target that does not count
SUMS = 6  # what `MicroGradientNorms.sums` adds to a step's collective


class MicroGradientNorms:
    """The squared norms of a step's units, dense and expert parameters apart."""

    def __init__(self, parallel: DataParallel, mesh: Mesh, optimizer: ShardedOptimizer):
        """Args: the wrapped model, the process's place, and the optimizer over its shards."""
        self._parallel, self._mesh = parallel, mesh
        specs = collect_specs(parallel.model)
        self.experts = {name for name, spec in specs.items() if spec.ep_dim is not None}
        self._of_experts = torch.tensor([p.name in self.experts for p in optimizer.parameters])
        self._share = torch.tensor([p.weight for p in optimizer.parameters], dtype=torch.float64)
        # a sum over tensor-parallel ranks counts what each of them holds whole tp_size times
        self._weight = {
            name: 1.0 if spec.tp_dim is not None else 1.0 / mesh.tp_size
            for name, spec in specs.items()
        }
        self._partial = {
            name for name, spec in specs.items() if spec.tp_partial_grad and mesh.tp_size > 1
        }
        self._leaves: dict[str, torch.Tensor] | None = None
        self._norms: list[torch.Tensor] = []
        self._names: list[str] = []
        self._waiting: dict[str, torch.Tensor] = {}
        self._valid: list[int] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure the backward passes inside; forgets what was measured before."""
        self._norms, self._names, self._valid = [], [], []
        if self._leaves is None:
            self._leaves = self._parallel.gradient_leaves()
        hooks = [leaf.register_hook(self._hook(name)) for name, leaf in self._leaves.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, name: str) -> Callable[[torch.Tensor], None]:
        partial = name in self._partial

        def see(gradient: torch.Tensor) -> None:
            if partial:
                self._waiting[name] = gradient.detach().clone()
            else:
                self._take(name, gradient.detach())

        return see

    def _take(self, name: str, gradient: torch.Tensor) -> None:
        precise = torch.promote_types(gradient.dtype, torch.float32)
        self._norms.append(torch.linalg.vector_norm(gradient, dtype=precise))
        self._names.append(name)

    def end_unit(self, targets: torch.Tensor) -> None:
        """A micro-batch's backward pass is done. Collective where tensor ranks hold shares.

        Args:
            targets: the micro-batch's, on the host.
        """
        self._valid.append(int((targets != IGNORED).sum()))
        if self._waiting:
            # in model order, which is the same on all ranks
            names = [name for name in self._leaves or {} if name in self._waiting]
            shares = [self._waiting[name].float() for name in names]
            if any(self._waiting[name].dtype == torch.float64 for name in names):
                shares = [self._waiting[name].double() for name in names]
            flat = _flatten_dense_tensors(shares)
            dist.all_reduce(flat, group=self._mesh.tp_group)
            for name, whole in zip(names, _unflatten_dense_tensors(flat, shares), strict=True):
                self._take(name, whole)
            self._waiting = {}

    def sums(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """This rank's share of the six sums that `measurement` reads. Collective with experts.

        Args:
            gradients: the step's, complete, as `ShardedOptimizer.gradients` gives them.

        Returns:
            [6] float64: of dense parameters and of experts in turn, the squared norms of all
            units, of the step's gradient, and the squared valid targets of all units.
        """
        device, mesh = self._mesh.device, self._mesh
        units = torch.zeros(2, dtype=torch.float64, device=device)
        if self._norms:
            squares = torch.stack([norm.double() for norm in self._norms]).square()
            weights = [self._weight[name] for name in self._names]
            experts = [name in self.experts for name in self._names]
            squares = squares * torch.tensor(weights, dtype=torch.float64, device=device)
            chosen = torch.tensor(experts, device=device)
            units = torch.stack([squares[~chosen].sum(), squares[chosen].sum()])
        whole = torch.stack(torch._foreach_norm(list(gradients))).double().square()
        whole = whole * self._share.to(device)
        chosen = self._of_experts.to(device)
        square = torch.stack([whole[~chosen].sum(), whole[chosen].sum()])
        counts = torch.zeros(2, dtype=torch.float64, device=device)
        valid = torch.tensor(self._valid, dtype=torch.float64, device=device)
        if mesh.tp_rank == 0:
            counts[0] = valid.square().sum()
        if mesh.ep_size > 1:
            dist.all_reduce(valid, group=mesh.ep_group)
        if mesh.tp_rank == 0 and mesh.ep_rank == 0:
            counts[1] = valid.square().sum()
        return torch.stack([units, square, counts], dim=1).reshape(-1)

    def measurement(self, sums: Sequence[float], valid_targets: int) -> NoiseMeasurement | None:
        """The measurement of a step from `sums` added over all ranks; None without targets."""
        if valid_targets == 0:
            return None
        parts = [
            PartSums(units, square, squares_of_counts / valid_targets**2)
            for units, square, squares_of_counts in (sums[0:3], sums[3:6])
        ]
        return NoiseMeasurement.of(
            valid_targets, dense=parts[0], experts=parts[1] if self.experts else None
        )


def halves(
    batches: tuple[LoadedMicroBatch, ...], mesh: Mesh, *, window_tokens: int
) -> tuple[LoadedMicroBatch, ...]:
    """The micro-batches of a measured step: a single one of a single rank is cut in two.

    One gradient alone says nothing about noise. The halves' gradients add up to the whole's but
    for rounding. A micro-batch of one sequence, or whose halves would cut a balance window, stays
    whole: its step then gives no measurement.

    Args:
        window_tokens: length of a balance window; 0 without MoE layers.
    """
    if len(batches) > 1 or mesh.edp_size > 1 or not batches:
        return batches
    rows, length = batches[0].inputs.shape
    cut = rows // 2
    sizes = (cut * length, (rows - cut) * length)
    if cut == 0 or (window_tokens and any(size % window_tokens for size in sizes)):
        return batches
    return tuple(
        LoadedMicroBatch(
            batches[0].inputs[part],
            batches[0].targets[part],
            None if batches[0].doc_ids is None else batches[0].doc_ids[part],
            batches[0].first + part.start * length,
        )
        for part in (slice(0, cut), slice(cut, rows))
    )
