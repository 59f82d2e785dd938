"""`megascale runs`: what the logs of runs say."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from megascale.runs.overview import OverviewSegment, RunOverview
    from megascale.runs.readers.base import Batches, ReadOptions
    from megascale.runs.table import RunTable

app = typer.Typer(
    name="runs",
    help="List, show, check and export runs from their logs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SKIPPED_SHOWN = 5
COLUMNS = (
    *("run", "format", "steps", "tokens", "batch", "loss", "validation"),
    *("attempts", "skipped", "malformed", "exit"),
)

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH...", help="Logs, run directories, trees of them, globs."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="Read every file as this format (docs/readers.md lists them)."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--columns", help="For tables: OUR=THEIRS, as in loss='smooth loss'. Repeat."),
]
SeqLength = Annotated[
    int | None, typer.Option("--seq-length", help="Tokens per sample, where no log says.")
]
BatchTokens = Annotated[
    str | None,
    typer.Option(
        "--batch-tokens",
        help="Global batch in tokens, where no log says: 2M; or by the steps after which it holds: "
        "'0:1M,700:2M'.",
    ),
]
BatchSamples = Annotated[
    str | None,
    typer.Option("--batch-samples", help="The same in samples: 512, or '0:512,700:1Ki'."),
]
LossKind = Annotated[
    str | None,
    typer.Option("--loss-kind", help="Training loss: interval_mean, instantaneous or ema."),
]
Join = Annotated[
    bool, typer.Option("--join", help="The files of one directory are one restarted run.")
]
Workers = Annotated[int, typer.Option("--workers", help="Processes; 0 is one per core.")]
Cache = Annotated[bool, typer.Option(help="Keep what was read in the user's cache directory.")]


@app.command(
    epilog="""Examples:

  megascale runs ls runs

  megascale runs ls runs/lr-* --json

  megascale runs ls 'logs/**/*.out.gz' --format megatron"""
)
def ls(
    paths: Paths,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
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
    """List runs of any format: steps, tokens, batch sizes, last losses, attempts, malformed lines.

    A file of a tree that cannot be read is named on standard error; the others are listed all
    the same.
    """
    from megascale.runs.overview import overviews

    options = read_options(columns, seq_length, batch_tokens, batch_samples, loss_kind)
    loaded = load_logs(paths, format, options, join, workers, cache)
    summaries = overviews(loaded)
    if as_json:
        typer.echo(json.dumps([summary.to_dict() for summary in summaries], indent=2))
    else:
        _table(COLUMNS, [_row(summary) for summary in summaries])


@app.command(
    epilog="""Examples:

  megascale runs show runs/quickstart/growing

  megascale runs show job-1814592.out.gz --json | jq .segments"""
)
def show(
    run: Annotated[Path, typer.Argument(help="A log of one run, or its directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
            shown.append(summary.to_dict() | meta | {"malformed_lines": lines})
            continue
        if index:
            typer.echo()
        for name, value in zip(COLUMNS, _row(summary)):
            typer.echo(f"{name:<12}{value}")
        typer.echo(f"{'superseded':<12}{summary.superseded} records")
        for name in ("n_params", "d_tokens", "seq_length"):
            value = getattr(one.meta, name)
            typer.echo(f"{name:<12}{'-' if value is None else f'{value:,}'}")
        typer.echo()
        _table(
            ("from tokens", "to tokens", "batch (tokens)", "steps", "mean loss"),
            folded_rows(summary.segments, _segment_row),
        )
    if as_json:
        typer.echo(json.dumps(shown[0] if len(shown) == 1 else shown, indent=2, default=str))
        return
    for line in lines:
        typer.echo(f"megascale: {line['path']}:{line['line']}: {line['reason']}", err=True)


@app.command(
    epilog="""Examples:

  megascale runs check runs

  megascale runs check 'logs/*.out.gz' --strict && megascale fit logs ..."""
)
def check(
    paths: Paths,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
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


def read_options(
    columns: list[str] | None,
    seq_length: int | None,
    batch_tokens: str | None,
    batch_samples: str | None,
    loss_kind: str | None,
) -> ReadOptions:
    """What the command line states about logs that do not say it.

    Raises:
        ConfigError: an option is not legal.
    """
    from megascale.errors import ConfigError
    from megascale.runs.readers.base import LOSS_KINDS, VALIDATION, ReadOptions

    pairs = []
    for text in columns or []:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise ConfigError.of("--columns", text, "must be OUR=THEIRS", "loss=smooth_loss")
        pairs.append((ours.strip(), theirs.strip()))
    if seq_length is not None and seq_length <= 0:
        raise ConfigError.of("--seq-length", seq_length, "must be positive", 1)
    kinds = [kind for kind in LOSS_KINDS if kind != VALIDATION]
    if loss_kind is not None and loss_kind not in kinds:
        raise ConfigError.of("--loss-kind", loss_kind, "must be a kind of training loss", kinds)
    return ReadOptions(
        tuple(pairs),
        seq_length,
        parse_batches(batch_samples, "--batch-samples"),
        parse_batches(batch_tokens, "--batch-tokens"),
        loss_kind,
    )


def parse_batches(text: str | None, option: str) -> Batches | None:
    """`SIZE`, or `STEP:SIZE,STEP:SIZE,...` from step 0 on: batches after so many finished steps.

    Raises:
        ConfigError: sizes that are not positive, or steps that do not rise from 0.
    """
    from megascale.errors import ConfigError
    from megascale.units import parse_count

    if text is None:
        return None
    parts = [part.strip().rpartition(":") for part in text.split(",")]
    batches = tuple(
        (parse_count(step or "0", option), parse_count(size, option)) for step, _, size in parts
    )
    steps = [step for step, _ in batches]
    if steps[0] != 0 or any(later <= step for step, later in pairwise(steps)):
        rule = "steps must rise, from 0 on"
        raise ConfigError.of(option, text, rule, "0:1M,700:2M")
    if any(size <= 0 for _, size in batches):
        raise ConfigError.of(option, text, "must be positive", 1)
    return batches


def load_logs(
    paths: list[Path],
    format: str | None,
    options: ReadOptions,
    join: bool,
    workers: int,
    cache: bool,
) -> RunTable:
    """Logs as one table; what was passed over is told on standard error, in a few lines."""
    from megascale.runs.table import load_runs

    loaded = load_runs(
        list(paths),
        format=format,
        options=options,
        join=join,
        workers=workers or os.cpu_count() or 1,
        cache=cache,
        progress=sys.stderr.isatty(),
    )
    for line in _passed_over(loaded.skipped):
        typer.echo(f"megascale: {line}", err=True)
    return loaded


def _passed_over(skipped: list[tuple[Path, str]]) -> Iterator[str]:
    """How many files are no logs, with some names; and which ones cannot be read, and why."""
    from megascale.runs.table import NO_FORMAT

    strange = [path for path, reason in skipped if NO_FORMAT in reason]
    wrong = [(path, reason) for path, reason in skipped if NO_FORMAT not in reason]
    if strange:
        names = ", ".join(path.name for path in strange[:3]) + (", ..." * (len(strange) > 3))
        files = "a file" if len(strange) == 1 else f"{len(strange):,} files"
        yield f"passed over {files} in no known log format ({names})"
    for path, reason in wrong[:SKIPPED_SHOWN]:
        yield f"passed over {path}: {reason}"
    if len(wrong) > SKIPPED_SHOWN:
        yield f"passed over {len(wrong) - SKIPPED_SHOWN:,} more files that cannot be read"


def _count(value: int | None, shown: Callable[[int], str]) -> str:
    return "-" if value is None else shown(value)


def _row(summary: RunOverview) -> tuple[str, ...]:
    from megascale.units import short_count
    from megascale.verbs.tables import folded_names

    batches = [_count(segment.batch_tokens, short_count) for segment in summary.segments]
    return (
        summary.name,
        summary.format,
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


def _segment_row(segment: OverviewSegment) -> tuple[str, ...]:
    from megascale.units import short_count

    return (
        _count(segment.start_tokens, short_count),
        _count(segment.end_tokens, short_count),
        _count(segment.batch_tokens, "{:,}".format),
        _count(segment.steps, "{:,}".format),
        "-" if segment.loss is None else f"{segment.loss:.4f}",
    )


def _table(columns: tuple[str, ...], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
    for row in (columns, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        typer.echo("  ".join(cells).rstrip())
