"""What `megascale plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from megascale.units import format_count
from megascale.verbs.tables import empty_table, folded_rows, wide_console
from megascale.verbs.train_tables import show_bytes

if TYPE_CHECKING:
    from rich.console import Console

    from megascale.plan.steps import SegmentWork
    from megascale.schedule.batch import Segment
    from megascale.train.cluster_plan import ClusterPlan
    from megascale.train.law_standing import BandPlace, LawStanding


def print_plan(made: ClusterPlan, console: Console | None = None) -> None:
    """Print verdict, schedule, memory, traffic and assumptions.

    Args:
        made: of `megascale.train.cluster_plan.plan_cluster`.
        console: where to; None for standard output.
    """
    console = console or wide_console()
    low, high = made.seconds()
    explained = made.explained
    text = [
        made.advice(),
        f"{show_days(low)} to {show_days(high)} on {explained.world_size:,} {made.card.name} "
        f"for {format_count(explained.schedule.total_tokens)} tokens, if MFU is "
        f"{made.clock.mfu_low:.0%} to {made.clock.mfu_high:.0%}: assumed, not measured.",
        *_laws(made),
    ]
    for line in text:
        console.print(line, highlight=False, markup=False)
    tables = (_steps(made), *map(_standings, made.laws), _memory(made), _traffic(made))
    for table in tables:
        console.print(table)
    for line in _assumptions(made):
        console.print(line, highlight=False, markup=False)


def show_days(seconds: float) -> str:
    """A long time in its natural unit, three digits."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _laws(made: ClusterPlan) -> list[str]:
    if not made.laws:
        return ["The batch is the config's own table: no law is given that could call it good."]
    return [law.sentence() for law in made.laws]


def _standings(law: LawStanding) -> Table:
    title = f"Against {law.name}, N = {law.n_params:,}"
    table = empty_table(title, "at tokens", "run", "law", "low", "high", "where")

    def cells(one: BandPlace) -> list[str]:
        numbers = (one.value, one.law, one.low, one.high)
        shown = ["-" if number is None else f"{number:.4g}" for number in numbers]
        return [format_count(one.tokens), *shown, one.where]

    for row in folded_rows(law.standings, cells):
        table.add_row(*row)
    return table


def _steps(made: ClusterPlan) -> Table:
    from megascale.config.schedules import lr_schedule_from_config

    explained = made.explained
    lr = lr_schedule_from_config(explained.config)
    table = empty_table(
        "Batch by consumed tokens", "from", "batch", "steps", "LR half way", "time", left=1
    )
    parts = list(zip(explained.schedule.segments, explained.work, strict=True))

    def cells(part: tuple[Segment, SegmentWork]) -> list[str]:
        segment, work = part
        low, high = made.clock.run_seconds(work.flops, explained.world_size)
        return [
            format_count(segment.start_tokens),
            format_count(segment.batch_tokens),
            f"{segment.steps:,}",
            f"{lr.at((segment.start_tokens + segment.end_tokens) / 2) * segment.lr_scale:.3g}",
            f"{show_days(low)} to {show_days(high)}",
        ]

    for row in folded_rows(parts, cells):
        table.add_row(*row)
    return table


def _memory(made: ClusterPlan) -> Table:
    mine, paper = made.rehearsal, made.explained.memory
    setting = made.explained.config.train.activation_checkpointing
    table = empty_table(f"Memory of rank 0 of {mine.world_size:,}", "what", "size", left=1)
    table.add_row("parameters, exact", show_bytes(mine.parameters))
    table.add_row("gradients, exact", show_bytes(mine.gradients))
    table.add_row("optimizer state, exact", show_bytes(mine.optimizer_state))
    for line in paper.lines[3:]:
        table.add_row(f"{line.name}, on paper", show_bytes(line.bytes))
    table.add_row(f"all, checkpointing {setting}", show_bytes(paper.total))
    other = "off" if made.checkpoints else "blocks"
    table.add_row(f"all, checkpointing {other}", show_bytes(made.other.total))
    table.add_row("card, a tenth left free", show_bytes(made.usable))
    if made.peak is not None:
        table.add_row("peak of the rehearsed step, kernels of a CPU", show_bytes(made.peak))
    return table


def _traffic(made: ClusterPlan) -> Table:
    mine = made.rehearsal
    title = (
        f"Collectives of a step of {mine.micro_batches} micro-batches of {mine.micro_batch_size} x "
        f"{mine.sequence_length} tokens a data rank (the largest batch)"
    )
    table = empty_table(title, "kind", "dimension", "ranks", "calls", "bytes")
    for one in mine.traffic:
        table.add_row(
            one.kind, one.dimension, f"{one.ranks:,}", f"{one.calls:,}", show_bytes(one.bytes)
        )
    return table


def _assumptions(made: ClusterPlan) -> list[str]:
    clock, mine = made.clock, made.rehearsal
    saving = made.checkpoint / clock.storage_bandwidth
    return [
        _largest(made),
        f"These collectives take {made.communication:.3g} s if none hides behind computation, "
        f"{clock.node_bandwidth / 1e9:g} GB/s a card within a node ({made.card.name}) and "
        f"{clock.network_bandwidth / 1e9:g} GB/s between nodes (--network-gbytes, assumed), "
        "without latency. The time above counts them only as far as the MFU does.",
        f"A checkpoint holds {show_bytes(made.checkpoint)} and takes {saving:.3g} s at "
        f"{clock.storage_bandwidth / 1e9:g} GB/s (--storage-gbytes, assumed).",
        f"{made.card.name}: {clock.peak:.3g} FLOP/s dense in "
        f"{made.explained.config.train.precision}; {made.card.source}.",
        f"One micro-batch computes {mine.flops:.4g} FLOPs a rank with kernels of a CPU "
        f"({', '.join(mine.kernels)}). No CUDA was traced: GPU kernels may keep other tensors.",
        "Uneven shards are largest on rank 0; the ranks are alike otherwise.",
    ]


def _largest(made: ClusterPlan) -> str:
    setting = made.explained.config.train.activation_checkpointing
    if not made.fitting:
        return f"No micro-batch fits on paper, checkpointing {setting}."
    return (
        f"The largest micro-batch that fits on paper and divides every batch, checkpointing "
        f"{setting}, in sequences: {made.fitting}."
    )
