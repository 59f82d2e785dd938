"""Runs of a study as jobs of a cluster: grouped, submitted once, watched, submitted again.

The run directories are on a file system that all machines see. What a run is comes from its log
there, never from a job's own word, so a sweep may be killed and started again at any moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from megascale.errors import EXIT_DONE, EXIT_INTERRUPTED
from megascale.formats.json_text import JsonTextError, parse_json
from megascale.sweep.plan import RunPlan
from megascale.sweep.progress import is_finished, read_progress
from megascale.sweep.remote_job import RunGroup, failed_with, forget_failures
from megascale.sweep.runner import ATTEMPTS, RunState, State, StopRequests, last_lines
from megascale.train.checks import run_path
from megascale.train.rundir import write_durably

JobState = Literal["queued", "running"]
JOBS_FILE = "jobs.json"


class Cluster(Protocol):
    """What takes jobs.

    Attributes:
        name: as the user calls it.
        outlives: whether jobs go on when the sweep that submitted them is gone.
        poll_seconds: between two looks.
    """

    name: str
    outlives: bool
    poll_seconds: float

    def submit(self, groups: Sequence[RunGroup], after: Collection[str]) -> list[str]:
        """Submit groups that start once the jobs `after` have succeeded; their jobs' ids."""

    def alive(self) -> Mapping[str, JobState]:
        """All jobs of this study that are queued or running, by id."""

    def cancel(self, jobs: Collection[str]) -> None:
        """End jobs; their runs save first."""


@dataclass(slots=True)
class Submitted:
    """A job and the names of its runs, with the tokens they had when it was submitted."""

    job: str
    runs: tuple[str, ...]
    tokens: Mapping[str, int] = field(default_factory=dict)


def group_runs(plans: Sequence[RunPlan], per_job: int) -> list[list[RunPlan]]:
    """Cut runs into jobs of at most `per_job`, those that need no other job first.

    A branch is in a later group than its parent if the parent is among the runs.

    Args:
        plans: unfinished runs, parents before branches.
        per_job: runs of one job.
    """
    names = {plan.run.name for plan in plans}
    depth: dict[str, int] = {}
    for plan in plans:
        parent = plan.run.parent
        depth[plan.run.name] = depth[parent] + 1 if parent in names and parent is not None else 0
    groups = []
    for level in sorted(set(depth.values())):
        these = [plan for plan in plans if depth[plan.run.name] == level]
        groups += [these[start : start + per_job] for start in range(0, len(these), per_job)]
    return groups


