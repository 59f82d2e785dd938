"""The tables of `megascale train --explain`."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from megascale.config.dump import dump_yaml
from megascale.units import format_count
from megascale.verbs.segment_tables import segments_between
from megascale.verbs.tables import empty_table, folded_names, folded_rows, wide_console

if TYPE_CHECKING:
    from megascale.config.schedules import DataPhase
    from megascale.schedule.batch import Segment
    from megascale.train.explain import ExplainReport, Landmark, SourceUse


def print_explanation(report: ExplainReport, console: Console | None = None) -> None:
    """Print every part of a report as tables.

    Args:
        report: of `megascale.train.explain.explain`.
        console: where to; where None standard output, 120 columns wide unless a terminal.
    """
    console = console or wide_console()
    resolved = dump_yaml(report.config, batch_table=_short_batch_table)
    console.print(resolved, markup=False, highlight=False)
    for remark in report.remarks:
        console.print(f"Note: {remark}.", markup=False, highlight=False)
    if report.schedule.start_tokens:
        console.print(
            f"The run stands at {format_count(report.schedule.start_tokens)} tokens, step "
            f"{report.schedule.start_step:,}; what follows is what lies ahead.",
            highlight=False,
        )
    console.print(_layout(report))
    console.print(_segments(report))
    for line in segments_between(report.schedule.segments):
        console.print(f"  {line}", highlight=False)
    for table in (
        _landmarks(report),
        _phases(report),
        *([_sources(report)] if report.sources else []),
        _parameters(report),
        _groups(report),
        _memory(report),
        _work(report),
    ):
        console.print(table)


def _short_batch_table(text: str) -> str:
    """A batch table to read; `megascale config show` prints a long one whole."""
    separator = ", " if ", " in text else " "
    return folded_names(text.split(separator), separator)


def show_bytes(size: float) -> str:
    """A size in binary units, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def _table(title: str, *columns: str, left: int = 1) -> Table:
    return empty_table(title, *columns, left=left)


def _layout(report: ExplainReport) -> Table:
    layout = report.layout
    made = _table(f"Layout: {report.world_size} ranks", "dimension", "degree")
    made.add_row("tensor", str(layout.tensor))
    made.add_row(f"data ({layout.data_mode})", str(layout.data))
    made.add_row("expert (within data)", str(layout.expert))
    if layout.data_mode == "hsdp":
        made.add_row("HSDP replicas", str(layout.hsdp_replicate))
    made.add_row("sequence parallel", "yes" if layout.sequence_parallel else "no")
    return made


def _segments(report: ExplainReport) -> Table:
    schedule = report.schedule
    made = _table(
        f"Batch schedule: {schedule.total_steps:,} steps, "
        f"{format_count(schedule.total_tokens)} tokens",
        "start\ntokens",
        "asked\nfor at",
        "batch\nasked for",
        "batch\nrealised",
        "sequences\nx length",
        "micro-\nbatches",
        "first\nstep",
        "steps",
        "LR\nscale",
        left=0,
    )

    def cells(segment: Segment) -> list[str]:
        return [
            format_count(segment.start_tokens),
            format_count(segment.requested_start_tokens),
            format_count(segment.requested_batch_tokens),
            format_count(segment.batch_tokens),
            f"{segment.batch_tokens // segment.sequence_length} x {segment.sequence_length}",
            f"{segment.micro_batches} x {segment.micro_batch_size}",
            f"{segment.first_step:,}",
            f"{segment.steps:,}",
            f"{segment.lr_scale:.3g}",
        ]

    for row in folded_rows(schedule.segments, cells):
        made.add_row(*row)
    return made


def _landmarks(report: ExplainReport) -> Table:
    made = _table("Key tokens", "what", "tokens", "step", "learning rate", "weight decay", "batch")

    def cells(mark: Landmark) -> list[str]:
        return [
            mark.name,
            format_count(mark.tokens),
            f"{mark.step:,}",
            f"{mark.lr:.6g}",
            f"{mark.weight_decay:.6g}",
            format_count(mark.batch_tokens),
        ]

    for batch_alone, marks in groupby(report.landmarks, lambda mark: mark.batch_alone):
        own = list(marks)
        for row in folded_rows(own, cells) if batch_alone else map(cells, own):
            made.add_row(*row)
    return made


def _phases(report: ExplainReport) -> Table:
    made = _table("Data", "mixture", "from tokens", "to tokens")

    def cells(phase: DataPhase) -> list[str]:
        mixture = ", ".join(f"{name} {weight:.4g}" for name, weight in phase.mixture.items())
        return [mixture, format_count(phase.start_tokens), format_count(phase.end_tokens)]

    for row in folded_rows(report.phases, cells):
        made.add_row(*row)
    return made


def _sources(report: ExplainReport) -> Table:
    made = _table("Sources", "source", "tokens", "epochs of the whole run")

    def cells(source: SourceUse) -> list[str]:
        return [source.name, format_count(source.tokens), f"{source.epochs:.3g}"]

    for row in folded_rows(report.sources, cells):
        made.add_row(*row)
    return made


def _parameters(report: ExplainReport) -> Table:
    count = report.parameters
    made = _table("Parameters", "component", "total", "active")
    for part in count.components:
        made.add_row(part.name, f"{part.parameters:,}", f"{part.active:,}")
    made.add_section()
    made.add_row("all", f"{count.total:,}", f"{count.active:,}")
    made.add_row("non-embedding", f"{count.non_embedding:,}", f"{count.active_non_embedding:,}")
    return made


def _groups(report: ExplainReport) -> Table:
    columns = ("kind", "group", "initial", "LR factor", "weight decay", "method", "betas", "eps")
    title = "Parameter groups"
    if report.config.init.kind != "standard":
        title += f" ({report.config.init.kind}, by the base of init)"
    made = _table(title, *columns, "tensors", "parameters", left=2)
    for group in report.groups:
        beta2 = "by tokens" if group.beta2 is None else f"{group.beta2:.6g}"
        made.add_row(
            group.kind,
            group.match or "-",
            f"{group.initial:.4g}",
            f"{group.lr_multiplier:.4g}",
            f"{group.weight_decay:.4g}",
            group.method,
            f"{group.beta1:.6g} {beta2}" if group.method == "adamw" else f"{group.beta1:g}",
            f"{group.eps:.4g}" if group.method == "adamw" else "-",
            f"{group.tensors:,}",
            f"{group.parameters:,}",
        )
    return made


def _memory(report: ExplainReport) -> Table:
    made = _table("Memory of one rank (estimate)", "what", "note", "size", left=2)
    for line in report.memory.lines:
        made.add_row(line.name, line.note, show_bytes(line.bytes))
    made.add_section()
    made.add_row("all", "without allocator and framework", show_bytes(report.memory.total))
    return made


def _work(report: ExplainReport) -> Table:
    made = _table("Model FLOPs (forward and backward)", "what", "FLOPs")
    made.add_row("weights, per token", f"{report.flops.weights:.4g}")
    made.add_row("attention, per token", f"{report.flops.attention:.4g}")
    made.add_row("all, per token", f"{report.flops.total:.4g}")
    what = "what is left of the run" if report.schedule.start_tokens else "the whole run"
    made.add_row(what, f"{report.total_flops:.4g}")
    return made
