"""Logs read for a verb: one table, and what was passed over on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from megascale.verbs.option_words import processes

if TYPE_CHECKING:
    from megascale.runs.readers.base import ReadOptions
    from megascale.runs.table import RunTable

SKIPPED_SHOWN = 5


def load_logs(
    paths: Sequence[Path],
    format: str | None,
    options: ReadOptions,
    join: bool,
    workers: int,
    cache: bool,
) -> RunTable:
    """Logs as one table; what was passed over is told on standard error, in a few lines.

    Args:
        paths: files, directories, trees, globs.
        format, options, join, cache: as `megascale.runs.table.load_runs`.
        workers: processes; 0 is one a core.
    """
    from megascale.runs.table import load_runs

    loaded = load_runs(
        list(paths),
        format=format,
        options=options,
        join=join,
        workers=processes(workers),
        cache=cache,
        progress=sys.stderr.isatty(),
    )
    for line in (*_passed_over(loaded.skipped), *_mixed(loaded)):
        typer.echo(f"megascale: {line}", err=True)
    return loaded


def require_logs(
    paths: Sequence[Path], verb: str, columns: Sequence[tuple[str, str]], format: str | None
) -> None:
    """Refuse tables of points, of final losses and law files where a verb takes run logs alone.

    Args:
        paths: of the command line.
        verb: its name, for the message.
        columns, format: as the user states them.

    Raises:
        DataError: naming the path, what it holds and why, and the verbs that take it.
    """
    from megascale.errors import DataError
    from megascale.runs.inputs import GRID, LAW_FILE, POINTS, PREDICTIONS, WORDS, recognise

    for path in paths:
        held = recognise(path, stated=columns, format=format)
        if held.holds in (POINTS, GRID, LAW_FILE, PREDICTIONS):
            rule = f"holds {WORDS[held.holds]} ({held.reason}); {verb} takes run logs"
            other = "report" if held.holds in (LAW_FILE, PREDICTIONS) else "fit or report"
            raise DataError.of("PATH", str(path), rule, f"megascale {other}")


def _mixed(loaded: RunTable) -> Iterator[str]:
    """Which logs hold several runs under one name: their curves are no curves of one run."""
    from megascale.runs.check import mixed_logs

    found = mixed_logs(loaded)
    for place, message in found[:SKIPPED_SHOWN]:
        yield f"{place}: {message}"
    if len(found) > SKIPPED_SHOWN:
        yield f"{len(found) - SKIPPED_SHOWN:,} more logs of several runs (megascale runs check)"


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
