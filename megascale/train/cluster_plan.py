"""`megascale plan`: what a config needs on a cluster that is not here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megascale.config import RunConfig
from megascale.parallel.layout import Layout
from megascale.plan.cards import Card
from megascale.plan.clock import ClockAssumptions, collective_seconds
from megascale.plan.memory import MemoryEstimate, estimate_memory
from megascale.train.advice import Change, largest_micro_batch, nearest_fitting
from megascale.train.explain import ExplainReport, explain
from megascale.train.law_standing import LawStanding, law_standings
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
        fitting: most sequences of a micro-batch that fit on paper and divide every batch, 0 for
            none.
        change: nearest config that fits on paper, as dotted keys; None where it fits as it is, or
            where none was found.
        communication: seconds of the rehearsed step's collectives, none hidden.
        checkpoint: bytes of parameters and optimizer state in a checkpoint.
        laws: where batches and the peak rate stand in the bands of laws.
    """

    explained: ExplainReport
    card: Card
    per_node: int
    clock: ClockAssumptions
    rehearsal: Rehearsal
    other: MemoryEstimate
    fitting: int
    change: Change | None
    communication: float
    checkpoint: int
    laws: tuple[LawStanding, ...] = ()

    @property
    def usable(self) -> int:
        """Bytes of the card that the plan may fill."""
        return usable_bytes(self.card)

    @property
    def peak(self) -> int | None:
        """Most bytes at a time in the rehearsed step, None where it cannot say."""
        mine = self.rehearsal
        if mine.step_peak is None:
            return None
        return mine.parameters + mine.optimizer_state + mine.step_peak

    @property
    def fits(self) -> bool:
        """Whether the config's own micro-batch and checkpointing fit on paper."""
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
            f"micro-batches of {config.train.micro_batch_size} with "
            f"checkpointing {config.train.activation_checkpointing}"
        )
        if self.fits:
            if (self.peak or 0) > self.usable:
                return (
                    f"The config as it is ({now}) fits {card} on paper with a tenth free, but the "
                    "rehearsed step does not: try it on one node first."
                )
            return f"Take the config as it is ({now}): on paper it fits {card} with a tenth free."
        if self.change is not None:
            words = " ".join(f"{key}={_word(value)}" for key, value in self.change.items())
            return f"{now} do not fit {card}; on paper they fit with {words}."
        return (
            f"{now} do not fit {card}, and no config was found that fits with these batches: "
            "tried were recomputed blocks, smaller micro-batches, fsdp, and tensor parallelism "
            "within a node. Take more cards or a larger one."
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
            "collective_seconds_per_step_if_none_is_hidden": self.communication,
            "checkpoint_bytes": self.checkpoint,
            "checkpoint_seconds": self.checkpoint / self.clock.storage_bandwidth,
            "laws": [law.to_dict() for law in self.laws],
            "largest_micro_batch": self.fitting,
            "nearest_fitting": self.change,
            "rehearsal": asdict(self.rehearsal),
            "memory_other_checkpointing": self.other.to_dict(),
            "explained": self.explained.to_dict(),
        }


def plan_cluster(
    config: RunConfig,
    *,
    nodes: int,
    per_node: int,
    card: Card,
    clock: ClockAssumptions,
    law_files: Sequence[Path] = (),
) -> ClusterPlan:
    """Rehearse `config` on `nodes` x `per_node` cards.

    `law_files` are laws to hold batches and the peak rate against, beside the config's own.

    Raises:
        LayoutError: the degrees do not fit.
        ScheduleError: a segment of the batch schedule is illegal.
    """
    world = nodes * per_node
    explained = explain(config, world)
    laws = law_standings(config, explained.schedule, law_files)
    largest = max(explained.schedule.segments, key=lambda segment: segment.batch_tokens)
    kept = config.train.activation_checkpointing == "off"
    train = config.train.model_copy(
        update={"activation_checkpointing": "blocks" if kept else "off"}
    )
    mine = rehearse(
        config,
        world,
        sequence_length=largest.sequence_length,
        micro_batch_size=largest.micro_batch_size,
        micro_batches=largest.micro_batches,
    )
    other = explain(config.model_copy(update={"train": train}), world).memory
    communication = 0.0
    for traffic in mine.traffic:  # of rank 0, on the first node
        inside = traffic.last < per_node
        speed = clock.node_bandwidth if inside else clock.network_bandwidth
        communication += collective_seconds(traffic.kind, traffic.bytes, traffic.ranks, speed)
    usable = usable_bytes(card)
    fits = explained.memory.total <= usable
    return ClusterPlan(
        explained,
        card,
        per_node,
        clock,
        mine,
        other,
        largest_micro_batch(explained, usable),
        None if fits else nearest_fitting(explained, usable, per_node),
        communication,
        _checkpoint_bytes(config),
        laws,
    )


def usable_bytes(card: Card) -> int:
    """Bytes of a card that a plan may fill."""
    return int(card.memory * (1 - FREE))


def _checkpoint_bytes(config: RunConfig) -> int:
    """Parameters and optimizer state, each once, as checkpoints hold them."""
    alone = estimate_memory(
        config.model,
        Layout(tensor=1, data=1, expert=1, data_mode="ddp", hsdp_replicate=1),
        sequence_length=1,
        micro_batch_size=1,
        micro_batches=1,
        optimizer=config.optimizer.name,
    )
    parameters, _, state = alone.lines[:3]
    return parameters.bytes + state.bytes


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
