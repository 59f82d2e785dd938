"""Killed at any moment and started again, a run goes on to bitwise the same losses."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from megascale.errors import CheckpointError
from megascale.train import loop
from megascale.train.checks import check_run
from tests.tiny_run import (
    log_of,
    run_ranks,
    signal_at,
    start_ranks,
    tiny_config,
    trajectory,
    wait,
    wait_for_step,
    write_source,
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


def test_checkpoints_that_were_taken_away_are_missed(folder):
    """Starting from token 0 beside a log of more is never what was meant."""
    config = tiny_config(folder, name="lost", checkpoint={"interval_steps": 8})
    assert run_ranks(config, prepare=signal_at(12, signal.SIGTERM)) == [75]
    check_run(config, 1)
    checkpoints = Path(config.output_dir) / "lost" / "checkpoints"
    newest = sorted(checkpoints.glob("step-*"))[-1].name
    shutil.rmtree(checkpoints)
    with pytest.raises(CheckpointError, match=f"the log says that {newest} was written at"):
        check_run(config, 1)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_in_an_evaluation_ends_it(folder, ranks):
    """Nothing that is due is waited for: no evaluation is logged, and one checkpoint is saved."""
    held = {"held": {"path": str(write_source(folder / f"held-{ranks}", seed=9))}}
    data = tiny_config(folder).data.model_dump(mode="json") | {"validation": held}
    config = tiny_config(
        folder,
        name=f"evaluating-{ranks}",
        data=data,
        train={"eval_interval_tokens": 1024, "eval_tokens": 2048},
        checkpoint={"interval_steps": 4},
    )

    def prepare() -> None:
        original = loop.evaluate

        def evaluating(*arguments, **options):
            if int(os.environ.get("RANK", "0")) == ranks - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments, **options)

        loop.evaluate = evaluating

    assert run_ranks(config, ranks, prepare=prepare) == [75] * ranks
    log = log_of(config)
    kinds = [event["kind"] for event in log.events]
    assert log.records[-1]["tokens"] == 1024
    assert "evaluation" not in kinds
    assert kinds.count("checkpoint") == 1
    assert run_ranks(config, ranks) == [0] * ranks
    assert log_of(config).records[-1]["tokens"] == config.train.total_tokens
