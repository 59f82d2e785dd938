"""`launch/slurm.sbatch` on a real Slurm: what is requeued and goes on, and what ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megascale.config import RunConfig, dump_yaml
from tests.conftest import REPOSITORY
from tests.launch.slurm_cluster import SlurmCluster, slurm_cluster
from tests.multiprocess.launching import logged_step
from tests.tiny_run import log_of, tiny_config

pytestmark = pytest.mark.slow
SCRIPT = str(REPOSITORY / "launch/slurm.sbatch")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def run_of(folder: Path) -> RunConfig:
    """A run that no test waits for the end of; it saves when it is told to."""
    return tiny_config(
        folder,
        name="run",
        train={"total_tokens": 40_000_000, "threads": None},
        checkpoint={"interval_steps": 1_000_000},
    )


def submit(cluster: SlurmCluster, config: RunConfig, *options: str, **variables: str) -> str:
    """Submit a run to a cluster without GPUs; returns the job's number."""
    file = Path(config.output_dir).parent / "run.yaml"
    file.write_text(dump_yaml(config))
    here = {"MEGASCALE_HOME": str(REPOSITORY), "PYTHON": sys.executable}
    here |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": ""}
    words = ["sbatch", "--parsable", "--gpus-per-node=0", "--cpus-per-task=1", *options]
    return cluster.ask(
        *words, f"--output={file.parent}/job.log", SCRIPT, str(file), **here | variables
    )


def wait_for_steps(cluster: SlurmCluster, config: RunConfig, more: int = 3) -> None:
    """Return once the run has logged some steps more than it has now."""
    wanted = logged_step(config) + more
    cluster.wait(f"step {wanted}", lambda: logged_step(config) >= wanted)


def saved_tokens(cluster: SlurmCluster, config: RunConfig) -> int:
    """Tokens of an attempt that was told to stop, waited for; all of them are in a checkpoint."""

    def ended() -> bool:
        return log_of(config).events[-1]["kind"] == "end"

    cluster.wait("the end of the attempt", ended)
    log = log_of(config)
    last = log.records[-1]["tokens"]
    assert log.events[-1]["exit_code"] == 75
    assert [e["tokens"] for e in log.events if e["kind"] == "checkpoint"][-1] == last
    return last


def resumed_at(config: RunConfig) -> list[int]:
    return [event["tokens"] for event in log_of(config).events if event["kind"] == "resume"]


def test_the_time_limit_and_sigusr1_save_and_requeue(cluster: SlurmCluster, tmp_path: Path) -> None:
    config = run_of(tmp_path)
    # Slurm may send it up to a minute early: here as soon as it looks.
    job = submit(cluster, config, "--time=2", "--signal=B:USR1@110")
    wait_for_steps(cluster, config)
    saved = [saved_tokens(cluster, config)]
    cluster.wait_for_state(job, "PENDING")
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=UNLIMITED")
    wait_for_steps(cluster, config)
    assert resumed_at(config) == saved
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    saved.append(saved_tokens(cluster, config))
    wait_for_steps(cluster, config)
    assert resumed_at(config) == saved
    assert cluster.job(job)["Restarts"] == "2"
    cluster.ask("scancel", job)
    cluster.wait_for_state(job, "CANCELLED")


def test_a_preempted_job_goes_on_and_a_cancelled_one_does_not(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    config = run_of(tmp_path)
    job = submit(cluster, config)
    wait_for_steps(cluster, config)
    everything = f"--cpus-per-task={os.cpu_count()}"
    cluster.ask("sbatch", "--partition=urgent", everything, "--output=/dev/null", "--wrap=true")
    saved = saved_tokens(cluster, config)
    wait_for_steps(cluster, config)
    assert resumed_at(config) == [saved]
    assert cluster.job(job)["Restarts"] == "1"
    cluster.ask("scancel", job)
    saved_tokens(cluster, config)
    cluster.wait_for_state(job, "CANCELLED")
    cluster.wait("an empty node", lambda: cluster.ask("sinfo", "-h", "-o", "%t") == "idle")
    assert cluster.job(job)["JobState"] == "CANCELLED"
    assert cluster.job(job)["Restarts"] == "1"


@pytest.mark.parametrize(("ranks", "threads"), [(1, 2), (2, 1)])
def test_the_cores_of_the_task_are_the_trainers_threads(
    cluster: SlurmCluster, tmp_path: Path, ranks: int, threads: int
) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    config = run_of(tmp_path)
    job = submit(cluster, config, "--cpus-per-task=2", NPROC_PER_NODE=str(ranks))
    wait_for_steps(cluster, config, 1)
    cluster.ask("scancel", job)
    cluster.wait_for_state(job, "CANCELLED")
    assert log_of(config).events[-1]["exit_code"] == 75
    (state,) = Path(config.output_dir).glob("run/checkpoints/*/state.json")
    assert json.loads(state.read_text())["threads"] == threads


def test_a_job_that_fails_is_not_requeued(cluster: SlurmCluster, tmp_path: Path) -> None:
    config = run_of(tmp_path)
    job = submit(cluster, config)
    (tmp_path / "web.bin").unlink()
    cluster.wait_for_state(job, "FAILED")
    assert cluster.job(job)["ExitCode"] == "3:0"
    assert cluster.job(job)["Restarts"] == "0"
