"""The tables of `megascale schedule --optimize`."""

from __future__ import annotations

from rich.console import Console

from megascale.propose.best_schedule import BestSchedule
from megascale.propose.loss_interval import Estimated
from megascale.propose.plan_outcome import PlanOutcome
from megascale.propose.plan_verdict import PlanVerdict, cheap_saving, plan_words
from megascale.report.plan_figure import plan_costs
from megascale.schedule.batch import BatchSchedule
from megascale.units import format_count
from megascale.verbs.tables import empty_table


def print_best_schedule(found: BestSchedule, verdict: PlanVerdict, console: Console) -> None:
    """Print the verdict, the front, the rules and what the answer rests on."""
    for sentence in verdict.sentences:
        console.print(sentence, highlight=False)
    console.print()
    level = f"{100 * found.confidence:.3g} %"
    name, cost = plan_costs(found)
    table = empty_table(
        f"From the lowest loss to the least {name} ({level} intervals over "
        f"{len(found.forms)} forms and their parameters)",
        "plan",
        f"end loss minus\nthe best fixed\nbatch's, {level}",
        "tokens saved to\nthe same loss",
        name,
        f"{name}\nsaved",
        left=1,
    )

    def row(label: str, one: PlanOutcome) -> None:
        saved = cheap_saving(found, one)
        table.add_row(
            f"{label}{plan_words(one.plan)}",
            _signed(one.difference),
            f"{one.token_saving.value:.0%} [{one.token_saving.low:.0%}, "
            f"{one.token_saving.high:.0%}]",
            f"{cost(one):,.0f}" if cost(one) >= 100 else f"{cost(one):.3g}",
            "" if saved is None else f"{saved:.0%}",
        )

    row("best fixed: ", found.opponent)
    if found.tuned_opponent is not None:
        row("fixed, LR tuned: ", found.tuned_opponent)
    own = {"recommended: " if verdict.recommended else "planned: ": found.proposal}
    if verdict.chosen.plan not in (found.opponent.plan, found.proposal.plan):
        own = {"planned: ": found.proposal, "recommended: ": verdict.chosen}
    own = {label: one for label, one in own.items() if one.plan != found.opponent.plan}
    for label, one in own.items():
        row(label, one)
    shown = [found.opponent.plan, *(one.plan for one in own.values())]
    for one in found.front:
        if one.plan not in shown:
            row("", one)
    for rule, one in found.rivals.items():
        row(f"{rule}: ", one)
    console.print(table, highlight=False)
    if len(found.forms) > 1:
        each = ", ".join(f"{form} {gap:+.4f}" for form, gap in found.proposal.by_form.items())
        console.print(f"  the plan by the best parameters of each form: {each}", highlight=False)
    console.print(
        f"  the law's own error, by schedules left out of its fit and how unlike them the plan is: "
        f"{found.law_error:.4f} nats (standard deviation of the difference)",
        highlight=False,
    )
    for cut in found.clipped:
        console.print(f"  planned within what was seen: {cut}", highlight=False)
    console.print(
        "  the intervals hold parameters, forms and the law's own error; seeds are not in them: "
        "only fresh paired runs tell",
        highlight=False,
    )


def print_segments(laid: BatchSchedule, verdict: PlanVerdict, console: Console) -> None:
    """Print the chosen plan as the layout runs it."""
    name = "The recommended plan" if verdict.recommended else "The best fixed batch"
    table = empty_table(
        f"{name}: {laid.total_steps:,} steps",
        *("from\ntokens", "batch", "sequences", "micro-\nbatches", "first\nstep", "steps"),
    )
    for segment in laid.segments:
        table.add_row(
            format_count(segment.start_tokens),
            format_count(segment.batch_tokens),
            f"{segment.batch_tokens // segment.sequence_length:,}",
            f"{segment.micro_batches} x {segment.micro_batch_size}",
            f"{segment.first_step:,}",
            f"{segment.steps:,}",
        )
    console.print(table, highlight=False)


def _signed(one: Estimated) -> str:
    return f"{one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
