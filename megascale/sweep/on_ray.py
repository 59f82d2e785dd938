"""A study's jobs on a Ray cluster: that at RAY_ADDRESS or of this machine, else a new local one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from megascale.errors import ConfigError
from megascale.extras import is_installed, pip_command
from megascale.sweep.cluster import JobState
from megascale.sweep.remote_job import RunGroup


class RayCluster:
    """Jobs as Ray tasks, which end with the sweep.

    Stopped by a signal, it lets their runs save; where it is killed, Ray kills them, and the next
    sweep goes on from their last checkpoints.
    """

    name = "Ray"
    outlives = False

    def __init__(self, *, cores: int, gpus: int, poll_seconds: float = 1.0) -> None:
        """Args:
        cores: of one job.
        gpus: of one job.
        poll_seconds: between two looks.

        Raises:
            ConfigError: ray is missing, or no node has what a job asks for.
        """
        if not is_installed("ray"):
            raise ConfigError.of("--on", "ray", f"needs ray: {pip_command('ray')}")
        import ray

        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
        self.poll_seconds = poll_seconds
        self._cores, self._gpus = cores, gpus
        self._tasks: dict[str, Any] = {}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for key, wanted in (("CPU", cores), ("GPU", gpus)):
            most = max((int(node.get(key, 0)) for node in nodes), default=0)
            if wanted > most:
                raise ConfigError.of(
                    "--cores" if key == "CPU" else "--gpus",
                    wanted,
                    f"no node of the Ray cluster has more than {most} {key}s",
                    most,
                )

    def submit(self, groups: Sequence[RunGroup], after: Collection[str]) -> list[str]:
        """Hand groups to Ray; each waits for the tasks `after`, and fails where one of them did."""
        import ray

        variables = {"MEGASCALE_JOB_CORES": str(self._cores)}
        task = ray.remote(
            num_cpus=self._cores,
            num_gpus=self._gpus,
            max_retries=0,
            max_calls=1,
            runtime_env={"env_vars": variables},
        )(_call)
        needs = [self._tasks[job] for job in sorted(after)]
        jobs = []
        for group in groups:
            job = f"task-{len(self._tasks)}"
            self._tasks[job] = task.remote(group, *needs)
            jobs.append(job)
        return jobs

    def alive(self) -> dict[str, JobState]:
        """Tasks without a result; Ray does not tell which of them wait for cores."""
        import ray

        if not self._tasks:
            return {}
        _, left = ray.wait(list(self._tasks.values()), num_returns=len(self._tasks), timeout=0)
        waiting = set(left)
        return {job: "running" for job, task in self._tasks.items() if task in waiting}

    def cancel(self, jobs: Collection[str]) -> None:
        """Interrupt tasks; their runs save first."""
        import ray

        for job in jobs:
            ray.cancel(self._tasks[job], force=False)


def _call(group: RunGroup, *_: object) -> list[str]:
    return group()
