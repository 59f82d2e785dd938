"""A job of a cluster: some runs of a study, trained where the scheduler put it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megascale.errors import EXIT_DONE, ConfigError, RunError
from megascale.machine import usable_cores
from megascale.sweep.plan import RunPlan
from megascale.sweep.runner import Runner, RunState
from megascale.train.rundir import write_durably


class RunGroup:
    """Runs of one job; called, it trains them and returns when all are done.

    It travels by pickle. Where the scheduler takes its machine away, `checkpoint` lets the runs
    save first; called again, it goes on from there.
    """

    def __init__(self, plans: Sequence[RunPlan], output: Path, ranks: int) -> None:
        """Args:
        plans: the runs, with finished parents of those that branch.
        output: folder of the run directories.
        ranks: processes of each run.
        """
        self.plans, self.output, self.ranks = list(plans), Path(output), ranks
        self.home = os.getcwd()
        self._runner: Runner | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_runner": None}

    def __call__(self, *_: object) -> list[str]:
        """Train what is left; the names of the runs.

        Raises:
            RunError: a run failed twice, or a signal stopped the job after its runs had saved.
        """
        os.chdir(self.home)
        cores = allotted_cores()
        at_a_time = max(1, min(len(self.plans), cores // self.ranks))
        self._runner = Runner(
            self.plans,
            self.output,
            ranks=self.ranks,
            jobs=at_a_time,
            report=_print,
            unpinned_cores=cores,
        )
        code = self._runner.run()
        if code != EXIT_DONE:
            left = [s for s in self._runner.states if s.state != "done"]
            for state in left:
                if state.state == "failed":
                    _record_failure(self.output, state)
            names = ", ".join(f"{s.name} ({s.note or s.state})" for s in left)
            raise RunError.of("job", names, f"ended with exit code {code}")
        return [plan.run.name for plan in self.plans]

    def checkpoint(self, *_: object) -> Any:
        """Let the runs save, and name what goes on in their place (submitit's protocol)."""
        from submitit.helpers import DelayedSubmission

        if self._runner is not None:
            self._runner.save_all()
        return DelayedSubmission(self)


def failed_with(output: Path, run: str) -> int | None:
    """The exit code that a job recorded for a run that failed twice in it; None for no record."""
    try:
        return int(_failure_file(output, run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def forget_failures(output: Path, runs: Iterable[str]) -> None:
    """Remove what earlier jobs recorded of these runs, before they are tried again."""
    for run in runs:
        _failure_file(output, run).unlink(missing_ok=True)


def _failure_file(output: Path, run: str) -> Path:
    return output / "sweep" / "failed" / run


def _record_failure(output: Path, state: RunState) -> None:
    file = _failure_file(output, state.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    code = state.exit_code
    write_durably(file, str(1 if code is None or code < 0 else code).encode())


def allotted_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Cores that the scheduler gave this job (SLURM_CPUS_PER_TASK, or Ray's share); else all.

    Raises:
        ConfigError: the variable is no positive integer.
    """
    stated = environment.get("SLURM_CPUS_PER_TASK") or environment.get("MEGASCALE_JOB_CORES")
    if not stated:
        return len(usable_cores())
    if not stated.isdecimal() or int(stated) < 1:
        raise ConfigError.of("SLURM_CPUS_PER_TASK", stated, "must be a positive integer", 1)
    return int(stated)


def _print(states: Sequence[RunState], changed: RunState | None) -> None:
    """A line in the job's own log for each change."""
    if changed is not None:
        note = f" ({changed.note})" if changed.note else ""
        print(f"{changed.name}: {changed.state}{note}", file=sys.stderr, flush=True)
