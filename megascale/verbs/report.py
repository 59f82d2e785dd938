"""`megascale report`: one self-contained page from logs, points and grids."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NOTES_SHOWN = 5


class Losses(StrEnum):
    """Which losses the laws are fitted to."""

    auto = "auto"
    train = "train"
    validation = "validation"


class Phase(StrEnum):
    """Which part of a run the laws see."""

    stable = "stable"
    all = "all"


class Family(StrEnum):
    """Laws of tokens and steps that have a best batch."""

    wsd = "wsd"
    two_power = "two_power"
    noise_floor = "noise_floor"


@app.command(
    epilog="""Examples:

  megascale report runs -o report.html

  megascale report runs grid.csv --law law.json --figures figures -o report.html"""
)
def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH...", help="Logs, run directories, trees, globs; tables of points; grids."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path(
        "report.html"
    ),
    grid: Annotated[
        list[Path] | None,
        typer.Option(help="Table of finished runs over learning rate and batch; repeatable."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write every figure as PNG and SVG into this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    title: Annotated[str, typer.Option(help="Of the page.")] = "megascale report",
    law: Annotated[
        list[Path] | None, typer.Option(help="Law file for the calculator; repeatable.")
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Model preset or config.json for the calculator; repeatable."),
    ] = None,
    target: Annotated[
        list[float] | None, typer.Option(help="Target loss for E(S); repeatable [chosen].")
    ] = None,
    loss: Annotated[Losses, typer.Option(help="Losses the laws are fitted to.")] = Losses.auto,
    window: Annotated[
        str, typer.Option(help="Smoothing before the laws: 5% of the tokens, or tokens as 10M.")
    ] = "5%",
    phase: Annotated[
        Phase, typer.Option(help="stable leaves warmup and decay out of the laws.")
    ] = Phase.stable,
    family: Annotated[
        Family | None,
        typer.Option("--law-family", help="Law of E(S) for the best batches [lowest AICc]."),
    ] = None,
    replicates: Annotated[int, typer.Option(min=40, help="Bootstrap replicates.")] = 200,
    tokens: Annotated[str | None, typer.Option(help="Calculator: tokens of the run.")] = None,
    params: Annotated[str | None, typer.Option(help="Calculator: parameters in all.")] = None,
    active_params: Annotated[
        str | None, typer.Option(help="Calculator: parameters a token passes through.")
    ] = None,
    seq_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a sequence, where no log says.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="Read every log as this format.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--columns", help="For tables of logs: OUR=THEIRS. Repeat.")
    ] = None,
    batch_tokens: Annotated[
        str | None,
        typer.Option(help="Global batch (tokens), where no log says: 2M, or 0:1M,700:2M by step."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one per core.")] = 0,
    cache: Annotated[bool, typer.Option(help="Keep what was read in the cache directory.")] = True,
) -> None:
    """One page: loss curves, crossings, E(S), best batches, LR-batch grids and a calculator.

    The page needs no network and works from a file. Sections without data say what would fill
    them.
    """
    from megascale.curves.smoothing import Window
    from megascale.formats.law_file import read_law_file
    from megascale.report.document import Settings, build_document, summary
    from megascale.report.inputs import read_inputs
    from megascale.report.options import calculator_defaults
    from megascale.report.page import write_page
    from megascale.verbs.runs import read_options

    inputs = read_inputs(
        list(paths or []),
        grids=list(grid or []),
        options=read_options(columns, seq_length, batch_tokens, None, None),
        format=format,
        workers=workers or os.cpu_count() or 1,
        cache=cache,
        progress=sys.stderr.isatty(),
    )
    settings = Settings(
        title=title,
        loss=loss.value,
        window=Window.parse(window, "--window"),
        phase=phase.value,
        targets=target or None,
        family=None if family is None else family.value,
        replicates=replicates,
        laws=[read_law_file(path) for path in law or ()],
        models=list(model or []),
        defaults=calculator_defaults(params, active_params, tokens, seq_length),
    )
    document = build_document(inputs, settings)
    path = write_page(document, output)
    drawn: list[Path] = []
    if figures is not None:
        from megascale.report.figures import draw_figures

        drawn = draw_figures(document, figures)
    if as_json:
        found = summary(document) | {"page": str(path), "figures": [str(p) for p in drawn]}
        typer.echo(json.dumps(found, indent=2))
        return
    for note in inputs.notes[:NOTES_SHOWN]:
        typer.echo(f"megascale: {note}", err=True)
    if len(inputs.notes) > NOTES_SHOWN:
        more = len(inputs.notes) - NOTES_SHOWN
        typer.echo(f"megascale: {more:,} more notes stand at the end of the page", err=True)
    if drawn:
        typer.echo(f"{figures}: {len(drawn)} figures")
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
