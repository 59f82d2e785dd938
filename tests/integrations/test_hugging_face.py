"""transformers' Trainer on a token clock: our trainer's batches, rates and losses, step by step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainerCallback

from megascale.config import RunConfig, dump_yaml
from megascale.errors import ConfigError, ScheduleError
from megascale.formats.run_log import RunData, read_run
from megascale.integrations.token_clock import TokenClock
from tests.conftest import REPOSITORY
from tests.integrations.hf_scene import make_config, make_trainer
from tests.tiny_run import log_of, run_ranks


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return make_config(tmp_path)


KEYS = ("step", "tokens", "samples", "batch_tokens", "micro_batches", "loss_tokens", "lr")


def columns(run: RunData, keys: tuple[str, ...]) -> list[tuple]:
    return [tuple(record[key] for key in keys) for record in run.records]


def assert_alike(ours: RunData, theirs: RunData) -> None:
    """Losses and gradient norms agree within rounding; everything counted is equal."""
    for mine, other in zip(ours.records, theirs.records, strict=True):
        assert other["loss_sum"] == pytest.approx(mine["loss_sum"], rel=2e-5)
        assert other["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)


def test_it_is_our_own_trainer_step_by_step(config: RunConfig, tmp_path: Path) -> None:
    assert run_ranks(config) == [0]
    ours = log_of(config)
    hf = make_trainer(config, tmp_path / "hf")
    hf.train()
    assert hf.exit_code == 0
    theirs = read_run(tmp_path / "hf")
    assert columns(theirs, KEYS) == columns(ours, KEYS)
    assert len({record["batch_tokens"] for record in ours.records}) == 2
    assert len({record["lr"] for record in ours.records}) > 5
    assert_alike(ours, theirs)
    kinds = [event["kind"] for event in theirs.events if "kind" in event]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert "batch_change" in kinds


@pytest.mark.slow
def test_two_ranks_take_one_batch(config: RunConfig, tmp_path: Path) -> None:
    one = make_trainer(config, tmp_path / "one")
    one.train()
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(config))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = REPOSITORY / "tests/integrations/rank_of_two.py"
    subprocess.run(
        [sys.executable, *launcher, script, file, tmp_path / "two"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    one_log, two_log = read_run(tmp_path / "one"), read_run(tmp_path / "two")
    same = tuple(key for key in KEYS if key != "micro_batches")
    assert columns(two_log, same) == columns(one_log, same)
    assert [r["micro_batches"] * 2 for r in two_log.records] == [
        r["micro_batches"] for r in one_log.records
    ]
    assert_alike(one_log, two_log)


class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 18:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_saves_and_the_run_goes_on(config: RunConfig, tmp_path: Path) -> None:
    whole = make_trainer(config, tmp_path / "whole")
    whole.train()
    first = make_trainer(config, tmp_path / "cut")
    first.callback_handler.callbacks.insert(0, Kill())
    first.train()
    assert first.exit_code == 75
    cut = read_run(tmp_path / "cut")
    assert cut.records[-1]["step"] == 18
    assert {"signal", "checkpoint"} <= {event.get("kind") for event in cut.events}
    second = make_trainer(config, tmp_path / "cut")
    second.train(resume_from_checkpoint=True)
    assert second.exit_code == 0
    same = (*KEYS, "loss_sum", "grad_norm")
    assert columns(read_run(tmp_path / "cut"), same) == columns(read_run(tmp_path / "whole"), same)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps = 2"),
        ({"ignore_data_skip": True}, "ignore_data_skip = True"),
    ],
)
def test_arguments_against_the_clock_are_refused(
    config: RunConfig, tmp_path: Path, arguments: dict, key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        make_trainer(config, tmp_path / "hf", **arguments)


def test_a_clock_for_other_ranks_is_refused(config: RunConfig, tmp_path: Path) -> None:
    hf = make_trainer(config, tmp_path / "hf")
    hf.clock = TokenClock.from_config(config, data_parallel=2)
    with pytest.raises(ConfigError, match="laid out for 2 ranks"):
        hf._check()
    with pytest.raises(ScheduleError, match="was not laid out for 4"):
        TokenClock(hf.clock.batch, hf.clock.lr, data_parallel=4)
