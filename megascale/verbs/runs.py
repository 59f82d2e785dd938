"""`megascale runs`: what the logs of runs say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megascale.verbs.option_words import read_options
from megascale.verbs.options import (
    AsJson,
    BatchSamples,
    BatchTokens,
    Cache,
    Columns,
    Format,
    Join,
    LossKind,
    Paths,
    SeqLength,
    Workers,
)
from megascale.verbs.reading import load_logs
from megascale.verbs.tables import print_lines

if TYPE_CHECKING:
    from megascale.formats.task_scores import TaskScore
    from megascale.runs.overview import OverviewSegment, RunOverview

app = typer.Typer(
    name="runs",
    help="List, show, check and export runs from their logs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COLUMNS = (
    *("run", "format", "N", "lr", "steps", "tokens", "batch", "loss", "validation"),
    *("attempts", "skipped", "malformed", "exit"),
)


@app.command(
    epilog="""Examples:

  megascale runs ls runs

  megascale runs ls runs/lr-* --json

  megascale runs ls runs --filter 'lr>=1e-3' --filter 'batch<1M' --sort loss --limit 10

  megascale runs ls 'logs/**/*.out.gz' --format megatron"""
)
def ls(
    paths: Paths,
    as_json: AsJson = False,
    sort: Annotated[
        str | None, typer.Option(help="Order by a column, -COLUMN for the highest first.")
    ] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN OP VALUE, as in 'tokens>10B'; ~ is contains. Repeat: all hold."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Runs shown, the first.")] = None,
    format: Format = None,
    columns: Columns = None,
    seq_length: SeqLength = None,
    batch_tokens: BatchTokens = None,
    batch_samples: BatchSamples = None,
    loss_kind: LossKind = None,
    join: Join = False,
    workers: Workers = 0,
    cache: Cache = True,
) -> None:
    """List runs of any format: size, learning rate, steps, batches, last losses, attempts.

    A file of a tree that cannot be read is named on standard error; the others are listed all
    the same.
    """
    from megascale.runs.overview import overviews
    from megascale.runs.select import select_runs

    options = read_options(columns, seq_length, batch_tokens, batch_samples, loss_kind)
    loaded = load_logs(paths, format, options, join, workers, cache)
    summaries = select_runs(overviews(loaded), conditions=filter or (), order=sort, limit=limit)
    if as_json:
        typer.echo(json.dumps([summary.to_dict() for summary in summaries], indent=2))
    else:
        print_lines(COLUMNS, [_row(summary) for summary in summaries])


@app.command(
    epilog="""Examples:

  megascale runs show runs/quickstart/growing

  megascale runs show job-1814592.out.gz --json | jq .segments"""
)
def show(
    run: Annotated[Path, typer.Argument(help="A log of one run, or its directory.")],
    as_json: AsJson = False,
    format: Format = None,
    columns: Columns = None,
    seq_length: SeqLength = None,
    batch_tokens: BatchTokens = None,
    batch_samples: BatchSamples = None,
    loss_kind: LossKind = None,
    cache: Cache = True,
) -> None:
    """Show a run: its counters, its batch sizes with their losses, and its malformed lines."""
    from megascale.runs.overview import overviews
    from megascale.verbs.noise_scale import noise_scale_sentence
    from megascale.verbs.tables import folded_rows

    options = read_options(columns, seq_length, batch_tokens, batch_samples, loss_kind)
    loaded = load_logs([run], format, options, False, 1, cache)
    lines = [
        {"path": str(file.path), "line": line.line, "reason": line.reason}
        for file in loaded.files
        for line in file.malformed
    ]
    shown = []
    for index, (one, summary) in enumerate(zip(loaded.runs, overviews(loaded), strict=True)):
        if as_json:
            meta = {
                "n_params": one.meta.n_params,
                "d_tokens": one.meta.d_tokens,
                "seq_length": one.meta.seq_length,
                "stated": one.meta.extra,
                "provenance": loaded.provenance(one),
            }
            tasks = [asdict(score) for score in _scores(summary.path)]
            shown.append(summary.to_dict() | meta | {"malformed_lines": lines, "tasks": tasks})
            continue
        if index:
            typer.echo()
        for name, value in zip(COLUMNS, _row(summary)):
            typer.echo(f"{name:<12}{value}")
        typer.echo(f"{'superseded':<12}{summary.superseded} records")
        for name in ("n_params", "d_tokens", "seq_length"):
            value = getattr(one.meta, name)
            typer.echo(f"{name:<12}{'-' if value is None else f'{value:,}'}")
        if "noise_scale" in one.meta.extra:
            typer.echo(f"{'noise scale':<12}{noise_scale_sentence(one.meta.extra['noise_scale'])}")
        typer.echo()
        print_lines(
            ("from tokens", "to tokens", "batch (tokens)", "steps", "mean loss"),
            folded_rows(summary.segments, _segment_row),
        )
        scores = _scores(summary.path)
        if scores:
            from megascale.verbs.task_tables import print_scores

            typer.echo()
            print_scores(scores)
    if as_json:
        typer.echo(json.dumps(shown[0] if len(shown) == 1 else shown, indent=2, default=str))
        return
    for line in lines:
        typer.echo(f"megascale: {line['path']}:{line['line']}: {line['reason']}", err=True)


@app.command(
    epilog="""Examples:

  megascale runs check runs

  megascale runs check 'logs/*.out.gz' --strict && megascale fit 'logs/*.out.gz'"""
)
def check(
    paths: Paths,
    as_json: AsJson = False,
    strict: Annotated[bool, typer.Option(help="Notes too make the exit code 3.")] = False,
    format: Format = None,
    columns: Columns = None,
    seq_length: SeqLength = None,
    batch_tokens: BatchTokens = None,
    batch_samples: BatchSamples = None,
    loss_kind: LossKind = None,
    join: Join = False,
    workers: Workers = 0,
    cache: Cache = True,
) -> None:
    """Say what is odd about logs, with file and line.

    Problems, which would make a fit wrong or impossible, make the exit code 3: malformed lines,
    no tokens, losses too coarse, tokens that go back. Notes do not, but with --strict: restarts,
    batch changes, spikes, a torn last line, fields that the log does not have.
    """
    from megascale.errors import EXIT_DATA
    from megascale.runs.check import PROBLEM, check_runs

    options = read_options(columns, seq_length, batch_tokens, batch_samples, loss_kind)
    loaded = load_logs(paths, format, options, join, workers, cache)
    findings = check_runs(loaded)
    problems = sum(finding.severity == PROBLEM for finding in findings)
    if as_json:
        typer.echo(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(str(finding))
        typer.echo(
            f"{len(loaded.runs):,} runs, {loaded.table.height:,} rows: {problems:,} problems, "
            f"{len(findings) - problems:,} notes"
        )
    if problems or (strict and findings):
        raise typer.Exit(EXIT_DATA)


@app.command(
    epilog="""Examples:

  megascale runs export runs -o table.parquet

  megascale runs export points.csv --columns tokens=D --columns loss='smooth loss' -o table.csv"""
)
def export(
    paths: Paths,
    output: Annotated[Path, typer.Option("-o", "--output", help="table.csv or table.parquet")],
    with_runs: Annotated[
        bool, typer.Option("--with-runs", help="Add N, D, format and hashes to every row.")
    ] = False,
    with_seconds: Annotated[
        bool, typer.Option("--with-seconds", help="Add the wall clock between rows.")
    ] = False,
    format: Format = None,
    columns: Columns = None,
    seq_length: SeqLength = None,
    batch_tokens: BatchTokens = None,
    batch_samples: BatchSamples = None,
    loss_kind: LossKind = None,
    join: Join = False,
    workers: Workers = 0,
    cache: Cache = True,
) -> None:
    """Write logs of any format as one table."""
    from megascale.runs.export import export_table

    options = read_options(columns, seq_length, batch_tokens, batch_samples, loss_kind)
    loaded = load_logs(paths, format, options, join, workers, cache)
    path = export_table(loaded, output, with_runs=with_runs, with_seconds=with_seconds)
    typer.echo(f"{path}: {loaded.table.height:,} rows of {len(loaded.runs):,} runs")


def _count(value: int | None, shown: Callable[[int], str]) -> str:
    return "-" if value is None else shown(value)


def _row(summary: RunOverview) -> tuple[str, ...]:
    from megascale.units import short_count
    from megascale.verbs.tables import folded_names

    batches = [_count(segment.batch_tokens, short_count) for segment in summary.segments]
    return (
        summary.name,
        summary.format,
        _count(summary.n_params, short_count),
        "-" if summary.peak_lr is None else f"{summary.peak_lr:.4g}",
        _count(summary.steps, "{:,}".format),
        _count(summary.tokens, short_count),
        folded_names(batches, " > ") or "-",
        "-" if summary.loss is None else f"{summary.loss:.4f}",
        "-" if summary.validation_loss is None else f"{summary.validation_loss:.4f}",
        str(summary.attempts),
        _count(summary.skipped, str),
        str(summary.malformed),
        _count(summary.exit_code, str),
    )


def _scores(log: str) -> list[TaskScore]:
    """Scores on downstream tasks that lie beside a log."""
    from megascale.formats.task_scores import read_scores

    return read_scores(Path(log).parent)


def _segment_row(segment: OverviewSegment) -> tuple[str, ...]:
    from megascale.units import short_count

    return (
        _count(segment.start_tokens, short_count),
        _count(segment.end_tokens, short_count),
        _count(segment.batch_tokens, "{:,}".format),
        _count(segment.steps, "{:,}".format),
        "-" if segment.loss is None else f"{segment.loss:.4f}",
    )
