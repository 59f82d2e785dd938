"""Sweeps on a real Ray cluster of this machine: branches, kills, signals."""

from __future__ import annotations

import os
import signal
import time

import pytest

from megascale.train.rundir import in_use_by
from tests.sweep.cluster_sweeps import ClusterSweep
from tests.sweep.small_study import write_study

pytest.importorskip("ray", reason="pip install 'megascale[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LONG = {"settings": {"train.total_tokens": 131_072, "checkpoint.interval_steps": 50}}
DECAY = {"branch_from": "long", "settings": {"lr.decay_tokens": 1024}}


def test_a_killed_sweep_goes_on_and_a_branch_waits_for_its_parent(tmp_path):
    study = write_study(tmp_path, arms={"short": {}, "long": LONG, "decay": DECAY})
    sweep = ClusterSweep(study, "--on", "ray")
    process = sweep.start()
    sweep.until(lambda: sweep.tokens("long") > 20_000 and "end" in sweep.events("short"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while in_use_by(sweep.folder / "long") is not None:
        assert time.monotonic() < deadline, "the run outlived its sweep"
        time.sleep(0.2)
    sweep.start()
    assert sweep.end() == 0, sweep.printed()
    for run in ("short", "long"):
        assert sweep.events(run).count("start") == 1
    assert sweep.events("short").count("resume") == 0
    assert sweep.events("long").count("resume") == 1
    assert sweep.events("decay").count("branch") == 1
    assert sweep.tokens("decay") == 131_072 + 1024
    assert "Runs compared" in sweep.printed()


def test_a_signal_lets_the_runs_save_and_a_failed_one_stays_failed(tmp_path):
    endless = {"settings": {"train.total_tokens": 39_321_600, "checkpoint.interval_steps": None}}
    bad = {"settings": {"lr.peak": 1e30, "guard.nonfinite_budget": 0}}
    child = {"branch_from": "bad", "settings": {"lr.decay_tokens": 256}}
    study = write_study(tmp_path, arms={"bad": bad, "child": child, "endless": endless})
    sweep = ClusterSweep(study, "--on", "ray")
    process = sweep.start()
    sweep.until(lambda: "bad: failed (exit code 6" in sweep.printed())
    sweep.until(lambda: "child: skipped (needs bad)" in sweep.printed())
    sweep.until(lambda: sweep.tokens("endless") > 5000)
    process.send_signal(signal.SIGINT)
    assert sweep.end() == 75, sweep.printed()
    assert sweep.events("endless").count("signal") == 1
    assert len(list((sweep.folder / "endless" / "checkpoints").glob("step-*"))) == 1


def test_more_cores_than_a_node_has_are_refused(tmp_path):
    sweep = ClusterSweep(write_study(tmp_path), "--on", "ray", "--cores", "4096")
    sweep.start()
    assert sweep.end() == 2
    assert "no node of the Ray cluster has more than" in sweep.printed()
