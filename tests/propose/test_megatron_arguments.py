"""Megatron-LM's command line as a schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megascale.errors import ConfigError, ScheduleError
from megascale.fitting.history import History
from megascale.propose.export import export
from megascale.propose.megatron_arguments import read_megatron_arguments
from megascale.schedule.batch import build_batch_schedule
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import BatchPoint

FIXED = "--seq-length 1000 --global-batch-size 10 --train-samples 10000 --lr 1e-3"


def rate(history: History, tokens: float) -> float:
    """The learning rate at a token count."""
    return float(np.interp(tokens, history.tokens, np.append(history.lr_start, history.lr_end[-1])))


@pytest.mark.parametrize(
    "lr",
    [
        LRSchedule("constant", 1e-3, 10**7, 500_000),
        LRSchedule("cosine", 1e-3, 10**7, 500_000, 0.0, 9_500_000, "cosine", 1e-4),
        *(
            LRSchedule("wsd", 1e-3, 10**7, 500_000, 0.0, 2_000_000, shape, 1e-4)
            for shape in ("linear", "cosine", "1-sqrt")
        ),
    ],
)
def test_what_is_exported_is_read_back(lr: LRSchedule) -> None:
    """The exporter's arguments are those of Megatron's own code (test_export_megatron)."""
    schedule = build_batch_schedule(
        [BatchPoint(0, 10_000), BatchPoint(4_000_000, 20_000)],
        total_tokens=10**7,
        sequence_length=1000,
        micro_batch_size=1,
        data_parallel=1,
        rounding="exact",
    )
    text = export(schedule, "megatron", lr=lr, lr_coupling="constant")
    run = read_megatron_arguments(f"{text}\n--seq-length 1000 --lr 1e-3", "exported")
    assert run.history.total_tokens == 10**7
    changes = np.flatnonzero(np.diff(run.history.batch, prepend=0))
    assert run.history.batch[changes].tolist() == [10_000, 20_000]
    assert run.history.tokens[changes].tolist() == [0, 4_000_000]
    for tokens in np.linspace(0, 10**7, 101):
        assert rate(run.history, tokens) == pytest.approx(lr.at(tokens), abs=2e-5)


def test_a_script_of_a_shell_is_read() -> None:
    text = """
    #!/bin/bash
    torchrun --nproc-per-node 8 pretrain_gpt.py \\
      --seq-length 1000 --train-iters 1000 \\
      --global-batch-size 10 --micro-batch-size 1 \\  # of a rank
      --lr 1e-3 --lr-decay-style constant --weight-decay 0.1 \\
      --optimizer adam --adam-beta2=0.95
    """.replace("\\  # of a rank", "\\")
    run = read_megatron_arguments(text)
    assert run.history.total_tokens == 10**7
    assert set(run.history.batch) == {10_000}
    assert run.settings.weight_decay == 0.1
    assert run.settings.sequence_length == 1000
    assert run.settings.optimizer == "adamw with beta1 0.9, beta2 0.95"


def test_the_ramp_that_newer_releases_pass_over() -> None:
    run = read_megatron_arguments(f"{FIXED} --rampup-batch-size 2 4 4000")
    changes = np.flatnonzero(np.diff(run.history.batch, prepend=0))
    assert run.history.batch[changes].tolist() == [2_000, 6_000, 10_000]


@pytest.mark.parametrize(
    ("more", "at", "value"),
    [
        ("", 5_000_000, 5e-4),
        ("--min-lr 1e-4", 10_000_000, 1e-4),
        ("--lr-decay-samples 5000 --min-lr 1e-4", 9_000_000, 1e-4),
        ("--lr-warmup-samples 1000 --lr-warmup-init 1e-4", 500_000, 5.5e-4),
        ("--lr-warmup-fraction 0.1 --lr-decay-style constant", 500_000, 5e-4),
        ("--lr-warmup-iters 100 --lr-decay-style inverse-square-root", 4_000_000, 5e-4),
        ("--lr-decay-style WSD --lr-wsd-decay-samples 2000", 9_000_000, 1e-3 * (math.sqrt(2) - 1)),
        ("--lr-decay-style WSD --lr-wsd-decay-iters 200 --lr-wsd-decay-style linear", 9_000_000,
         5e-4),
    ],
)  # fmt: skip
def test_learning_rates_by_megatrons_formulas(more: str, at: float, value: float) -> None:
    run = read_megatron_arguments(f"{FIXED} {more}")
    assert rate(run.history, at) == pytest.approx(value, rel=2e-3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (FIXED + " --decoupled-lr 1e-4", "--decoupled-lr = 1e-4: may change batch or learning"),
        (FIXED + " --decrease-batch-size-if-needed", "--decrease-batch-size-if-needed"),
        (FIXED + " --override-opt_param-scheduler", "--override-opt_param-scheduler"),
        (FIXED.replace("1e-3", "$LR"), "is a shell variable"),
        (FIXED.replace("1e-3", "fast"), "--lr = fast: must be a number"),
        (FIXED.replace("--lr 1e-3", ""), "--lr = None"),
        (FIXED.replace("--train-samples 10000", ""), "--train-samples = None"),
        (FIXED.replace("--global-batch-size 10", ""), "--global-batch-size = None"),
        (FIXED + " --train-iters 5", "Megatron takes it or --train-samples"),
        (FIXED + " --step-batch-size-schedule '0:4'", "--global-batch-size = 10"),
        (FIXED + " --min-lr 1", "--min-lr = 1"),
        (FIXED + " --lr-decay-style polynomial", "must be one of constant, linear"),
        (FIXED + " --lr-decay-style WSD", "WSD needs it"),
        (FIXED + " --lr-warmup-samples 10000", "must be below the decay's length"),
        ("--seq-length 1000 --train-iters 9 --lr 1 --step-batch-size-schedule '0:1 2000:2'",
         "--train-iters = 9: iterations are converted"),
        ("--seq-length 1000 --train-samples 9 --lr 1 --step-batch-size-schedule '0:1 9000:2'",
         "at or after the end of the run"),
        ("--seq-length '", "cannot be split"),
    ],
)  # fmt: skip
def test_refusals(text: str, says: str) -> None:
    with pytest.raises((ConfigError, ScheduleError)) as failure:
        read_megatron_arguments(text)
    assert says in str(failure.value)
