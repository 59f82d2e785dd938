"""A rank that stands still: the others name it and its host, and in the end give the run up."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

import pytest

from tests.tiny_run import log_of, run_ranks, start_ranks, tiny_config, trajectory, wait

HOST = socket.gethostname()


def stopped_at(step: int, rank: int) -> Callable[[], None]:
    """For `prepare`: the rank's whole process stops as it begins the step after `step`."""
    from megascale.train import loop

    def prepare() -> None:
        original = loop.accumulate_gradients

        def accumulate(parallel, mesh, optimizer, loaded, **rest):
            if loaded.step == step and mesh.rank == rank:
                os.kill(os.getpid(), signal.SIGSTOP)
            return original(parallel, mesh, optimizer, loaded, **rest)

        loop.accumulate_gradients = accumulate

    return prepare


@pytest.fixture(autouse=True)
def ended():
    """Whatever a test leaves stopped is killed."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def said(capfd: pytest.CaptureFixture[str], words: str, seconds: float = 60) -> str:
    """What was printed, once it holds some words."""
    found, until = "", time.monotonic() + seconds
    while words not in found:
        assert time.monotonic() < until, found
        time.sleep(0.05)
        found += capfd.readouterr().err
    return found


def test_the_others_name_the_rank_and_its_host(tmp_path, capfd, ended):
    """Rank 1 is stopped and goes on again: the run ends as if nothing had been."""
    whole = tiny_config(tmp_path, name="whole")
    assert run_ranks(whole, 2) == [0, 0]
    config = tiny_config(tmp_path, name="stopped", parallel={"stalled_seconds": 1.0})
    pids = start_ranks(config, 2, prepare=stopped_at(5, 1))
    ended += pids
    found = said(capfd, "stands still")
    os.kill(pids[1], signal.SIGCONT)
    assert wait(pids) == [0, 0]
    assert f"megascale: rank 0 on host {HOST}: no step for " in found
    assert f"rank 1 on host {HOST} stands still" in found
    warnings = [e["message"] for e in log_of(config).events if e["kind"] == "warning"]
    assert any(f"rank 1 on host {HOST} stands still" in text for text in warnings)
    assert trajectory(config) == trajectory(whole)


def test_after_the_time_out_the_run_is_given_up_with_one_message(tmp_path, capfd, ended):
    parallel = {"stalled_seconds": 60.0, "timeout_minutes": 0.05}
    config = tiny_config(tmp_path, name="given-up", parallel=parallel)
    pids = start_ranks(config, 2, prepare=stopped_at(5, 1))
    ended += pids
    found = said(capfd, "has lost another one")
    os.kill(pids[1], signal.SIGKILL)
    assert wait(pids) == [69, -signal.SIGKILL]
    assert f"ranks = 2: rank 0 on host {HOST} has lost another one" in found
    assert "within 0.05 minutes (parallel.timeout_minutes)" in found
    assert "Traceback" not in found
    again = start_ranks(config, 2)
    assert wait(again) == [0, 0]


def test_the_rank_that_holds_the_store_stands_still(tmp_path, capfd, ended):
    config = tiny_config(tmp_path, name="first", parallel={"stalled_seconds": 1.0})
    pids = start_ranks(config, 2, prepare=stopped_at(5, 0))
    ended += pids
    found = said(capfd, "does not answer")
    os.kill(pids[0], signal.SIGCONT)
    assert wait(pids) == [0, 0]
    assert "rank 0, its launcher or its node has stopped or cannot be reached" in found
