"""The launcher on one node: restarts, signals, and what it exits with."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.conftest import REPOSITORY
from tests.multiprocess.launching import end, launch, logged_step, until, workers
from tests.tiny_run import log_of, run_ranks, tiny_config, trajectory


@pytest.mark.slow
def test_max_restarts_resumes_a_killed_worker_bitwise(tmp_path):
    whole = tiny_config(tmp_path, name="whole")
    assert run_ranks(whole, 2) == [0, 0]
    config = tiny_config(tmp_path, name="restarted")
    launcher = launch(config, tmp_path / "output.txt", environment={"NPROC_PER_NODE": "2"})
    try:
        until(lambda: logged_step(config) >= 8, launcher)
        os.kill(workers(launcher)[1], signal.SIGKILL)
        assert launcher.wait(200) == 0, (tmp_path / "output.txt").read_text()[-3000:]
    finally:
        end([launcher])
    assert trajectory(config) == trajectory(whole)
    kinds = [event["kind"] for event in log_of(config).events]
    assert kinds.count("resume") == 1


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_ends_all_workers(tmp_path):
    config = tiny_config(tmp_path, name="stopped", train={"total_tokens": 1_024_000})
    launcher = launch(config, tmp_path / "output.txt", environment={"NPROC_PER_NODE": "2"})
    try:
        until(lambda: logged_step(config) >= 3, launcher)
        pids = workers(launcher)
        told = time.monotonic()
        launcher.send_signal(signal.SIGTERM)
        code = launcher.wait(60)
        assert time.monotonic() - told < 30
    finally:
        end([launcher])
    assert code == 75
    assert len(pids) == 2
    said = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in said
    assert "FAILED" not in said
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    events = log_of(config).events
    assert [event["kind"] for event in events[-3:]] == ["signal", "checkpoint", "end"]
    assert events[-1]["exit_code"] == 75
    assert events[-2]["tokens"] == log_of(config).records[-1]["tokens"]


@pytest.mark.slow
def test_a_planned_end_is_not_started_again(tmp_path):
    """Every rank leaves with 75 by itself, which plain torchrun takes for a failure."""
    config = tiny_config(tmp_path, name="planned", train={"total_tokens": 1_024_000})
    launcher = launch(config, tmp_path / "output.txt", environment={"NPROC_PER_NODE": "2"})
    try:
        until(lambda: logged_step(config) >= 3, launcher)
        os.kill(workers(launcher)[1], signal.SIGUSR1)
        assert launcher.wait(60) == 75
    finally:
        end([launcher])
    said = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in said
    assert "FAILED" not in said
    kinds = [event["kind"] for event in log_of(config).events]
    assert kinds.count("start") == 1
    assert "resume" not in kinds


@pytest.mark.slow
def test_a_rank_that_dies_is_named_in_one_line(tmp_path):
    config = tiny_config(tmp_path, name="dies", train={"total_tokens": 1_024_000})
    environment = {"NPROC_PER_NODE": "2", "MAX_RESTARTS": "0"}
    launcher = launch(config, tmp_path / "output.txt", environment=environment)
    try:
        until(lambda: logged_step(config) >= 3, launcher)
        pid = workers(launcher)[1]
        os.kill(pid, signal.SIGKILL)
        assert launcher.wait(60) == 128 + signal.SIGKILL
    finally:
        end([launcher])
    said = (tmp_path / "output.txt").read_text()
    assert f"megascale: rank 1 (process {pid} of this node) died of SIGKILL" in said


def test_the_launcher_says_what_it_needs():
    script = str(REPOSITORY / "launch/torchrun.sh")
    shown = subprocess.run(["bash", script], check=False, capture_output=True, text=True)
    assert shown.returncode == 2
    assert "NNODES" in shown.stdout + shown.stderr
    missing = subprocess.run(
        ["bash", script, "config.yaml"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"NNODES": "2"},
    )
    assert missing.returncode != 0
    assert "HEAD_NODE" in missing.stderr
