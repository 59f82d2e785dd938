"""Where `megascale sweep` sends its runs: this machine, Slurm or Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megascale.errors import UserError
from megascale.runs.files import STUDY_FOLDER
from megascale.sweep.cluster import Cluster, ClusterRunner
from megascale.sweep.plan import RunPlan
from megascale.sweep.prepare import check_machine, prepare_runs
from megascale.sweep.runner import Runner
from megascale.sweep.study import StudyAt
from megascale.verbs.sweep_display import StudyDisplay


@dataclass(frozen=True)
class Place:
    """What the command line says of the machines: where, runs of a job, and a job's resources."""

    on: Literal["local", "slurm", "ray"]
    runs_per_job: int
    slurm: tuple[str, ...]
    cores: int | None
    gpus: int

    def check(self) -> None:
        """Refuse options that say nothing where the runs go.

        Raises:
            UserError: `--slurm` without Slurm, `--cores` or `--gpus` without Ray, and the like.
        """
        idle = {
            "--runs-per-job": (self.runs_per_job != 1, ("slurm", "ray")),
            "--slurm": (bool(self.slurm), ("slurm",)),
            "--cores": (self.cores is not None, ("ray",)),
            "--gpus": (self.gpus != 0, ("ray",)),
        }
        for option, (given, places) in idle.items():
            if given and self.on not in places:
                rule = f"says nothing with --on {self.on}; leave it out, or --on {places[0]}"
                raise UserError.of(option, "given", rule)

    def parameters(self) -> dict[str, str]:
        """`--slurm` as names and values.

        Raises:
            UserError: a word without "=".
        """
        found = {}
        for word in self.slurm:
            name, sign, value = word.partition("=")
            if not sign or not value:
                raise UserError.of("--slurm", word, "must be NAME=VALUE", "time=240")
            found[name.strip()] = value.strip()
        return found


def runner_of(
    at: StudyAt,
    plans: Sequence[RunPlan],
    folder: Path,
    jobs: int | None,
    place: Place,
    display: StudyDisplay,
) -> Runner | ClusterRunner:
    """What starts the runs where they go; says so.

    Raises:
        UserError: of the kind that fits, before anything is started.
    """
    place.check()
    ranks = at.block.ranks
    title = f"{at.study.name} at {at.scale} scale: {len(plans)} runs"
    if place.on == "local":
        count = check_machine(at, jobs, len(plans))
        prepare_runs(at, plans, display.line)
        display.line(f"{title}, {count} at a time")
        return Runner(plans, folder, ranks=ranks, jobs=count, report=display.report)
    cluster: Cluster
    if place.on == "slurm":
        from megascale.sweep.on_slurm import SlurmCluster

        cluster = SlurmCluster(
            folder / STUDY_FOLDER, ranks=ranks, at_a_time=jobs, parameters=place.parameters()
        )
    else:
        from megascale.sweep.on_ray import RayCluster

        if jobs is not None:
            raise UserError.of("--jobs", jobs, "says nothing with --on ray; its cores decide")
        cluster = RayCluster(cores=place.cores or ranks, gpus=place.gpus)
    prepare_runs(at, plans, display.line)
    display.line(f"{title}, {place.runs_per_job} a job, on {cluster.name}")
    return ClusterRunner(
        plans,
        folder,
        cluster,
        ranks=ranks,
        per_job=place.runs_per_job,
        say=display.line,
        report=display.report,
    )
