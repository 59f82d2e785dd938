"""One call per interval and per event, for the log, the console and the dashboards at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from megascale.formats.run_log import RunLog, read_run
from megascale.train.telemetry.sinks import Sink
from megascale.train.telemetry.timing import ScheduleLike, StepTimeModel, eta_seconds

Mode = Literal["auto", "rich", "plain", "off"]
"""`log.console`: "auto" is "rich" on a terminal and "plain" elsewhere; "off" shows nothing."""


class RunDisplay(Protocol):
    """What the user sees of a run; `megascale.verbs.run_console` is the one of the verb."""

    def start(self, consumed_tokens: int) -> None:
        """The run begins, or goes on, at `consumed_tokens`."""

    def interval(self, record: Mapping[str, Any]) -> None:
        """A metrics record was logged."""

    def line(self, text: str) -> None:
        """Something worth a line happened."""

    def summary(self, records: Sequence[Mapping[str, Any]]) -> None:
        """The run so far, from its log's records in step order."""

    def stop(self) -> None:
        """Nothing more comes."""


class MakesDisplay(Protocol):
    """How rank 0 gets its display, once the run's length is known."""

    def __call__(self, *, total_tokens: int, mode: Mode) -> RunDisplay:
        """Args: the run's end in tokens, and `log.console` of its config."""


class Reporter:
    """Rank 0's voice."""

    def __init__(
        self,
        log: RunLog,
        console: RunDisplay,
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
        self._full = False

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
        self._tell_if_full()
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
        self._tell_if_full()
        for sink in self.sinks:
            sink.event({"kind": kind, "step": step, "tokens": tokens, **fields})
        if message is not None:
            self.console.line(message)

    def _tell_if_full(self) -> None:
        """Say once that the disk is full for the log, and once that it no longer is."""
        full = self.log.waiting > 0
        if full and not self._full:
            self.console.line(
                f"WARNING: the disk is full: lines of the log wait in memory ({self.log.directory})"
            )
        elif self._full and not full:
            self.console.line("the disk has room again: the log is complete")
        self._full = full

    def take_over(self, step: int, tokens: int) -> None:
        """This attempt goes on at a checkpoint: dashboards drop what was shown beyond it."""
        for sink in self.sinks:
            sink.take_over(step, tokens)

    def summary(self) -> None:
        """Print the run so far as a table, one row per batch size, read back from the log."""
        self.log.sync()
        self.console.summary(read_run(self.log.directory).records)

    def close(self) -> None:
        """Take the bar away, close log and dashboards."""
        self.console.stop()
        for sink in self.sinks:
            sink.close()
        self.log.close()  # last: it may find the disk full
