"""One call per interval and per event, for the log, the console and the dashboards at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megascale.runs.console import SUMMARY_COLUMNS, RunConsole, summary_rows
from megascale.runs.log import RunLog, read_run
from megascale.runs.sinks import Sink
from megascale.runs.timing import ScheduleLike, StepTimeModel, eta_seconds


class Reporter:
    """Rank 0's voice."""

    def __init__(
        self,
        log: RunLog,
        console: RunConsole,
        *,
        schedule: ScheduleLike,
        sinks: Sequence[Sink] = (),
    ) -> None:
        """Args:
        log: the open run log.
        console: what the user sees.
        schedule: the batch schedule, for the time that is left.
        sinks: dashboards.
        """
        self.log = log
        self.console = console
        self.schedule = schedule
        self.sinks = sinks
        self._timing = StepTimeModel()

    def interval(self, record: Mapping[str, Any]) -> None:
        """Log and show one interval's record, with `eta_seconds` added.

        Raises:
            RunError: the log cannot be written.
        """
        self._timing.add(
            batch_tokens=record["batch_tokens"], steps=record["steps"], seconds=record["seconds"]
        )
        eta = eta_seconds(self.schedule, record["tokens"], self._timing)
        record = {**record, "eta_seconds": eta}
        self.log.metrics(record)
        self.console.interval(record)
        for sink in self.sinks:
            sink.log(record)

    def event(
        self, kind: str, *, step: int, tokens: int, message: str | None = None, **fields: Any
    ) -> None:
        """Log an event, and print its message if it has one.

        Raises:
            RunError: the log cannot be written.
        """
        if message is not None:
            fields["message"] = message
        self.log.event(kind, step=step, tokens=tokens, **fields)
        if message is not None:
            self.console.line(message)

    def summary(self) -> None:
        """Print the run so far as a table, one row per batch size, read back from the log."""
        self.log.sync()
        rows = summary_rows(read_run(self.log.directory).records)
        self.console.table("summary", SUMMARY_COLUMNS, rows)

    def close(self) -> None:
        """Take the bar away, close log and dashboards."""
        self.console.stop()
        for sink in self.sinks:
            sink.close()
        self.log.close()
