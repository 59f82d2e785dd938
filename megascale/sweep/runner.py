"""Runs of a study as local processes, each on its own cores, until all are done.

What is finished is never started again; what was interrupted goes on from its newest checkpoint.
A run that fails is started once more, then left; the others go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

from megascale.config import dump_yaml
from megascale.errors import EXIT_DONE, EXIT_INTERRUPTED, UserError
from megascale.machine import usable_cores
from megascale.sweep.plan import RunPlan
from megascale.sweep.progress import LoggedProgress, is_finished, read_progress
from megascale.train.checks import run_path
from megascale.train.rundir import in_use_by, write_durably

State = Literal["waiting", "running", "done", "failed", "skipped", "interrupted"]
POLL_SECONDS = 0.25
ATTEMPTS = 2
GRACE_SECONDS = 60.0
LOG_LINES = 15


@dataclass(slots=True)
class RunState:
    """Where one run of the sweep stands.

    Attributes:
        plan: the run and what it takes.
        state: of the run.
        progress: from its log.
        attempts: starts by this sweep.
        exit_code: of the last attempt; negative for a signal.
        note: why it waits or was left out.
        began: `time.monotonic()` of the last start.
        found_tokens: consumed tokens when this sweep first started it.
    """

    plan: RunPlan
    state: State = "waiting"
    progress: LoggedProgress = field(default_factory=LoggedProgress)
    attempts: int = 0
    exit_code: int | None = None
    note: str = ""
    began: float = 0.0
    found_tokens: int = 0
    process: subprocess.Popen[bytes] | None = None
    slot: int = -1

    @property
    def name(self) -> str:
        return self.plan.run.name


class StopRequests:
    """Counts SIGINT and SIGTERM while it is entered; the loop looks at the count."""

    def __init__(self) -> None:
        self.count = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


class Runner:
    """Starts, watches and ends the processes of a sweep."""

    def __init__(
        self,
        plans: Sequence[RunPlan],
        output: Path,
        *,
        ranks: int,
        jobs: int,
        report: Callable[[Sequence[RunState], RunState | None], None],
        unpinned_cores: int | None = None,
    ) -> None:
        """Args:
        plans: the runs, parents before branches.
        output: folder of the run directories; configs and logs go to `sweep/` in it.
        ranks: processes of each run.
        jobs: runs at a time; the usable cores are shared out among them.
        report: called with all states at every look, and with the run whose state just changed.
        unpinned_cores: share out this many cores as threads and pin no run, for a machine whose
            cores a scheduler gives to several jobs; None pins each run to its share.
        """
        self.states = [RunState(plan) for plan in plans]
        self.folder = output / "sweep"
        self.ranks = ranks
        if unpinned_cores is None:
            self.slots = share_cores(jobs)
            self._threads = [len(cores) // ranks for cores in self.slots]
        else:
            self.slots = [() for _ in range(jobs)]
            self._threads = [unpinned_cores // (jobs * ranks)] * jobs
        self._report = report
        self._by_name = {state.name: state for state in self.states}

    def run(self) -> int:
        """Run what is left; returns the sweep's exit code.

        0 when all runs are done, 75 when a signal stopped them (start again to go on), else that
        of the first failed run (1 where a signal ended it).
        """
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        (self.folder / "configs").mkdir(exist_ok=True)
        for state in self.states:
            state.progress = read_progress(run_path(state.plan.run.config))
            state.found_tokens = state.progress.tokens
            if is_finished(state.plan.run.config):
                self._set(state, "done", "found finished")
        with StopRequests() as stop:
            try:
                self._loop(stop)
            finally:
                self._end_all()
        if stop.count:
            return EXIT_INTERRUPTED
        failed = [state for state in self.states if state.state == "failed"]
        return _exit_code(failed[0]) if failed else EXIT_DONE

    def log_of(self, state: RunState) -> Path:
        """The file that holds what a run printed."""
        return self.folder / "logs" / f"{state.name}.log"

    def last_lines(self, state: RunState) -> list[str]:
        """The end of a run's log."""
        return last_lines(self.log_of(state))

    def _loop(self, stop: StopRequests) -> None:
        while any(state.state in ("waiting", "running") for state in self.states):
            for state in self.states:
                if state.state == "running":
                    self._look(state)
            if stop.count:
                self._stop(lambda: stop.count > 1)
                return
            self._start_ready()
            self._report(self.states, None)
            time.sleep(POLL_SECONDS)

    def _start_ready(self) -> None:
        taken = {state.slot for state in self.states if state.state == "running"}
        free = [slot for slot in range(len(self.slots)) if slot not in taken]
        for state in self.states:
            if not free:
                return
            if state.state == "waiting" and self._ready(state):
                self._start(state, free.pop(0))

    def _ready(self, state: RunState) -> bool:
        parent = state.plan.run.parent
        if parent is not None:
            above = self._by_name[parent].state
            if above in ("failed", "skipped"):
                self._set(state, "skipped", f"needs {parent}")
            if above != "done":
                return False
        holder = in_use_by(run_path(state.plan.run.config))
        state.note = "" if holder is None else f"in use by {holder}"
        if holder is None and is_finished(state.plan.run.config):
            self._set(state, "done", "finished by another process")
            return False
        return holder is None

    def _start(self, state: RunState, slot: int) -> None:
        run = state.plan.run
        config = self.folder / "configs" / f"{run.name}.yaml"
        write_durably(config, dump_yaml(run.config).encode())
        words = [str(config)]
        if run.parent is not None:
            words += ["--branch-decay", str(last_checkpoint(self._by_name[run.parent]))]
        cores = self.slots[slot]
        command = [sys.executable, "-m", "megascale.sweep.worker", str(os.getpid())]
        command += [",".join(map(str, cores)), str(self.ranks), *words]
        with open(self.log_of(state), "ab") as log:
            state.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | thread_limits(os.environ, self._threads[slot]),
                start_new_session=True,
            )
        state.slot, state.began = slot, time.monotonic()
        state.attempts += 1
        self._set(state, "running")

    def _look(self, state: RunState) -> None:
        assert state.process is not None
        code = state.process.poll()
        state.progress = read_progress(run_path(state.plan.run.config))
        if code is None:
            return
        state.process, state.exit_code = None, code
        if code == EXIT_DONE and is_finished(state.plan.run.config):
            self._set(state, "done")
        elif state.attempts < ATTEMPTS:
            self._set(state, "waiting", f"{_ending(state)}; once more")
        else:
            self._set(state, "failed", _ending(state))

    def save_all(self) -> None:
        """Ask every run to save and leave, and wait for it; for a caller that is itself stopped."""
        self._stop(lambda: False)

    def _stop(self, at_once: Callable[[], bool]) -> None:
        """Ask every run to save and leave; wait, but no longer than their saves may take."""
        running = [state for state in self.states if state.process is not None]
        for state in running:
            _send(state, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(state.process is not None for state in running):
            if at_once() or time.monotonic() > deadline:
                return
            for state in running:
                if state.process is not None and state.process.poll() is not None:
                    self._left(state)
            time.sleep(POLL_SECONDS)

    def _left(self, state: RunState) -> None:
        assert state.process is not None
        state.exit_code, state.process = state.process.returncode, None
        state.progress = read_progress(run_path(state.plan.run.config))
        finished = is_finished(state.plan.run.config)
        self._set(state, "done" if finished else "interrupted", "" if finished else _ending(state))

    def _end_all(self) -> None:
        """Kill what is still there: after a second signal, or an error of the sweep itself."""
        for state in self.states:
            if state.process is not None:
                _send(state, signal.SIGKILL)
                state.process.wait()
                self._left(state)

    def _set(self, state: RunState, to: State, note: str = "") -> None:
        state.state, state.note = to, note
        self._report(self.states, state)


def last_lines(log: Path) -> list[str]:
    """The end of what a run printed; nothing where it has not."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-LOG_LINES:]


def share_cores(jobs: int) -> list[tuple[int, ...]]:
    """The usable cores cut into one set a run; runs beyond them share cores in turn.

    Raises:
        UserError: fewer than one run at a time.
    """
    if jobs < 1:
        raise UserError.of("--jobs", jobs, "must be at least 1", 1)
    cores = usable_cores()
    if jobs >= len(cores):
        return [(cores[index % len(cores)],) for index in range(jobs)]
    each = len(cores) // jobs
    return [tuple(cores[index * each : (index + 1) * each]) for index in range(jobs)]


def last_checkpoint(parent: RunState) -> Path:
    """The checkpoint a finished run ended with.

    Raises:
        CheckpointError: it is not there any more.
    """
    from megascale.errors import CheckpointError
    from megascale.train.checkpoint import list_checkpoints

    folder = run_path(parent.plan.run.config) / "checkpoints"
    saved = list_checkpoints(folder)
    if not saved or saved[-1].tokens != parent.plan.run.config.train.total_tokens:
        raise CheckpointError.of(
            "branch_from", str(folder), f"run {parent.name} left no checkpoint of its end here"
        )
    return saved[-1].path


def _send(state: RunState, number: signal.Signals) -> None:
    """Signal a run; a kill reaches all processes of its session, for torchrun has children."""
    assert state.process is not None
    try:
        if number == signal.SIGKILL:
            os.killpg(state.process.pid, number)
        else:
            state.process.send_signal(number)
    except ProcessLookupError:
        return


def _ending(state: RunState) -> str:
    code = state.exit_code
    if code is not None and code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _exit_code(state: RunState) -> int:
    return state.exit_code if state.exit_code is not None and state.exit_code > 0 else 1


def thread_limits(environment: Mapping[str, str], share: int) -> dict[str, str]:
    """Threads of a run's libraries: as the environment says, else the run's share of the cores."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    said = environment.get(names[0])
    return {name: environment.get(name, said or str(max(1, share))) for name in names}
