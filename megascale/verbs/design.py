"""`megascale design`: which runs to make next for a law of whole schedules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from megascale.verbs.options import AsJson, LawOfSchedules

if TYPE_CHECKING:
    from megascale.propose.schedule_design import DesignedRun, ScheduleDesign

SHOWN = 8
"""Candidates that are printed; --json has all."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog="Example:  megascale design --law-file law.json --tokens 1M --unit 128")
def design(
    law_file: LawOfSchedules = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="D, tokens of the run that is asked about and of the longest candidate [the "
            "longest fitted run's]."
        ),
    ] = None,
    unit: Annotated[
        str, typer.Option(help="Tokens that every batch is a multiple of: micro-batch x ranks.")
    ] = "1",
    as_json: AsJson = False,
) -> None:
    """Rank further runs by how much of the uncertainty of target schedules they take away a token.

    Candidates change one thing each: a switch up or down, a decay, another peak, the smallest
    batch; targets are fixed and growing batches with and without a decay.
    """
    from megascale.errors import ConfigError
    from megascale.formats.schedule_law_file import read_schedule_law
    from megascale.propose.schedule_design import design_runs
    from megascale.propose.schedule_law import ScheduleLaw
    from megascale.units import parse_count

    if law_file is None:
        rule = "names the law that further runs are for"
        raise ConfigError.of("--law-file", None, rule, "megascale fit RUNS --law schedule -o ...")
    law = ScheduleLaw.of_file(read_schedule_law(law_file))
    total = round(law.seen.tokens) if tokens is None else parse_count(tokens, "--tokens")
    step = parse_count(unit, "--unit")
    for key, value in (("--tokens", total), ("--unit", step)):
        if value < 1:
            raise ConfigError.of(key, value, "must be positive", 1)
    if step * 100 > total:
        rule = "a run of the budget has fewer than a hundred steps of it"
        raise ConfigError.of("--unit", step, rule, max(total // 100, 1))
    found = design_runs(law, total_tokens=total, unit_tokens=step)
    if as_json:
        typer.echo(json.dumps(_document(found), indent=2))
        return
    _print(found)


def design_verdict(found: ScheduleDesign) -> str:
    """Which run is next and what it is worth, in a sentence."""
    first, second = found.ranked[0], found.second[0]
    return (
        f"Next: {first.name}, expected to take away {first.reduction:.0%} of the variance of "
        f"{len(found.targets)} target schedules' ends (standard deviation {found.spread:.4f} to "
        f"{first.spread:.4f} nats) for {first.plan.total_tokens:,} tokens; after it "
        f"{second.name}, to {second.spread:.4f}. The law's own error is beside these."
    )


def _print(found: ScheduleDesign) -> None:
    from megascale.propose.schedule_design import batches_of
    from megascale.verbs.tables import print_lines

    typer.echo(design_verdict(found))
    typer.echo("")
    columns = ("run", "variance gone", "a budget", "spread after", "tokens", "schedule")
    rows = [
        (
            one.name,
            f"{one.reduction:.1%}",
            f"{one.per_budget:.1%}",
            f"{one.spread:.4f}",
            f"{one.plan.total_tokens:,}",
            batches_of(one.plan),
        )
        for one in found.ranked[:SHOWN]
    ]
    print_lines(columns, rows)
    typer.echo("")
    for one in (found.ranked[0], found.second[0]):
        typer.echo(f"# {one.name}")
        for section, keys in one.config.items():
            typer.echo(f"{section}:")
            for key, value in keys.items():
                text = json.dumps(value) if isinstance(value, str) else value
                typer.echo(f"  {key}: {text}")


def _document(found: ScheduleDesign) -> dict[str, object]:
    def row(one: DesignedRun) -> dict[str, object]:
        return {
            "name": one.name,
            "reduction": one.reduction,
            "per_budget": one.per_budget,
            "spread": one.spread,
            "tokens": one.plan.total_tokens,
            "config": one.config,
        }

    return {
        "schema": "megascale.design/1",
        "verdict": design_verdict(found),
        "spread": found.spread,
        "targets": len(found.targets),
        "ranked": [row(one) for one in found.ranked],
        "second": [row(one) for one in found.second],
    }
