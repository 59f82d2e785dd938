"""Runs that come out equal once their batches are realised are refused before any starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from megascale.errors import ConfigError
from megascale.sweep.expand import expand
from megascale.sweep.plan import RunPlan, plan_runs
from megascale.sweep.study import load_study
from tests.sweep.small_study import write_study
from tests.verbs.scene import call


def planned(path: Path) -> list[RunPlan]:
    at = load_study(path).at("smoke")
    return plan_runs(expand(at, path, path.parent / "out"), at.block)


def arms(folder: Path, first: dict, second: dict) -> Path:
    return write_study(folder, arms={"first": {"settings": first}, "second": {"settings": second}})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"batch.schedule": "0: 256"}, {"batch.schedule": "0: 270"}),
        ({"batch.schedule": "0: 256"}, {"batch.schedule": "0: 256, 1024: 260"}),
        (
            {"batch.schedule": "0: 256"},
            {"batch.schedule": "0: 256", "batch.lr_coupling": "sqrt"},
        ),
        (
            {"batch.schedule": "0: 256"},
            {"batch.schedule": "0: 250", "train.micro_batch_size": 1},
        ),
    ],
    ids=["rounded", "a change that is none", "a coupling that couples nothing", "micro-batches"],
)
def test_runs_that_come_out_equal_are_refused(tmp_path: Path, first: dict, second: dict) -> None:
    with pytest.raises(ConfigError, match=r"run = second: trains the same as first: batches 256"):
        planned(arms(tmp_path, first, second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"batch.schedule": "0: 256"}, {"batch.schedule": "0: 320"}),
        ({"batch.schedule": "0: 256"}, {"batch.schedule": "0: 256", "seed": 5}),
        ({"batch.schedule": "0: 256"}, {"batch.schedule": "0: 256", "lr.peak": 3e-3}),
        ({"train.micro_batch_size": 1}, {"train.micro_batch_size": 2}),
    ],
    ids=["batch", "seed", "rate", "micro-batches alone"],
)
def test_runs_that_differ_are_kept(tmp_path: Path, first: dict, second: dict) -> None:
    assert len(planned(arms(tmp_path, first, second))) == 2


def test_the_sweep_starts_nothing(tmp_path: Path, capsys) -> None:
    path = arms(tmp_path, {"batch.schedule": "0: 256"}, {"batch.schedule": "0: 260"})
    assert call(["sweep", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "leave one of them out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
