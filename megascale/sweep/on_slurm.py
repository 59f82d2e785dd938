"""A study's jobs on Slurm, through submitit: arrays, requeue after the time limit and preemption.

What is in the queue is asked of `squeue`, which every cluster answers; accounting may be off.
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from megascale.errors import ConfigError
from megascale.extras import is_installed, pip_command
from megascale.sweep.cluster import JobState
from megascale.sweep.remote_job import RunGroup

REQUEUES = 10_000
"""Time limits after which submitit submits a job again."""

NUMBERS = (
    "time",
    "signal_delay_s",
    "cpus_per_task",
    "gpus_per_node",
    "gpus_per_task",
    "cpus_per_gpu",
    "num_gpus",
)
OURS = ("nodes", "ntasks_per_node", "dependency", "job_name", "array_parallelism", "map_count")
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY")
WAITING = ("PENDING", "REQUEUED", "CONFIGURING", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED")


class SlurmCluster:
    """The Slurm cluster that this machine submits to."""

    name = "Slurm"
    outlives = True

    def __init__(
        self,
        folder: Path,
        *,
        ranks: int,
        at_a_time: int | None,
        parameters: Mapping[str, str],
        poll_seconds: float = 5.0,
    ) -> None:
        """Args:
        folder: of the study (`OUTPUT/sweep`), on a file system that all nodes see.
        ranks: processes of each run; a job has a core for each unless `cpus_per_task` says else.
        at_a_time: most jobs at a time; None leaves it to the cluster.
        parameters: of `sbatch`, by submitit's names: time (minutes), partition, cpus_per_task ...
        poll_seconds: between two looks at the queue.

        Raises:
            ConfigError: submitit or Slurm is missing, or a parameter is unknown.
        """
        if not is_installed("submitit"):
            raise ConfigError.of("--on", "slurm", f"needs submitit: {pip_command('submitit')}")
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise ConfigError.of("--on", "slurm", "no sbatch and squeue on this machine", "local")
        self.poll_seconds = poll_seconds
        self._folder = folder / "slurm"
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        self.job_name = f"megascale-{digest}"
        self._parameters: dict[str, Any] = {"cpus_per_task": ranks, **_checked(parameters)}
        self._array = at_a_time

    def submit(self, groups: Sequence[RunGroup], after: Collection[str]) -> list[str]:
        """Submit one job array (one job where there is one group)."""
        from submitit import SlurmExecutor

        executor = SlurmExecutor(self._folder, max_num_timeout=REQUEUES)
        executor.update_parameters(
            job_name=self.job_name,
            array_parallelism=self._array or len(groups),
            stderr_to_stdout=True,
            **self._parameters,
            **self._needs(after),
        )
        with executor.batch():
            jobs = [executor.submit(group) for group in groups]
        return [job.job_id for job in jobs]

    def alive(self) -> dict[str, JobState]:
        """Jobs of this study in the queue: id, with the place in its array, and state."""
        lines = _ask("squeue", "-h", "--me", "-r", f"--name={self.job_name}", "-o", "%i %T")
        found: dict[str, JobState] = {}
        for line in lines.splitlines():
            job, _, state = line.strip().partition(" ")
            if state not in ENDED:
                found[job] = "queued" if state in WAITING else "running"
        return found

    def cancel(self, jobs: Collection[str]) -> None:
        """End jobs for good; Slurm sends SIGTERM first, on which the runs save."""
        _ask("scancel", *sorted(jobs))

    def _needs(self, after: Collection[str]) -> dict[str, Any]:
        if not after:
            return {}
        words = {"kill-on-invalid-dep": "yes"}
        return {
            "dependency": "afterok:" + ":".join(sorted(after)),
            "additional_parameters": self._parameters.get("additional_parameters", {}) | words,
        }


def _checked(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Words of `--slurm` as submitit takes them.

    Raises:
        ConfigError: a name that `sbatch` has not, or one that the sweep decides itself.
    """
    from submitit.slurm import slurm

    known = set(inspect.signature(slurm._make_sbatch_string).parameters) - {"command", "folder"}
    legal = sorted(known - set(OURS))
    found: dict[str, Any] = {}
    for name, text in parameters.items():
        key = name.replace("-", "_")
        if key not in legal:
            raise ConfigError.of("--slurm", name, "is no parameter of a job", legal)
        if key in NUMBERS:
            if not text.isdecimal() or int(text) < 1:
                raise ConfigError.of(f"--slurm {name}", text, "must be a positive integer", 1)
            found[key] = int(text)
        else:
            found[key] = text
    return found


def _ask(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError.of(words[0], " ".join(words[1:]), f"failed: {done.stderr.strip()}")
    return done.stdout
