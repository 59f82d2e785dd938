"""`megascale runs`: what the logs of runs say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from megascale.runs.summary import RunSummary

app = typer.Typer(
    name="runs",
    help="List and show runs from their logs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COLUMNS = ("run", "steps", "tokens", "batch", "loss", "attempts", "skipped", "malformed", "exit")


@app.command(
    epilog="""Examples:

  megascale runs ls runs

  megascale runs ls runs/lr-* --json"""
)
def ls(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Run directories, or folders of them.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List runs: steps, tokens, batch sizes, last loss, attempts, skips, malformed lines.

    A log that cannot be read is named on standard error and makes the exit code 5; the others are
    listed all the same.
    """
    from megascale.errors import RunError
    from megascale.runs.log import read_run
    from megascale.runs.summary import find_runs, summarize

    summaries, failures = [], []
    for path in find_runs(paths):
        try:
            summaries.append(summarize(read_run(path)))
        except RunError as error:
            failures.append(str(error))
    if as_json:
        typer.echo(json.dumps([summary.to_dict() for summary in summaries], indent=2))
    else:
        _table(COLUMNS, [_row(summary) for summary in summaries])
    for line in failures:
        typer.echo(f"megascale: {line}", err=True)
    if failures:
        raise typer.Exit(RunError.exit_code)


@app.command(
    epilog="""Examples:

  megascale runs show runs/quickstart

  megascale runs show runs/quickstart --json | jq .segments"""
)
def show(
    run: Annotated[Path, typer.Argument(help="A run directory, or its metrics.jsonl.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a run: its counters, its batch sizes with their losses, and its malformed lines."""
    from megascale.runs.console import short_count
    from megascale.runs.log import read_run
    from megascale.runs.summary import summarize

    data = read_run(run)
    summary = summarize(data)
    if as_json:
        lines = [
            {"path": str(line.path), "line": line.number, "reason": line.reason}
            for line in data.malformed
        ]
        typer.echo(json.dumps(summary.to_dict() | {"malformed_lines": lines}, indent=2))
        return
    for name, value in zip(COLUMNS, _row(summary)):
        typer.echo(f"{name:<12}{value}")
    typer.echo(f"{'superseded':<12}{summary.superseded} records")
    typer.echo()
    _table(
        ("from tokens", "to tokens", "batch (tokens)", "steps", "mean loss"),
        [
            (
                short_count(segment.start_tokens),
                short_count(segment.end_tokens),
                f"{segment.batch_tokens:,}",
                f"{segment.steps:,}",
                "-" if segment.loss is None else f"{segment.loss:.4f}",
            )
            for segment in summary.segments
        ],
    )
    for line in data.malformed:
        typer.echo(f"megascale: {line}", err=True)


def _row(summary: RunSummary) -> tuple[str, ...]:
    from megascale.runs.console import short_count

    return (
        summary.path,
        f"{summary.steps:,}",
        short_count(summary.tokens),
        " > ".join(short_count(segment.batch_tokens) for segment in summary.segments) or "-",
        "-" if summary.loss is None else f"{summary.loss:.4f}",
        str(summary.attempts),
        str(summary.skipped),
        str(summary.malformed),
        "-" if summary.exit_code is None else str(summary.exit_code),
    )


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
    for row in (columns, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        typer.echo("  ".join(cells).rstrip())
