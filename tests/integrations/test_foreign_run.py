"""The ten-line loop of the documentation, on plain PyTorch and through accelerate."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from megascale.formats.run_log import read_run
from megascale.integrations.foreign_run import ForeignRun
from megascale.integrations.token_clock import TokenClock
from megascale.schedule.lr import LRSchedule
from tests.verbs.scene import call

TOTAL = 4096
VOCABULARY = 16


@pytest.fixture
def clock() -> TokenClock:
    lr = LRSchedule("wsd", 1e-2, TOTAL, warmup_tokens=512, decay_tokens=1024)
    return TokenClock.from_table("0: 256, 2K: 512", lr, sequence_length=32, micro_batch_size=2)


def batch_of(rows: range) -> torch.Tensor:
    """Sequences by number: each a function of its number alone."""
    steps = torch.arange(33)
    return torch.stack([(steps * (1 + number % 3) + number) % VOCABULARY for number in rows])


class Plain:
    """The model and the optimizer of the loop, bare or prepared by accelerate."""

    def __init__(self, accelerated: bool) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Embedding(VOCABULARY, 8), torch.nn.Linear(8, VOCABULARY)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1.0)
        self.backward = torch.Tensor.backward
        if accelerated:
            accelerator = Accelerator(cpu=True)
            self.model, self.optimizer = accelerator.prepare(self.model, self.optimizer)
            self.backward = accelerator.backward

    def train(self, directory: Path, clock: TokenClock, *, done: int = 0, kill: int = -1) -> int:
        """The loop of docs/integrations.md; the process is told to stop in step `kill`."""
        with ForeignRun(directory, clock, done=done) as run:
            for step in run.steps():
                total = 0.0
                for rows in step.sequences():
                    tokens = batch_of(rows)
                    logits = self.model(tokens[:, :-1])
                    loss = torch.nn.functional.cross_entropy(
                        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
                    )
                    self.backward(loss / (step.stop - step.start))
                    total += float(loss.detach())
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                for group in self.optimizer.param_groups:
                    group["lr"] = step.lr
                self.optimizer.step()
                self.optimizer.zero_grad()
                if step.number == kill:
                    os.kill(os.getpid(), signal.SIGTERM)
                run.finished(
                    step,
                    loss_sum=total,
                    loss_tokens=step.stop - step.start,
                    grad_norm=float(norm),
                )
                if stop := run.requested():
                    run.answering(stop)
                    break
        assert run.exit_code is not None
        return run.exit_code


KEYS = ("step", "tokens", "samples", "batch_tokens", "micro_batches", "lr", "loss_sum", "grad_norm")


def rows(directory: Path) -> list[tuple]:
    return [tuple(record[key] for key in KEYS) for record in read_run(directory).records]


@pytest.mark.parametrize("accelerated", [False, True], ids=["plain", "accelerate"])
def test_the_loop_follows_the_clock(clock: TokenClock, tmp_path: Path, accelerated: bool) -> None:
    assert Plain(accelerated).train(tmp_path / "run", clock) == 0
    found = rows(tmp_path / "run")
    assert [row[1] for row in found] == [step.stop for step in clock]
    assert [row[3] for row in found] == [256] * 8 + [512] * 4
    assert [row[5] for row in found] == [step.lr for step in clock]
    assert found[-1][6] / 512 < found[0][6] / 256
    changes = [e for e in read_run(tmp_path / "run").events if e.get("kind") == "batch_change"]
    assert [change["tokens"] for change in changes] == [2048]


def test_a_signal_ends_the_loop_and_the_log_goes_on(clock: TokenClock, tmp_path: Path) -> None:
    Plain(False).train(tmp_path / "whole", clock)
    cut = Plain(False)
    assert cut.train(tmp_path / "cut", clock, kill=5) == 75
    assert len(rows(tmp_path / "cut")) == 6
    assert cut.train(tmp_path / "cut", clock, done=6) == 0
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_our_verbs_read_the_log(clock: TokenClock, tmp_path: Path, capsys) -> None:
    Plain(False).train(tmp_path / "run", clock)
    assert call(["runs", "check", str(tmp_path / "run"), "--no-cache"]) == 0
    assert call(["runs", "show", str(tmp_path / "run"), "--no-cache"]) == 0
    assert "512" in capsys.readouterr().out


def test_steps_are_logged_in_order(clock: TokenClock, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="step 3 finished, and step 0 is due"),
        ForeignRun(tmp_path / "run", clock) as run,
    ):
        run.finished(clock[3], loss_sum=1.0, loss_tokens=1, grad_norm=1.0)
