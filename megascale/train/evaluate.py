"""Loss on held-out sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megascale.data.batches import micro_batch, valid_targets
from megascale.data.held_out import HeldOut
from megascale.model.documents import Documents
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh


@dataclass(frozen=True)
class Evaluation:
    """Loss of one held-out source.

    Attributes:
        loss_sum: sum of token losses in nats.
        loss_tokens: tokens in that sum.
    """

    loss_sum: float
    loss_tokens: int

    @property
    def loss(self) -> float:
        """Mean token loss in nats."""
        return self.loss_sum / self.loss_tokens


@torch.no_grad()
def evaluate(
    parallel: DataParallel,
    mesh: Mesh,
    held_out: HeldOut,
    *,
    micro_batch_size: int,
    mask_documents: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Mean loss over a held-out source; every evaluation reads the same tokens. Collective.

    Args:
        held_out: what to read.
        micro_batch_size: sequences per rank and forward pass.
        mask_documents: attention stays within documents, as in training.
        stopped: whether this rank was told to stop, asked before every forward pass.

    Returns:
        None where any rank was told to stop on the way.
    """
    stream, tokens, sequence_length = held_out.stream, held_out.tokens, held_out.sequence_length
    unit = micro_batch_size * sequence_length * mesh.dp_size
    total = torch.zeros((), dtype=torch.float64, device=mesh.device)
    for index in range(-(-tokens // unit)):
        if any_rank(stopped(), mesh):
            parallel.rest()
            return None
        batch = micro_batch(
            stream,
            0,
            tokens,
            sequence_length=sequence_length,
            micro_batch_size=micro_batch_size,
            data_parallel=mesh.dp_size,
            dp_rank=mesh.dp_rank,
            index=index,
            mask_documents=mask_documents,
        )
        documents = None
        if batch.doc_ids is not None:
            documents = Documents.of(torch.from_numpy(batch.doc_ids))
        output = parallel(
            torch.from_numpy(batch.inputs).to(mesh.device),
            torch.from_numpy(batch.targets).to(mesh.device),
            documents=documents,
        )
        total += output.loss_sum.double()
    parallel.rest()
    if mesh.dp_size > 1:
        dist.all_reduce(total, group=mesh.dp_group)
    return Evaluation(float(total), valid_targets(stream, 0, tokens))


def any_rank(told: bool, mesh: Mesh) -> bool:
    """Whether `told` holds on any rank. Collective."""
    if mesh.world_size == 1:
        return told
    flag = torch.tensor(float(told), device=mesh.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag > 0)
