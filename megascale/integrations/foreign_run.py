"""The run log and the signals for a training loop that is not ours."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from megascale.errors import EXIT_DONE, EXIT_INTERRUPTED, RunError
from megascale.formats.run_log import RunLog
from megascale.integrations.token_clock import ClockStep, TokenClock
from megascale.train.signals import SignalFlags
from megascale.train.telemetry.interval import IntervalAccumulator, StepResult


class ForeignRun:
    """A run of another trainer: `steps()` gives the steps, `finished()` logs each.

    Use it as a context manager in the main thread. `megascale fit`, `compare` and `report` read
    the log as they read our own trainer's: docs/formats/run-log.md.

    Attributes:
        clock: the schedule.
        done: finished steps.
        exit_code: 0 at the end of the schedule, 75 where a signal stopped it; None before.
    """

    def __init__(
        self,
        directory: str | Path,
        clock: TokenClock,
        *,
        done: int = 0,
        writes: bool = True,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        """Args:
        directory: where the log is written; made where it is not there.
        clock: the schedule.
        done: finished steps in the checkpoint that the loop resumes from; 0 begins.
        writes: whether this process writes the log: rank 0 does.
        header: what the log says about the run: name, model, parameters.
        """
        self.directory, self.clock, self.done = Path(directory), clock, done
        self.exit_code: int | None = None
        self._writes, self._header = writes, dict(header or {})
        self._signals = SignalFlags()
        self._log: RunLog | None = None
        self._began = 0.0

    def __enter__(self) -> Self:
        if self._writes:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                rule = f"cannot be made: {error.strerror}"
                raise RunError.of("directory", str(self.directory), rule) from None
            self._log = RunLog(self.directory, {"name": self.directory.name, **self._header})
            if self.done:
                self._log.resume(self.done, self.tokens)
            else:
                self._log.start(total_tokens=self.clock.batch.total_tokens)
        self._signals.__enter__()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._signals.__exit__(kind, *rest)
        if self._log is None:
            return
        if kind is None:
            whole = self.done == len(self.clock)
            self.exit_code = EXIT_DONE if whole else EXIT_INTERRUPTED
            self._event("end", exit_code=self.exit_code)
        self._log.close()

    @property
    def tokens(self) -> int:
        """Consumed tokens of the finished steps."""
        return self.clock.batch.tokens_at_step(self.done)

    def steps(self) -> Iterator[ClockStep]:
        """The steps that are left. The loop may leave at any of them."""
        for number in range(self.done, len(self.clock)):
            yield self.clock[number]

    def requested(self) -> str | None:
        """The signal that asks this process to save and leave: SIGTERM, SIGUSR1, SIGHUP, SIGINT.

        Ranks may be told at different moments: agree on it, by a maximum over the ranks.
        """
        return self._signals.requested()

    def finished(
        self,
        step: ClockStep,
        *,
        loss_sum: float,
        loss_tokens: int,
        grad_norm: float,
        weight_decay: float = 0.0,
        **extra: float,
    ) -> None:
        """Log a step, and that it changed the batch if it did.

        Args:
            step: from `steps`.
            loss_sum: sum of the token losses of the global batch, in nats.
            loss_tokens: how many tokens they are of.
            grad_norm: of the global batch's gradient, before clipping.
            weight_decay: in force.
            extra: further numbers, under their names.

        Raises:
            ValueError: not the step that is due.
            RunError: the log cannot be written.
        """
        if step.number != self.done:
            raise ValueError(f"step {step.number} finished, and step {self.done} is due")
        self._announce(step.number)
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        self.done = step.number + 1
        if self._log is None:
            return
        interval = IntervalAccumulator()
        interval.add(
            StepResult(
                step=self.done,
                tokens=step.stop,
                samples=step.stop // step.sequence_length,
                batch_tokens=step.batch_tokens,
                micro_batches=step.micro_batches,
                sequence_length=step.sequence_length,
                loss_sum=loss_sum,
                loss_tokens=loss_tokens,
                lr=step.lr,
                weight_decay=weight_decay,
                grad_norm=grad_norm,
                seconds=seconds,
                window_tokens=step.stop - step.start,
                skipped=False,
                extra=extra,
            )
        )
        self._log.metrics(interval.record())

    def saved(self, path: str | Path) -> None:
        """Log that a checkpoint of the finished steps was written."""
        self._event("checkpoint", path=str(path))

    def answering(self, signal: str) -> None:
        """Log that the loop saves and leaves because of a signal."""
        self._event("signal", message=f"{signal}: saving")

    def _announce(self, number: int) -> None:
        segment = self.clock.batch.segment_at_step(number)
        if number and number == segment.first_step:
            before = self.clock.batch.segment_at_step(number - 1)
            self._event(
                "batch_change",
                previous_batch_tokens=before.batch_tokens,
                batch_tokens=segment.batch_tokens,
                micro_batches=segment.micro_batches,
                lr_scale=segment.lr_scale,
            )

    def _event(self, kind: str, **fields: Any) -> None:
        if self._log is not None:
            self._log.event(kind, step=self.done, tokens=self.tokens, **fields)