class ClusterRunner:
    """Submits a sweep's runs and waits for them; the counterpart of `runner.Runner`."""

    def __init__(
        self,
        plans: Sequence[RunPlan],
        output: Path,
        cluster: Cluster,
        *,
        ranks: int,
        per_job: int,
        say: Callable[[str], None],
        report: Callable[[Sequence[RunState], RunState | None], None],
    ) -> None:
        """Args:
        plans: the runs, parents before branches.
        output: folder of the run directories, seen by all machines.
        cluster: takes the jobs.
        ranks: processes of each run.
        per_job: runs of one job.
        say: prints a line.
        report: called with all states at every look, and with the run whose state just changed.
        """
        self.states = [RunState(plan) for plan in plans]
        self.folder = output / "sweep"
        self._output, self._cluster = output, cluster
        self._ranks, self._per_job = ranks, per_job
        self._say, self._report = say, report
        self._by_name = {state.name: state for state in self.states}
        self._jobs: dict[str, Submitted] = {}

    def run(self) -> int:
        """Submit what is left and wait; returns the sweep's exit code as `Runner.run` does.

        A signal leaves jobs that outlive the sweep in their queue: the same command watches them
        again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for state in self.states:
            state.progress = read_progress(run_path(state.plan.run.config))
            state.found_tokens = state.progress.tokens
            if is_finished(state.plan.run.config):
                self._set(state, "done", "found finished")
        self._recall()
        with StopRequests() as stop:
            while self._submit_rest() or self._jobs:
                self._look()
                if stop.count:
                    self._leave()
                    return EXIT_INTERRUPTED
                self._report(self.states, None)
                time.sleep(self._cluster.poll_seconds)
        failed = [state for state in self.states if state.state == "failed"]
        return 1 if failed else EXIT_DONE

    def last_lines(self, state: RunState) -> list[str]:
        """The end of what a run printed."""
        return last_lines(self.log_of(state))

    def log_of(self, state: RunState) -> Path:
        """The file that holds what a run printed."""
        return self.folder / "logs" / f"{state.name}.log"

    def _recall(self) -> None:
        """Take over the jobs that an earlier sweep submitted; end those that no record names."""
        alive = self._cluster.alive()
        for saved in _read_jobs(self.folder / JOBS_FILE):
            if saved.job in alive and all(name in self._by_name for name in saved.runs):
                self._jobs[saved.job] = saved
                for name in saved.runs:
                    if self._by_name[name].state == "waiting":
                        self._by_name[name].attempts = 1
        unknown = sorted(set(alive) - set(self._jobs))
        if unknown:
            self._say(f"ending {', '.join(unknown)}: of this study, but no record names its runs")
            self._cluster.cancel(unknown)
            while set(unknown) & set(self._cluster.alive()):
                time.sleep(self._cluster.poll_seconds)
        if self._jobs:
            self._say(f"{len(self._jobs)} jobs of an earlier sweep go on")

    def _submit_rest(self) -> bool:
        """Submit the runs that no job has; whether there were any."""
        taken = {name for job in self._jobs.values() for name in job.runs}
        rest = [s.plan for s in self.states if s.state == "waiting" and s.name not in taken]
        if not rest:
            return False
        by_need: dict[frozenset[str], list[list[RunPlan]]] = {}
        for group in group_runs(rest, self._per_job):
            need = frozenset(plan.run.parent for plan in group if plan.run.parent is not None)
            by_need.setdefault(need, []).append(group)
        for need, groups in by_need.items():
            after = {job.job for job in self._jobs.values() if need & set(job.runs)}
            forget_failures(self._output, [plan.run.name for group in groups for plan in group])
            made = [self._group(group) for group in groups]
            for job, group in zip(self._cluster.submit(made, after), groups, strict=True):
                names = tuple(plan.run.name for plan in group)
                tokens = {name: self._by_name[name].progress.tokens for name in names}
                self._jobs[job] = Submitted(job, names, tokens)
                for name in names:
                    self._by_name[name].attempts += 1
                    self._set(self._by_name[name], "waiting", f"queued as {job}")
            self._save()
        return True

    def _group(self, plans: Sequence[RunPlan]) -> RunGroup:
        """The job of these runs, with the parents that their branches start from."""
        parents = {plan.run.parent for plan in plans} - {plan.run.name for plan in plans} - {None}
        above = [self._by_name[str(name)].plan for name in sorted(map(str, parents))]
        return RunGroup([*above, *plans], self._output, self._ranks)

    def _look(self) -> None:
        alive = self._cluster.alive()
        for job in list(self._jobs.values()):
            state = alive.get(job.job)
            for name in job.runs:
                self._look_at(self._by_name[name], job, state)
            if state is None:
                del self._jobs[job.job]
                self._save()

    def _look_at(self, run: RunState, job: Submitted, state: JobState | None) -> None:
        if run.state not in ("waiting", "running"):
            return
        config = run.plan.run.config
        run.progress = read_progress(run_path(config))
        if state == "running" and run.state == "waiting" and run.progress.tokens:
            run.began = time.monotonic()
            self._set(run, "running", f"in {job.job}")
        if state == "queued" and run.state == "running":
            self._set(run, "waiting", f"queued again as {job.job}")
        if is_finished(config):
            self._set(run, "done")
        elif state is None:
            self._ended_early(run, job)

    def _ended_early(self, run: RunState, job: Submitted) -> None:
        parent = run.plan.run.parent
        if parent is not None and self._by_name[parent].state in ("failed", "skipped"):
            self._set(run, "skipped", f"needs {parent}")
        elif (code := failed_with(self._output, run.name)) is not None:
            self._set(run, "failed", f"exit code {code} in {job.job}")
        elif run.progress.tokens > job.tokens.get(run.name, 0):
            run.attempts -= 1
            self._set(run, "waiting", f"{job.job} ended before it did; once more")
        elif run.attempts < ATTEMPTS:
            self._set(run, "waiting", f"{job.job} ended without progress; once more")
        else:
            self._set(run, "failed", f"{job.job} ended")

    def _leave(self) -> None:
        if self._cluster.outlives:
            count = len(self._jobs)
            self._say(f"{count} jobs stay in {self._cluster.name}; the same command watches them")
            return
        self._cluster.cancel(list(self._jobs))
        while self._cluster.alive():
            time.sleep(self._cluster.poll_seconds)
        for state in self.states:
            state.progress = read_progress(run_path(state.plan.run.config))
            if state.state in ("waiting", "running"):
                done = is_finished(state.plan.run.config)
                self._set(state, "done" if done else "interrupted")

    def _save(self) -> None:
        jobs = [
            {"job": job.job, "runs": list(job.runs), "tokens": dict(job.tokens)}
            for job in self._jobs.values()
        ]
        text = json.dumps({"cluster": self._cluster.name, "jobs": jobs}, indent=1)
        write_durably(self.folder / JOBS_FILE, text.encode())

    def _set(self, state: RunState, to: State, note: str = "") -> None:
        state.state, state.note = to, note
        self._report(self.states, state)


def _read_jobs(path: Path) -> list[Submitted]:
    """What an earlier sweep recorded; nothing where the file is missing or no such record."""
    try:
        content = parse_json(path.read_bytes())
        return [
            Submitted(
                str(job["job"]),
                tuple(str(name) for name in job["runs"]),
                {str(name): int(count) for name, count in job["tokens"].items()},
            )
            for job in content["jobs"]
        ]
    except (OSError, JsonTextError, KeyError, TypeError, AttributeError, ValueError):
        return []
