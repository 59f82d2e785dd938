"""When a run writes checkpoints, and what it does when the disk is full.

In the middle of training a checkpoint that does not fit is told of and training goes on: the next
one may find room. If that does not fit either, older checkpoints are given up, oldest first. The
last checkpoint of a run waits for room, and then gives older ones up; one that a signal asked for
gives them up at once, since the process is about to be killed. Kept whatever happens: the newest
sound checkpoint, pinned ones, and those of `checkpoint.keep_every_tokens`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from megascale.config import RunConfig
from megascale.errors import RunError, found_alike
from megascale.train.build import Parts
from megascale.train.checkpoint import Checkpointer, SaveResult, rng_state
from megascale.train.evaluate import any_rank
from megascale.train.guard import Guard
from megascale.train.rundir import DiskFullError, lost_directory
from megascale.train.state import RunCounters, pack_state
from megascale.train.telemetry.interval import IntervalAccumulator


class TellsEvent(Protocol):
    """How the run's log and console hear of something."""

    def __call__(self, kind: str, message: str, **fields: Any) -> None:
        """Args: as `RunLog.event`, with the line for the console."""


class RunSaver:
    """One rank's part in the checkpoints of a run; every rank calls it in the same order."""

    def __init__(
        self,
        config: RunConfig,
        parts: Parts,
        progress: RunCounters,
        *,
        guard: Guard,
        interval: IntervalAccumulator,
        checkpointer: Checkpointer,
        schedule_source: dict[str, Any],
        event: TellsEvent,
        sync: Callable[[], None],
        told_to_stop: Callable[[], bool],
        directory_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        """Args:
        event: logs something on rank 0, does nothing elsewhere.
        sync: forces the log to the disk.
        told_to_stop: whether this rank was.
        directory_lost: whether the run directory is no longer the one that rank 0 holds.
        """
        self.config, self.parts, self.progress = config, parts, progress
        self.guard, self.interval, self.checkpointer = guard, interval, checkpointer
        self._schedule_source = schedule_source
        self._event, self._sync, self._told_to_stop = event, sync, told_to_stop
        self._directory_lost = directory_lost
        self._began = time.monotonic()
        self._full = False  # the save before this one found no room

    @property
    def late(self) -> bool:
        """Whether `checkpoint.interval_minutes` are over on this rank's clock."""
        minutes = self.config.checkpoint.interval_minutes
        return minutes is not None and time.monotonic() - self._began >= 60 * minutes

    def save(self) -> None:
        """Write a checkpoint of this moment, perhaps in the background; training goes on.

        Raises:
            RunError: the run directory is not this run's any more.
        """
        self.collect()
        self._check_directory()
        self._began = time.monotonic()
        try:
            self._write(wait=False)
        except RunError as failure:
            self._failed(failure)

    def save_last(self, *, urgent: bool) -> None:
        """Write the last checkpoint of this process.

        Args:
            urgent: a signal asked for it.

        Raises:
            RunError: it cannot be written, with everything given up that may be.
        """
        self.collect()
        self._check_directory()
        minutes = 0.0 if urgent else self.config.checkpoint.full_disk_minutes
        waits, told = list(_waits(60 * minutes)), False
        while True:
            try:
                return self._write(wait=True)
            except DiskFullError as failure:
                if waits and not any_rank(self._told_to_stop(), self.parts.mesh):
                    if not told:
                        self._event(
                            "warning",
                            f"WARNING: the last checkpoint finds no room ({failure}); trying again "
                            f"for {minutes:g} minutes (checkpoint.full_disk_minutes), then giving "
                            "up older checkpoints",
                        )
                    told = True
                    time.sleep(waits.pop(0))
                elif not self._give_up_oldest():
                    raise

    def collect(self) -> None:
        """Wait for a save in the background; report how it went."""
        try:
            result = self.checkpointer.collect()
        except RunError as failure:
            self._failed(failure)
            return
        if result is not None:
            self._saved(result)

    def _check_directory(self) -> None:
        if any_rank(self._directory_lost(), self.parts.mesh):
            error = lost_directory(self.checkpointer.directory.parent)
            error.found_by = "run"
            raise error

    def _write(self, *, wait: bool) -> None:
        with found_alike("run"):
            result = self.checkpointer.save(
                step=self.progress.step,
                tokens=self.progress.tokens,
                chunks=self.parts.chunks(),
                state=pack_state(
                    self.config,
                    self.parts,
                    self.progress,
                    self.guard,
                    self.interval,
                    schedule_source=self._schedule_source,
                ),
                rank_state=rng_state(self.parts.mesh.device),
            )
            if wait and result is None:
                result = self.checkpointer.collect()
        if result is not None:
            self._saved(result)

    def _failed(self, failure: RunError) -> None:
        self._event("warning", f"checkpoint not written, training goes on: {failure}")
        if isinstance(failure, DiskFullError):
            if self._full:
                self._give_up_oldest()
            self._full = True

    def _give_up_oldest(self) -> bool:
        name = self.checkpointer.give_up_oldest()
        if name is not None:
            self._event("warning", f"WARNING: the disk is full: older checkpoint {name} given up")
        return name is not None

    def _saved(self, result: SaveResult) -> None:
        self._full = False
        self._sync()
        self._event(
            "checkpoint",
            f"checkpoint {result.path.name} in {result.seconds:.1f} s",
            path=str(result.path),
            bytes=result.bytes,
            seconds=result.seconds,
            blocked_seconds=result.blocked_seconds,
            deleted=result.deleted,
        )
        for warning in result.warnings:
            self._event("warning", warning)


def _waits(seconds: float) -> Iterable[float]:
    """Pauses that add up to `seconds`, the same on every rank: 1 s, doubling up to 30 s."""
    pause = 1.0
    while seconds > 0:
        yield min(pause, seconds)
        seconds -= pause
        pause = min(2 * pause, 30.0)
