"""Killed at any moment and started again, a run goes on to bitwise the same losses."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.tiny_run import (
    log_of,
    run_ranks,
    start_ranks,
    tiny_config,
    trajectory,
    wait,
    wait_for_step,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> dict[int, list]:
    """Ranks -> trajectory of a run that nothing disturbed."""
    found = {}
    for ranks in (1, 2):
        config = tiny_config(folder, name=f"whole-{ranks}")
        assert run_ranks(config, ranks) == [0] * ranks
        found[ranks] = trajectory(config)
    return found


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigkill_at_random_moments(folder, uninterrupted, ranks, asynchronous):
    generator = random.Random(11 * ranks + asynchronous)
    config = tiny_config(
        folder,
        name=f"killed-{ranks}-{asynchronous}",
        checkpoint={"interval_steps": 3, "async_save": asynchronous},
    )
    kills = 0
    for step in sorted(generator.sample(range(1, len(uninterrupted[ranks])), 4)):
        pids = start_ranks(config, ranks)
        wait_for_step(config, step, pids)
        victim = generator.choice(pids)
        os.kill(victim, signal.SIGKILL)
        for pid in pids:  # as torchrun does with the others
            os.kill(pid, signal.SIGKILL)
        kills += -signal.SIGKILL in wait(pids)
    assert kills >= 3
    assert run_ranks(config, ranks) == [0] * ranks
    assert trajectory(config) == uninterrupted[ranks]
    assert log_of(config).superseded > 0, "no step was ever repeated: nothing was tested"


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_leaves_with_75(folder, uninterrupted, ranks, number):
    config = tiny_config(
        folder, name=f"signalled-{ranks}-{number}", checkpoint={"interval_steps": None}
    )
    pids = start_ranks(config, ranks)
    wait_for_step(config, 5, pids)
    os.kill(pids[-1], number)  # one rank alone is told
    assert wait(pids) == [75] * ranks
    events = [event["kind"] for event in log_of(config).events]
    assert "signal" in events
    assert "checkpoint" in events
    assert run_ranks(config, ranks) == [0] * ranks
    assert trajectory(config) == uninterrupted[ranks]


def test_damaged_newest_checkpoint_falls_back(folder, uninterrupted):
    config = tiny_config(folder, name="damaged")
    pids = start_ranks(config)
    wait_for_step(config, 14, pids)
    os.kill(pids[0], signal.SIGKILL)
    wait(pids)
    checkpoints = sorted((Path(config.output_dir) / "damaged" / "checkpoints").glob("step-*"))
    assert len(checkpoints) >= 2
    victim = next(checkpoints[-1].glob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    assert run_ranks(config) == [0]
    assert trajectory(config) == uninterrupted[1]
    fallback = [event for event in log_of(config).events if event["kind"] == "fallback"]
    assert fallback
    assert victim.name in fallback[0]["message"]


def test_two_processes_cannot_share_a_run_directory(folder, capfd):
    config = tiny_config(folder, name="taken", train={"total_tokens": 1_024_000})
    pids = start_ranks(config)
    wait_for_step(config, 1, pids)
    assert run_ranks(config) == [5]
    os.kill(pids[0], signal.SIGKILL)
    wait(pids)
    assert "in use by" in capfd.readouterr().err


def test_ranks_started_with_different_configs(folder, capfd):
    configs = [
        tiny_config(folder, name="mixed"),
        tiny_config(folder, name="mixed", lr={"peak": 2e-2}),
    ]
    assert run_ranks(configs, 2) == [2, 2]
    message = capfd.readouterr().err
    assert "ranks [1] differ from rank 0" in message
    assert not (folder / "runs" / "mixed" / "metrics.jsonl").exists()
