"""Wall clock between rows, from what each program logs of it."""

from __future__ import annotations

import json

import pytest

from megascale.curves.records import split_runs
from megascale.runs.readers import csv, megatron, mlperf, nanochat, nanogpt, own, tensorboard, wandb
from megascale.runs.readers.base import ReadOptions
from tests.formats.test_run_log import record
from tests.runs.readers.helpers import read_as
from tests.runs.readers.test_tabular import mllog
from tests.runs.readers.test_tensorboard import event


def iteration(step: int, time: str) -> str:
    return (
        f" iteration {step}/100 | consumed samples: {step * 8} | {time} | learning rate: 1.0E-3 | "
        "global batch size: 8 | lm loss: 2.5E+00 |\n"
    )


@pytest.mark.parametrize(
    "time",
    [
        "elapsed time per iteration (ms): 500.0",
        "elapsed time per iteration (s): 0.50",
        "elapsed time per iteration (ms): 500.0/712.7",
    ],
)
def test_megatron_times_the_iterations_since_the_row_before(time):
    found = read_as(megatron, "".join(iteration(step, time) for step in (110, 120, 130, 120, 125)))
    # The first row of a resumed log stands for the usual interval, as does the one of a restart.
    assert found.table["step"].to_list() == [110, 120, 125]
    assert found.table["seconds"].to_list() == pytest.approx([5.0, 5.0, 2.5])
    bare = read_as(megatron, iteration(10, "throughput: 3"))
    assert bare.table["seconds"].to_list() == [None]


def test_own_records_say_their_seconds():
    header = '{"schema":"megascale.run/1","name":"x"}\n'
    text = header + "".join(json.dumps(record(step) | {"seconds": 2.5}) + "\n" for step in (1, 2))
    assert read_as(own, text).table["seconds"].to_list() == [2.5, 2.5]


def test_clocks_since_the_start_become_differences():
    text = "".join(
        f"step:{step}/9 {kind}:4.0 train_time:{step * 100}ms step_avg:1ms\n"
        for step, kind in ((1, "val_loss"), (2, "train_loss"), (3, "val_loss"), (5, "train_loss"))
    )
    table = read_as(nanogpt, text).table.sort("step")
    assert table["seconds"].to_list() == pytest.approx([0.1, 0.2, 0.2, 0.3])
    rows = [{"_step": step, "_runtime": step * 1.5, "loss": 4.0} for step in (1, 2, 4)]
    seconds = read_as(wandb, json.dumps(rows)).table["seconds"].to_list()
    assert seconds == pytest.approx([1.5, 1.5, 3.0])
    columns = (("runtime", "clock"),)
    table = read_as(csv, "step,clock,loss\n1,10,4\n2,7,4\n3,9,4\n", ReadOptions(columns)).table
    assert table["seconds"].to_list() == [10.0, None, 2.0]  # the clock was set back


def test_console_tensorboard_and_mlperf():
    text = "step 00001/9 (1.00%) | loss: 5.1 | lrm: 1 | dt: 1,250.0ms | tok/sec: 1,234 |\n"
    assert read_as(nanochat, text).table["seconds"].to_list() == [1.25]
    events = event(1, "loss", 4.0) + event(2, "loss", 3.0)  # both at the same time
    assert read_as(tensorboard, events).table["seconds"].to_list() == [None, 0.0]
    logged = mllog("run_start", None) + "".join(
        mllog("eval_accuracy", 4.0, samples_count=count).replace(
            '"time_ms": 1,', f'"time_ms": {at},'
        )
        for count, at in ((64, 2001), (128, 5001))
    )
    assert read_as(mlperf, logged).table["seconds"].to_list() == pytest.approx([2.0, 3.0])


def test_the_clock_of_a_run():
    text = "run,step,tokens,seconds,loss\n" + "".join(
        f"{run},{step},{step * 100},{seconds},4\n"
        for run, clock in (("a", (1, 2, 3)), ("b", ("", 2, 3)), ("c", (1, "", 3)), ("d", ("",) * 3))
        for step, seconds in enumerate(clock, start=1)
    )
    clocks = [records.clock() for records in split_runs(read_as(csv, text).table)]
    assert [None if clock is None else clock[1].tolist() for clock in clocks] == [
        [1, 3, 6],
        [0, 2, 5],  # it begins at the first record
        None,
        None,
    ]
