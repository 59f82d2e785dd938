"""Sweeps on a real Slurm of one node: arrays, dependencies, kills, time limits."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.launch.slurm_cluster import SlurmCluster, slurm_cluster
from tests.sweep.cluster_sweeps import ClusterSweep
from tests.sweep.small_study import write_study

pytest.importorskip("submitit", reason="pip install 'megascale[slurm]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LONG = {"settings": {"train.total_tokens": 131_072, "checkpoint.interval_steps": 50}}
DECAY = {"branch_from": "long", "settings": {"lr.decay_tokens": 1024}}
ENDLESS = {"settings": {"train.total_tokens": 39_321_600, "checkpoint.interval_steps": None}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def sweep_on(cluster: SlurmCluster, study, *words: str) -> ClusterSweep:
    return ClusterSweep(
        study,
        "--on",
        "slurm",
        *words,
        **{k: cluster.environment[k] for k in ("SLURM_CONF", "PATH")},
    )


def queue(cluster: SlurmCluster) -> list[str]:
    return cluster.ask("squeue", "-h", "-r", "-o", "%i %T").splitlines()


def test_a_killed_sweep_finds_its_jobs_and_a_branch_waits_for_its_parent(cluster, tmp_path):
    study = write_study(tmp_path, arms={"short": {}, "long": LONG, "decay": DECAY})
    sweep = sweep_on(cluster, study, "--slurm", "time=10")
    process = sweep.start()
    sweep.until(lambda: len(queue(cluster)) == 3 or "end" in sweep.events("short"))
    assert "PENDING" in " ".join(queue(cluster))
    sweep.until(lambda: sweep.tokens("long") > 10_000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    sweep.start()
    assert sweep.end() == 0, sweep.printed()
    assert "jobs of an earlier sweep go on" in sweep.printed()
    for run in ("short", "long"):
        assert sweep.events(run).count("start") == 1
        assert "resume" not in sweep.events(run)
    assert sweep.events("decay").count("branch") == 1
    assert sweep.tokens("decay") == 131_072 + 1024
    assert not queue(cluster)


def test_many_runs_of_one_job_and_none_twice(cluster, tmp_path):
    study = write_study(tmp_path, axes={"seed": {"seeds": 3}}, arms={"only": {}})
    sweep = sweep_on(cluster, study, "--runs-per-job", "3", "--slurm", "cpus_per_task=2")
    sweep.start()
    assert sweep.end() == 0, sweep.printed()
    assert sweep.printed().count("queued as") == 3
    assert (
        len(
            {
                line.split("queued as ")[1]
                for line in sweep.printed().splitlines()
                if "queued as" in line
            }
        )
        == 1
    )
    sweep.start()
    assert sweep.end() == 0
    assert sweep.printed().count("found finished") == 3


def test_the_time_limits_signal_saves_and_requeues_and_a_stopped_sweep_leaves_its_jobs(
    cluster, tmp_path
):
    study = write_study(tmp_path, arms={"endless": ENDLESS})
    sweep = sweep_on(cluster, study, "--slurm", "time=30")
    process = sweep.start()
    sweep.until(lambda: sweep.tokens("endless") > 5000)
    (job,) = {line.split()[0] for line in queue(cluster)}
    # What Slurm sends before the time limit (--signal=USR2@90).
    cluster.ask("scancel", "--signal=USR2", f"{job}.0")
    sweep.until(lambda: cluster.job(job)["Restarts"] == "1")
    sweep.until(lambda: "resume" in sweep.events("endless"))
    process.send_signal(signal.SIGINT)
    assert sweep.end() == 75, sweep.printed()
    assert "1 jobs stay in Slurm" in sweep.printed()
    assert queue(cluster)
    cluster.ask("scancel", job)
    cluster.wait("an empty queue", lambda: not queue(cluster))
    assert sweep.events("endless").count("signal") == 2


def test_a_failed_run_fails_and_its_branch_is_left_out(cluster, tmp_path):
    bad = {"settings": {"lr.peak": 1e30, "guard.nonfinite_budget": 0}}
    child = {"branch_from": "bad", "settings": {"lr.decay_tokens": 256}}
    sweep = sweep_on(cluster, write_study(tmp_path, arms={"bad": bad, "child": child}))
    sweep.start()
    assert sweep.end() == 1, sweep.printed()
    assert "bad: failed (exit code 6" in sweep.printed()
    assert "child: skipped (needs bad)" in sweep.printed()


def test_an_unknown_parameter_is_refused(cluster, tmp_path):
    sweep = sweep_on(cluster, write_study(tmp_path), "--slurm", "partitoin=gpu")
    sweep.start()
    assert sweep.end() == 2
    assert "partition" in sweep.printed()
