"""What a run shows while it goes on: a progress bar in a terminal, plain lines elsewhere.

Every number shown here is in the log, under the key it is made from.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from megascale.formats.plain_table import plain_lines
from megascale.train.telemetry.reporter import Mode
from megascale.units import duration, short_count
from megascale.verbs.tables import empty_table


class RunConsole:
    """Prints a run's intervals and events; used by rank 0 alone."""

    def __init__(
        self, *, total_tokens: int, mode: Mode = "auto", stream: TextIO | None = None
    ) -> None:
        """Args:
        total_tokens: where the run ends, for percentages and the bar.
        mode: "auto" is "rich" on a terminal and "plain" elsewhere; "off" prints nothing.
        stream: where to print; standard output by default.
        """
        self.total_tokens = total_tokens
        self.stream = stream or sys.stdout
        if mode == "auto":
            mode = "rich" if self.stream.isatty() else "plain"
        self.mode: Mode = mode
        self._progress: Any = None
        self._task: Any = None

    def start(self, consumed_tokens: int) -> None:
        """Show the bar, at `consumed_tokens`."""
        if self.mode != "rich" or self._progress is not None:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._progress = Progress(
            TextColumn("{task.fields[position]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("ETA {task.fields[eta]}"),
            console=Console(file=self.stream),
        )
        self._task = self._progress.add_task(
            "",
            total=self.total_tokens,
            completed=consumed_tokens,
            position=short_count(consumed_tokens),
            eta="?",
        )
        self._progress.start()

    def interval(self, record: Mapping[str, Any]) -> None:
        """Print one line for a metrics record and move the bar."""
        if self.mode == "off":
            return
        self.line(interval_line(record, self.total_tokens))
        if self._progress is not None:
            self._progress.update(
                self._task,
                completed=record["tokens"],
                position=f"{short_count(record['tokens'])}/{short_count(self.total_tokens)}",
                eta=duration(record.get("eta_seconds")),
            )

    def line(self, text: str) -> None:
        """Print a line of text, above the bar if there is one."""
        if self.mode == "off":
            return
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def stop(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def summary(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Print a run so far as a table, one row per stretch of one batch size.

        The middle of a long table is left out; the log has it, and `runs show --json` prints it.
        """
        from megascale.verbs.tables import folded_rows

        self.table("summary", SUMMARY_COLUMNS, folded_rows(summary_rows(records), list))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; the first column is left-aligned, the others right-aligned."""
        self.stop()
        if self.mode == "off":
            return
        if self.mode == "rich":
            from rich.console import Console

            table = empty_table(title, *columns, left=1)
            for row in rows:
                table.add_row(*row)
            Console(file=self.stream).print(table)
            return
        print("\n".join([title, *plain_lines(columns, rows)]), file=self.stream, flush=True)


def interval_line(record: Mapping[str, Any], total_tokens: int) -> str:
    """One line of a metrics record for people."""
    parts = [
        f"step {record['step']:,}",
        f"{short_count(record['tokens'])} tokens ({100 * record['tokens'] / total_tokens:.1f} %)",
        f"loss {_number(record['loss'], '.4f')}",
        f"lr {record['lr']:.3e}",
        f"batch {record['batch_tokens']:,}",
        f"grad norm {_number(record['grad_norm'], '.3f')}",
    ]
    if record.get("tokens_per_second") is not None:
        parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if record.get("mfu") is not None:
        parts.append(f"MFU {100 * record['mfu']:.1f} %")
    if record.get("skipped"):
        parts.append(f"skipped {record['skipped']}")
    if record.get("eta_seconds") is not None:
        parts.append(f"ETA {duration(record['eta_seconds'])}")
    return "  ".join(parts)


SUMMARY_COLUMNS = (
    *("tokens", "steps", "batch", "mean loss", "last loss"),
    *("lr", "tokens/s", "skipped"),
)


def summary_rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A finished run by stretches of one batch size, as rows under `SUMMARY_COLUMNS`.

    Args:
        records: a run's metrics records in step order (`read_run(...).records`).
    """
    from megascale.runs.overview import OverviewSegment, record_segments

    def row(segment: OverviewSegment, members: Sequence[Mapping[str, Any]]) -> list[str]:
        begin, end = segment.start_tokens or 0, segment.end_tokens or 0
        seconds = segment.seconds or 0.0
        return [
            f"{short_count(begin)} - {short_count(end)}",
            f"{segment.steps or 0:,}",
            f"{segment.batch_tokens or 0:,}",
            _number(segment.loss, ".4f"),
            _number(segment.last_loss, ".4f"),
            _number(segment.lr, ".2e"),
            f"{(end - begin) / seconds:,.0f}" if seconds > 0 else "-",
            f"{sum(record['skipped'] for record in members):,}",
        ]

    segments = record_segments(records)
    ends = [segment.end_tokens or 0 for segment in segments]
    rows, at = [], 0
    for segment, end in zip(segments, ends, strict=True):
        until = at
        while until < len(records) and records[until]["tokens"] <= end:
            until += 1
        rows.append(row(segment, records[at:until]))
        at = until
    if len(rows) > 1:
        alike = [{**record, "batch_tokens": 0} for record in records]
        (all_of_it,) = record_segments(alike)
        rows.append(["all", *row(all_of_it, records)[1:2], "", *row(all_of_it, records)[3:]])
    return rows


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
