"""Checkpoints by the clock, and a process that ends after a stated time."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from megascale.train import saver
from megascale.train.checkpoint import list_checkpoints
from tests.tiny_run import MODEL, log_of, run_ranks, tiny_config, trajectory

NO_STEPS = {"interval_steps": None, "keep_last": 99}


def dense(folder: Path, name: str, **sections):
    return tiny_config(folder, name=name, model=MODEL, **sections)


def checkpoints_of(config) -> list[int]:
    found = list_checkpoints(Path(config.output_dir) / config.name / "checkpoints")
    return [saved.step for saved in found]


class Clock:
    """Stands for the module `time`: a minute passes with every question."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 60.0
        return self.now


def test_a_checkpoint_is_due_by_the_clock(tmp_path):
    config = dense(tmp_path, "clock", checkpoint=NO_STEPS | {"interval_minutes": 4.5})

    def minutes() -> None:
        saver.time = Clock()

    assert run_ranks(config, prepare=minutes) == [0]
    steps = checkpoints_of(config)
    assert len(steps) > 3
    assert len({later - before for before, later in pairwise(steps[:-1])}) == 1
    assert steps[-1] == log_of(config).records[-1]["step"]


def test_ranks_with_other_clocks_save_together(tmp_path):
    """Only rank 1's clock runs."""
    config = dense(
        tmp_path,
        "clocks",
        checkpoint=NO_STEPS | {"interval_minutes": 4.5},
        batch={"schedule": "0: 256"},
    )

    def minutes() -> None:
        if os.environ.get("RANK") == "1":
            saver.time = Clock()

    assert run_ranks(config, 2, prepare=minutes) == [0, 0]
    assert len(checkpoints_of(config)) > 3


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_process_ends_after_its_minutes_and_the_next_goes_on(tmp_path, ranks):
    batch = {"schedule": "0: 1024"}
    whole = dense(tmp_path, "whole", batch=batch)
    assert run_ranks(whole, ranks) == [0] * ranks
    # Shorter than a step: every process makes exactly one, and none makes none.
    config = dense(tmp_path, "parts", batch=batch, train={"exit_after_minutes": 1e-6})
    codes = [run_ranks(config, ranks) for _ in range(10)]
    assert codes[:9] == [[75] * ranks] * 9
    assert codes[9] == [0] * ranks
    assert trajectory(config) == trajectory(whole)
    signals = [e["message"] for e in log_of(config).events if e["kind"] == "signal"]
    assert signals == ["1e-06 minutes (train.exit_after_minutes): saving"] * 9
