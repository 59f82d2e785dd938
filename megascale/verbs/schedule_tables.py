"""The tables of `megascale schedule`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from megascale.propose.proposal import Proposal
from megascale.schedule.batch import Segment
from megascale.units import format_count
from megascale.verbs.segment_tables import segments_between
from megascale.verbs.tables import empty_table, folded_rows


def print_proposal(found: Proposal, console: Console) -> None:
    """Print segments, savings, and what the plan rests on."""
    if found.at is not None:
        console.print(
            f"{found.at.path} stands at {found.at.tokens:,} tokens, step {found.at.step:,}, batch "
            f"{format_count(found.at.batch_tokens)}: only what is left is planned",
            highlight=False,
        )
    console.print(_segments(found), highlight=False)
    for line in segments_between(found.schedule.segments):
        console.print(f"  {line}", highlight=False)
    for fixed in found.fixed:
        less = "fewer" if fixed.step_saving >= 0 else "more"
        console.print(
            f"  {abs(fixed.step_saving):.1%} {less} steps than {fixed.steps:,} at a fixed "
            f"{format_count(fixed.batch_tokens)} ({fixed.meaning})",
            highlight=False,
        )
    saved = found.tokens
    if isinstance(saved, str):
        console.print(f"  {saved}", highlight=False)
    else:
        less, fewer = (
            "fewer" if saving >= 0 else "more" for saving in (saved.token_saving, saved.step_saving)
        )
        console.print(
            f"  {abs(saved.token_saving):.1%} {less} tokens and "
            f"{abs(saved.step_saving):.1%} {fewer} "
            f"steps to a loss of {saved.loss:.4f} than the best fixed batch, "
            f"{_short(saved.best_batch_tokens)} tokens ({saved.says})",
            highlight=False,
        )
    source = found.schedule.source
    for said in found.warnings:
        console.print(f"  warning: {said}", highlight=False)
    for said in source.get("outside_fitted_range", ()):
        console.print(f"  warning: outside the law's fitted range: {said}", highlight=False)
    for said in source.get("outside_conditions", ()):
        console.print(f"  warning: the law's conditions: {said}", highlight=False)
    if found.bands:
        console.print(
            "  the band holds the law's own errors, not the choice of law; far beyond the fitted "
            "range it is a guess",
            highlight=False,
        )
    if source.get("sha256"):
        console.print(
            f"  law {source['name']} version {source['version']}, SHA-256 {source['sha256'][:12]}, "
            f"N = {source['n_params']:.6g} ({source['n_kind']})",
            highlight=False,
        )


def _segments(found: Proposal) -> Table:
    schedule = found.schedule
    columns = ["from\ntokens", "asked\nfor at", "batch\nasked for"]
    if found.bands:
        level = found.confidence
        stated = None if level is None else f"{100 * level:.3g} % band\nof the law"
        columns.append(stated or "by the law's\nintervals")
    columns += ["batch\nrealised", "moved", "sequences", "micro-\nbatches", "first\nstep", "steps"]
    made = empty_table(
        f"Batch schedule: {schedule.total_steps - schedule.start_step:,} steps, "
        f"{format_count(schedule.total_tokens - schedule.start_tokens)} tokens",
        *columns,
    )

    def cells(segment: Segment) -> list[str]:
        moved = segment.batch_tokens / segment.requested_batch_tokens - 1
        band = found.band_at(segment.requested_start_tokens)
        limits = "" if band is None else f"{_short(band.low_tokens)} to {_short(band.high_tokens)}"
        return [
            format_count(segment.start_tokens),
            format_count(segment.requested_start_tokens),
            format_count(segment.requested_batch_tokens),
            *([limits] if found.bands else []),
            format_count(segment.batch_tokens),
            f"{moved:+.2%}" if moved else "",
            f"{segment.batch_tokens // segment.sequence_length:,}",
            f"{segment.micro_batches} x {segment.micro_batch_size}",
            f"{segment.first_step:,}",
            f"{segment.steps:,}",
        ]

    for row in folded_rows(schedule.segments, cells):
        made.add_row(*row)
    return made


def _short(tokens: float) -> str:
    """Three digits, in the unit that shows them."""
    for least, size, unit in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "K")):
        if tokens >= least:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:,.0f}"
