"""One training step: micro-batches, gradients, one small collective, update or skip."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megascale.data.loader import LoadedStep
from megascale.model.documents import Documents
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.train.balance import ExpertBalance
from megascale.train.micro_gradients import SUMS, MicroGradientNorms, halves
from megascale.train.noise_scale import NoiseMeasurement
from megascale.train.optimizer import ShardedOptimizer

_HASH_SHIFTS = (0, 16, 32, 48)


@dataclass(frozen=True)
class Objective:
    """What one step minimises besides the cross-entropy.

    Attributes:
        aux_loss_coef: weight of the load-balancing loss, a mean over windows of `window_tokens`.
        z_loss_coef: weight of the router z-loss, a mean over tokens.
        window_tokens: length of a balance window; 0 without MoE layers.
    """

    aux_loss_coef: float = 0.0
    z_loss_coef: float = 0.0
    window_tokens: int = 0


@dataclass
class StepStatistics:
    """Sums over the whole global batch of one step, the same on every rank.

    Attributes:
        loss_sum: sum of token losses in nats.
        loss_tokens: valid target tokens of the global batch.
        aux_loss: mean balance loss per window and layer (1 is perfect balance); 0 for dense.
        z_loss: mean router z-loss per token and layer; 0 for dense.
        grad_norm: global gradient norm before clipping.
        expert_counts: [MoE layers, experts] int64, slots routed to each expert.
        router_entropy_sum: per MoE layer, entropy of the router in nats summed over positions.
        window_counts: [MoE layers, 2, experts] int64, slots of consumed tokens in the earlier and
            the later balance window of the step; [MoE layers, 0, experts] without trailing loads.
        token_hash: `position_hash` of the tokens the step consumed.
        signalled: whether any rank was told to stop.
        saving: whether any rank was still writing a checkpoint in the background.
        late: whether on any rank a checkpoint was due by its clock.
        noise: what the micro-batches say about the gradient's noise; None where not measured.
    """

    loss_sum: float
    loss_tokens: int
    aux_loss: float
    z_loss: float
    grad_norm: float
    expert_counts: torch.Tensor
    router_entropy_sum: list[float]
    window_counts: torch.Tensor
    token_hash: int
    signalled: bool
    saving: bool
    late: bool
    noise: NoiseMeasurement | None = None

    @property
    def loss(self) -> float:
        """Mean token loss of the step in nats; NaN where no target counts."""
        return self.loss_sum / self.loss_tokens if self.loss_tokens else float("nan")


def accumulate_gradients(
    parallel: DataParallel,
    mesh: Mesh,
    optimizer: ShardedOptimizer,
    loaded: LoadedStep,
    *,
    batch_tokens: int,
    objective: Objective,
    balance: ExpertBalance | None = None,
    signalled: Callable[[], bool] = lambda: False,
    saving: bool = False,
    late: bool = False,
    norms: MicroGradientNorms | None = None,
) -> tuple[StepStatistics, list[torch.Tensor]]:
    """Forward and backward of all micro-batches of a step, reduced over all ranks.

    Args:
        loaded: this rank's micro-batches and the step's normaliser.
        batch_tokens: positions of the whole global batch, padding of a clipped last step included.
        objective: weights of the auxiliary losses.
        balance: knows the loads that a balance loss on trailing loads uses.
        signalled: whether this rank was told to stop, asked when all micro-batches are done; the
            statistics say whether any was.
        saving: whether this rank is still writing a checkpoint; likewise.
        late: whether on this rank a checkpoint is due by its clock; likewise.
        norms: measures the gradient noise of this step; None does not.

    Returns:
        The statistics and the local gradients (unclipped), complete over all ranks.
    """
    device = mesh.device
    windows = batch_tokens / objective.window_tokens if objective.window_tokens else 1.0
    totals: torch.Tensor | None = None
    shape = (0, 0, 0)
    batches = loaded.micro_batches
    if norms is not None:
        own = balance is None or not balance.trails
        batches = halves(batches, mesh, window_tokens=objective.window_tokens if own else 0)
    with nullcontext() if norms is None else norms.watching():
        for number, batch in enumerate(batches, start=1):
            tokens = batch.inputs.to(device, non_blocking=True)
            targets = batch.targets.to(device, non_blocking=True)
            documents = None if batch.doc_ids is None else Documents.of(batch.doc_ids)
            with parallel.accumulate(last=number == len(batches)):
                output = parallel(
                    tokens,
                    targets,
                    documents=documents,
                    trailing=None if balance is None else balance.trailing(loaded, batch),
                )
                loss = output.loss_sum / max(loaded.valid_targets, 1)
                if objective.aux_loss_coef:
                    loss = loss + output.aux_sum * (objective.aux_loss_coef / windows)
                if objective.z_loss_coef:
                    loss = loss + output.z_sum * (objective.z_loss_coef / batch_tokens)
                loss.backward()
            if norms is not None:
                norms.end_unit(batch.targets)
            shape = tuple(output.window_counts.shape)
            flat = torch.cat([value.detach().double().reshape(-1) for value in output])
            totals = flat if totals is None else totals + flat
    parallel.finish()

    gradients = optimizer.gradients()
    square = optimizer.local_square_sum(gradients)
    # 64 bits in four parts, which float64 sums exactly over any number of ranks
    parts = [float((loaded.token_hash >> shift) & 0xFFFF) for shift in _HASH_SHIFTS]
    flags = torch.tensor(
        [*parts, float(signalled()), float(saving), float(late)],
        dtype=torch.float64,
        device=device,
    )
    vector = torch.cat([totals, flags]) if totals is not None else flags
    if mesh.tp_rank:
        vector.zero_()  # tensor-parallel ranks hold the same: one of them speaks for its group
        vector[-3:] = flags[-3:]
    vector = torch.cat([vector, square.reshape(1)])
    if norms is not None:
        vector = torch.cat([norms.sums(gradients), vector])
    if mesh.world_size > 1:
        dist.all_reduce(vector)
    values = vector.cpu()
    noise = None
    if norms is not None:
        noise = norms.measurement(values[:SUMS].tolist(), loaded.valid_targets)
        values = values[SUMS:]

    layers, windows_met, experts = shape
    entropy_start = 3 + layers * experts
    windows_start = entropy_start + layers
    windows_stop = windows_start + layers * windows_met * experts
    return (
        StepStatistics(
            loss_sum=float(values[0]),
            loss_tokens=loaded.valid_targets,
            aux_loss=float(values[1]) / windows,
            z_loss=float(values[2]) / batch_tokens,
            grad_norm=float(values[-1]) ** 0.5,
            expert_counts=values[3:entropy_start].long().reshape(layers, experts),
            router_entropy_sum=values[entropy_start:windows_start].tolist(),
            window_counts=values[windows_start:windows_stop].long().reshape(shape),
            token_hash=sum(
                int(part) << shift for part, shift in zip(values[-8:-4], _HASH_SHIFTS, strict=True)
            )
            % 2**64,
            signalled=bool(values[-4] > 0),
            saving=bool(values[-3] > 0),
            late=bool(values[-2] > 0),
            noise=noise,
        ),
        gradients,
    )
