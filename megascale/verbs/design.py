"""`megascale design`: which runs to make next for a law of whole schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megascale.verbs.options import AsJson, LawOfSchedules, ParamsOfSizes, WeightDecayOf

if TYPE_CHECKING:
    from megascale.propose.schedule_design import DesignedRun, ScheduleDesign
    from megascale.propose.schedule_law import ScheduleLaw

SHOWN = 8
"""Candidates that are printed; --json has all."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="""Examples:

  megascale design runs/ --tokens 1M --unit 128

  megascale design --law-file law.json --tokens 1M --unit 128"""
)
def design(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Logs of the runs that are there, to which the law is fitted first.",
        ),
    ] = None,
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
    params: ParamsOfSizes = None,
    weight_decay: WeightDecayOf = None,
    as_json: AsJson = False,
) -> None:
    """Rank further runs by how much of the uncertainty of target schedules they take away a token.

    Candidates change one thing each: a switch up or down, a decay, another peak, the smallest
    batch; targets are fixed and growing batches with and without a decay.
    """
    from megascale.errors import ConfigError
    from megascale.propose.schedule_design import design_runs
    from megascale.units import parse_count
    from megascale.verbs.schedule_inputs import predicted_size

    law = _law(paths or [], law_file, weight_decay, quiet=as_json)
    total = round(law.seen.tokens) if tokens is None else parse_count(tokens, "--tokens")
    step = parse_count(unit, "--unit")
    for key, value in (("--tokens", total), ("--unit", step)):
        if value < 1:
            raise ConfigError.of(key, value, "must be positive", 1)
    if step * 100 > total:
        rule = "a run of the budget has fewer than a hundred steps of it"
        raise ConfigError.of("--unit", step, rule, max(total // 100, 1))
    found = design_runs(
        law, total_tokens=total, unit_tokens=step, n_params=predicted_size(law, params)
    )
    if as_json:
        typer.echo(json.dumps(_document(found), indent=2))
        return
    _print(found)


def _law(
    paths: list[Path], law_file: Path | None, weight_decay: float | None, *, quiet: bool
) -> ScheduleLaw:
    """The law of the file, or of the runs.

    Raises:
        ConfigError: both are given, or neither; or a weight decay that the file says itself.
        FitError: the runs do not make a law.
    """
    from megascale.errors import ConfigError
    from megascale.formats.schedule_law_file import read_schedule_law
    from megascale.propose.schedule_law import ScheduleLaw
    from megascale.verbs.option_words import read_options
    from megascale.verbs.progress import StageLine
    from megascale.verbs.reading import load_logs
    from megascale.verbs.searched_law import searched_law

    if law_file is not None:
        if paths:
            rule = "the law of a file has its runs already: give it, or the runs"
            raise ConfigError.of("--law-file", str(law_file), rule)
        if weight_decay is not None:
            rule = "the law file says the weight decay of its runs"
            raise ConfigError.of("--weight-decay", weight_decay, rule, "leave it out")
        return ScheduleLaw.of_file(read_schedule_law(law_file))
    if not paths:
        rule = (
            "names the runs that are there; or --law-file the law of megascale fit --law schedule"
        )
        raise ConfigError.of("PATH", None, rule, "runs/")
    table = load_logs(paths, None, read_options(), False, 1, True)
    with StageLine(quiet=quiet) as line:
        return searched_law(table, weight_decay, said=line.show).law


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
