"""What the counters of tables and event files count."""

from __future__ import annotations

import json

import pytest

from megascale.errors import DataError
from megascale.runs.readers import csv, golden, jsonl, tensorboard, wandb
from megascale.runs.readers.base import ReadOptions
from megascale.runs.readers.counters import are_per_rank, end_intervals
from megascale.runs.table import load_runs
from tests.runs.readers.helpers import kinds, read_as, recognised
from tests.runs.readers.test_tensorboard import event


def test_tokens_of_one_rank_are_not_those_of_all():
    text = "iter,loss,step,tokens,total_tokens\n4,5.5,3,100,800\n8,5.0,7,200,1600\n"
    found = read_as(csv, text)
    assert found.table.select("step", "tokens").rows() == [(None, 800), (None, 1600)]
    rows = [{"_step": n - 1, "iter": n, "step": n // 4, "loss": 9 - n / 8} for n in (4, 8)]
    rows = [row | {"tokens": row["iter"] * 25, "total_tokens": row["iter"] * 200} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    found = read_as(wandb, json.dumps(rows))
    assert found.table.select("step", "tokens").rows() == [(1, 800), (2, 1600)]
    assert read_as(jsonl, text).table.equals(found.table)
    plan = "step,loss,tokens,total_tokens\n1,5,100,90000\n2,4,200,90000\n"
    assert read_as(csv, plan).table["tokens"].to_list() == [100, 200]


def test_a_constant_share_is_one_ranks():
    assert are_per_rank([(1, 8), (2, 16)])
    assert not are_per_rank([(1, 16), (2, 16)])  # a plan
    assert not are_per_rank([(1, 8), (2, 24)])
    assert not are_per_rank([(3, 8)])
    assert not are_per_rank([(None, 8)])


@pytest.mark.parametrize(
    ("header", "steps", "right"),
    [
        ("step,loss", [0, 1, 2], [1, 2, 3]),
        ("step,loss", [1, 2, 3], [1, 2, 3]),
        ("step,loss", [49, 99, 149], [50, 100, 150]),
        ("step,loss", [1, 11, 21], [1, 11, 21]),
        ("step,loss", [1, 3, 5], [1, 3, 5]),
        ("trainer/global_step,loss", [7, 12], [8, 13]),
        ("step,train_loss_step,train_loss_epoch", [7, 12], [8, 13]),
    ],
)
def test_steps_that_are_numbered_from_zero(header, steps, right):
    rest = "," * (header.count(",") - 1)
    text = header + "\n" + "".join(f"{step},{9 - step / 999}{rest}\n" for step in steps)
    found = read_as(csv, text, ReadOptions(batch_tokens=100))
    assert found.table["step"].to_list() == right
    assert found.table["tokens"].to_list() == [step * 100 for step in right]
    assert ("derived" in kinds(found)) == (steps != right)


def test_a_row_before_training_is_at_step_0():
    text = "step,tokens,loss\n0,0,10\n1,100,9\n"
    assert read_as(csv, text).table["step"].to_list() == [0, 1]
    evaluated = "step,train/loss,val/loss\n0,10,10\n100,9,9\n"  # both sets, before the step
    assert read_as(csv, evaluated).table["step"].to_list() == [0, 0, 100, 100]
    assert not end_intervals([49, 99])


def test_columns_can_be_stated_for_json_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": n, "mean_nll": 4 - n / 10, "seen": n * 70} for n in (1, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ReadOptions(columns=(("loss", "mean_nll"), ("tokens", "seen")))
    loaded = load_runs(path, options=options, cache=False)
    assert loaded.runs[0].format == "jsonl"
    assert loaded.table.select("step", "tokens", "loss").rows() == [(1, 70, 3.9), (2, 140, 3.8)]
    path.write_text(json.dumps(rows))
    assert load_runs(path, options=options, cache=False).runs[0].format == "wandb"
    with pytest.raises(DataError, match="no format that is recognised"):
        load_runs(path, cache=False)


def test_what_a_trainer_of_llama_factory_logs():
    rows = [
        {"current_steps": 4, "total_steps": 40, "loss": 2.5, "lr": 1e-4, "epoch": 0.1},
        {"current_steps": 8, "total_steps": 40, "eval_loss": 2.25, "epoch": 0.2},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    found = read_as(jsonl, text)
    assert recognised(text) == "jsonl"
    columns = ("step", "loss", "loss_kind", "lr")
    assert found.table.select(columns).rows() == [
        (4, 2.5, "interval_mean", 1e-4),
        (8, 2.25, "validation", None),
    ]
    assert found.runs[0].extra["total_steps"] == 40


@pytest.mark.parametrize("name", ["smooth loss", "loss_ema", "train/running_loss", "ema/loss"])
def test_a_smoothed_loss_is_called_so(name):
    options = ReadOptions(columns=(("loss", name),))
    assert read_as(csv, f"step,{name}\n1,2\n2,1\n", options).table["loss_kind"][0] == "ema"
    assert read_as(csv, "step,schema loss\n1,2\n", ReadOptions(columns=(("loss", "schema loss"),)))
    plain = ReadOptions(columns=(("loss", "schema loss"),))
    found = read_as(csv, "step,schema loss\n1,2\n", plain)
    assert found.table["loss_kind"][0] == "instantaneous"


def test_golden_values_as_a_list_begin_with_step_1():
    """Every third value logged, from the first: steps 1, 4 and 7."""
    entry = {"start_step": 0, "end_step": 9, "step_interval": 3, "values": [9.5, 9.0, 8.5]}
    text = json.dumps({"lm loss": entry})
    assert recognised(text) == "megatron-golden"
    assert read_as(golden, text).table.select("step", "loss").rows() == [
        (1, 9.5),
        (4, 9.0),
        (7, 8.5),
    ]
    for wrong in ({"step_interval": 0}, {"start_step": -1}, {"step_interval": "x"}):
        assert read_as(golden, json.dumps({"lm loss": entry | wrong})).table.is_empty()


@pytest.mark.parametrize(("size", "right"), [("124M", 124_000_000), ("7_000", 7000), ("", None)])
def test_sizes_have_their_unit(size, right):
    text = f"step,tokens,n_params,loss\n1,100,{size},5\n"
    assert read_as(csv, text).runs[0].n_params == right


@pytest.mark.parametrize("size", ["124", "0.124", "1300", "13000", "7", "7b", "nothing"])
def test_sizes_in_millions_or_billions_are_refused(size):
    text = f"step,tokens,n_params,loss\n1,2500000000,{size},5\n"
    with pytest.raises(DataError, match="n_params"):
        read_as(csv, text)


def lightning_file(steps) -> bytes:
    tags = ("train_loss_step", "train_loss_epoch")
    return b"".join(event(step, tag, 4.0) for step in steps for tag in tags)


def test_event_files_of_lightning_count_from_zero():
    found = read_as(tensorboard, lightning_file([3, 7]), ReadOptions(batch_tokens=10))
    assert found.table.select("step", "tokens").rows() == [(4, 40), (8, 80)]
    late = b"".join(event(step, "loss", 4.0) for step in (9, 19, 29))
    assert read_as(tensorboard, late).table["step"].to_list() == [10, 20, 30]
    plain = b"".join(event(step, "loss", 4.0) for step in (10, 20, 30))
    assert read_as(tensorboard, plain).table["step"].to_list() == [10, 20, 30]


@pytest.mark.parametrize("per_batch", [100, 2**20])
def test_event_files_of_litgpt_count_micro_batches(per_batch):
    """Ten ranks, four micro-batches a step; counts beyond 2**24 are rounded in the file."""
    data = b""
    for iteration in (4, 8, 400, 4000):
        values = {
            **{"loss": 4.0, "iter": iteration, "step": iteration // 4},
            **{"tokens": iteration * per_batch, "total_tokens": iteration * per_batch * 10},
        }
        data += b"".join(event(iteration - 1, tag, value) for tag, value in values.items())
    found = read_as(tensorboard, data)
    assert found.table.select("step", "tokens").rows() == [
        (n // 4, n * per_batch * 10) for n in (4, 8, 400, 4000)
    ]
