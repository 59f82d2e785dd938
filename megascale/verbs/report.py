"""`megascale report`: one self-contained page from logs, points and grids."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from megascale.verbs import option_words as words
from megascale.verbs import options as said
from megascale.verbs.old_spellings import Verb

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NOTES_SHOWN = 5


class Family(StrEnum):
    """Laws of tokens and steps that have a best batch."""

    wsd = "wsd"
    two_power = "two_power"
    noise_floor = "noise_floor"


@app.command(
    cls=Verb,
    epilog="""Examples:

  megascale report runs -o report.html

  megascale report runs grid.csv --law-file law.json --figures figures -o report.html""",
)
def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH...",
            help="Logs, run directories, trees, globs; tables of points; grids; law files.",
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
    as_json: said.AsJson = False,
    title: Annotated[str, typer.Option(help="Of the page.")] = "megascale report",
    law: Annotated[
        Family | None,
        typer.Option(
            help="Name of the law of E(S) for the best batches [lowest AICc].",
            rich_help_panel=said.FITTING,
        ),
    ] = None,
    bootstrap: said.Bootstrap = None,
    confidence: said.Confidence = 0.9,
    seed: said.Seed = 0,
    threads: said.Threads = None,
    loss: said.Loss = "auto",
    target_loss: said.TargetLoss = None,
    smooth: said.Smooth = "5%",
    phase: said.PhaseOf = said.Phase.stable,
    law_file: said.LawFiles = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="Model preset or config.json for the calculator; repeatable.",
            rich_help_panel=said.MODEL,
        ),
    ] = None,
    params: said.Params = None,
    active_params: said.ActiveParams = None,
    tokens: said.Tokens = None,
    format: said.Format = None,
    columns: said.Columns = None,
    seq_length: said.SeqLength = None,
    batch_tokens: said.BatchTokens = None,
    batch_samples: said.BatchSamples = None,
    loss_kind: said.LossKind = None,
    join: said.Join = False,
    workers: said.Workers = 0,
    cache: said.Cache = True,
) -> None:
    """One page: loss curves, crossings, E(S), best batches, LR-batch grids and a calculator.

    The page needs no network and works from a file. Sections without data say what would fill
    them.
    """
    from megascale.fitting import use_threads
    from megascale.formats.law_file import Input, read_law_file
    from megascale.laws.findings import find_all
    from megascale.laws.from_logs import LogOptions
    from megascale.laws.law_files import Naming
    from megascale.report.document import Settings, build_document, document_summary
    from megascale.report.inputs import read_inputs
    from megascale.report.options import calculator_defaults, study_defaults
    from megascale.report.page import write_page

    replicates = LogOptions.replicates if bootstrap is None else bootstrap
    words.require_replicates(replicates)
    use_threads(threads)
    losses = words.parse_loss(loss)
    inputs = read_inputs(
        list(paths or []),
        grids=list(grid or []),
        options=words.read_options(columns, seq_length, batch_tokens, batch_samples, loss_kind),
        loss=losses,
        format=format,
        join=join,
        workers=words.processes(workers),
        cache=cache,
        progress=sys.stderr.isatty(),
    )
    findings = find_all(
        inputs.runs,
        inputs.points,
        inputs.grids,
        law="auto" if law is None else law.value,
        options=LogOptions(
            targets=LogOptions.targets
            if target_loss is None
            else words.parse_target_loss(target_loss),
            window=words.parse_smooth(smooth or "5%"),
            phase=phase.value,
            losses=losses,
            replicates=replicates,
            confidence=confidence,
            seed=seed,
        ),
        naming=Naming(
            "this report's B_opt(D)",
            inputs=[Input(path=file["path"], sha256=file["sha256"]) for file in inputs.files],
            source="this report",
        ),
        grid_kinds=inputs.grid_kinds,
    )
    settings = Settings(
        title=title,
        laws=[*(read_law_file(path) for path in law_file or ()), *inputs.laws],
        models=list(model or []),
        defaults=calculator_defaults(
            params, active_params, tokens, seq_length, study_defaults(inputs.runs, inputs.grids)
        ),
    )
    document = build_document(inputs, findings, settings)
    path = write_page(document, output)
    drawn: list[Path] = []
    if figures is not None:
        from megascale.report.figures import draw_figures

        drawn = draw_figures(document, figures)
    if as_json:
        found = document_summary(document) | {"page": str(path), "figures": [str(p) for p in drawn]}
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
