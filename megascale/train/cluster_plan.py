"""`megascale plan`: what a config needs on a cluster that is not here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from megascale.config import RunConfig
from megascale.errors import ConfigError
from megascale.plan.cards import Card
from megascale.plan.clock import ClockAssumptions, collective_seconds
from megascale.plan.memory import MemoryEstimate
from megascale.train.explain import ExplainReport, explain
from megascale.train.rehearsal import Rehearsal, rehearse

SCHEMA = "megascale.plan/1"
FREE = 0.1
"""Part of the card's memory that a plan leaves to the allocator, the framework and kernels."""


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What follows from a config, a cluster and the assumptions about its speed.

    Attributes:
        explained: schedule, layout, work and memory on paper.
        rehearsal: of rank 0, with the config's checkpointing and micro-batch.
        other: memory on paper with activation checkpointing switched (off or all blocks).
        fitting: largest micro-batch (sequences) that fits by the estimate on paper, 0 for none.
        communication: seconds of a step's collectives if none were hidden.
        checkpoint: bytes of a whole checkpoint.
    """

    explained: ExplainReport
    card: Card
    per_node: int
    clock: ClockAssumptions
    rehearsal: Rehearsal
    other: MemoryEstimate
    fitting: int
    communication: float
    checkpoint: int

    @property
    def usable(self) -> int:
        """Bytes of the card that a plan may fill."""
        return int(self.card.memory * (1 - FREE))

    @property
    def fits(self) -> bool:
        """Whether the config's own micro-batch and checkpointing fit."""
        return self.explained.memory.total <= self.usable

    @property
    def checkpoints(self) -> bool:
        """Whether the config recomputes any activations."""
        return self.explained.config.train.activation_checkpointing != "off"

    def seconds(self) -> tuple[float, float]:
        """Least and most seconds of the whole run."""
        return self.clock.run_seconds(self.explained.total_flops, self.explained.world_size)

    def advice(self) -> str:
        """What to take, in a sentence, by the memory on paper."""
        config, card = self.explained.config, self.card.name
        now = (
            f"{config.train.micro_batch_size} sequences a micro-batch, "
            f"checkpointing {config.train.activation_checkpointing}"
        )
        if self.fits:
            return f"Take the config as it is ({now}): it fits {card} with a tenth free."
        if not self.checkpoints and self.other.total <= self.usable:
            return (
                f"{now} does not fit {card}; take train.activation_checkpointing=blocks, which "
                "does."
            )
        if self.fitting:
            return (
                f"{now} does not fit {card}; by the estimate on paper "
                f"train.micro_batch_size={self.fitting} fits: plan again with it."
            )
        return (
            f"{now} does not fit {card}, and no smaller micro-batch does: shard over more ranks "
            "(parallel.data_mode=fsdp, parallel.fsdp_gather=block, parallel.tensor) or take a "
            "larger card."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        low, high = self.seconds()
        return {
            "schema": SCHEMA,
            "fits": self.fits,
            "advice": self.advice(),
            "card": asdict(self.card),
            "cards_per_node": self.per_node,
            "assumptions": asdict(self.clock),
            "run_seconds": [low, high],
            "exposed_communication_seconds_per_step": self.communication,
            "checkpoint_bytes": self.checkpoint,
            "checkpoint_seconds": self.checkpoint / self.clock.storage_bandwidth,
            "largest_micro_batch": self.fitting,
            "rehearsal": asdict(self.rehearsal),
            "memory_other_checkpointing": self.other.to_dict(),
            "explained": self.explained.to_dict(),
        }


def plan_cluster(
    config: RunConfig, *, nodes: int, per_node: int, card: Card, clock: ClockAssumptions
) -> ClusterPlan:
    """Rehearse `config` on `nodes` x `per_node` cards.

    Raises:
        ConfigError: the model has experts.
        LayoutError: the degrees do not fit.
        ScheduleError: a segment of the batch schedule is illegal.
    """
    if config.model.is_moe:
        raise ConfigError.of(
            "model.num_experts",
            config.model.num_experts,
            "routing to experts cannot be rehearsed yet; train --explain --world-size says what "
            "is known on paper",
        )
    world = nodes * per_node
    explained = explain(config, world)
    segments = explained.schedule.segments
    shape: dict[str, Any] = {
        "sequence_length": max(segment.sequence_length for segment in segments),
        "micro_batch_size": config.train.micro_batch_size,
        "micro_batches": max(segment.micro_batches for segment in segments),
    }
    kept = config.train.activation_checkpointing == "off"
    train = config.train.model_copy(
        update={"activation_checkpointing": "blocks" if kept else "off"}
    )
    mine = rehearse(config, world, **shape)
    other = explain(config.model_copy(update={"train": train}), world).memory
    layout = explained.layout
    communication = 0.0
    for traffic in mine.traffic:
        inside = traffic.dimension == "tensor" and layout.tensor <= per_node
        inside |= traffic.dimension == "expert" and layout.tensor * layout.expert <= per_node
        inside |= world <= per_node
        speed = clock.node_bandwidth if inside else clock.network_bandwidth
        communication += collective_seconds(traffic.kind, traffic.bytes, traffic.ranks, speed)
    return ClusterPlan(
        explained,
        card,
        per_node,
        clock,
        mine,
        other,
        _largest_micro_batch(explained, int(card.memory * (1 - FREE))),
        communication,
        12 * explained.parameters.total,
    )


def _largest_micro_batch(explained: ExplainReport, usable: int) -> int:
    """Sequences that fit when the activations on paper grow and the rest stays."""
    size = explained.config.train.micro_batch_size
    activations = next(line.bytes for line in explained.memory.lines if line.name == "activations")
    room = usable - (explained.memory.total - activations)
    return max(0, room * size // activations)
