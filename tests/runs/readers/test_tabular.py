"""Tables and documents: CSV, JSON lines, W&B exports, HF states, golden values, MLPerf."""

from __future__ import annotations

import io
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import DataError
from megascale.runs.readers import csv, golden, hf, jsonl, mlperf, wandb
from megascale.runs.readers.base import ReadOptions
from tests.runs.readers.helpers import kinds, read_as, recognised


def test_csv_by_known_names():
    text = "step,lr,loss,val_loss\n100,3e-4,4.5,\n200,3e-4,4.25,4.5\n"
    found = read_as(csv, text, ReadOptions(batch_tokens=1000))
    assert recognised(text) == "csv"
    assert found.table.select("step", "tokens", "loss", "loss_kind", "line").rows() == [
        (100, 100_000, 4.5, "instantaneous", 2),
        (200, 200_000, 4.25, "instantaneous", 3),
        (200, 200_000, 4.5, "validation", 3),
    ]


def test_csv_by_a_column_map():
    text = "D;smooth loss;bs;name\n1e6;3.5;16;a\n2_000_000;3.25;16;a\n1e6;3.75;32;b\n"
    columns = (("tokens", "D"), ("loss", "smooth loss"), ("batch_samples", "bs"), ("run", "name"))
    found = read_as(csv, text, ReadOptions(columns=columns, seq_length=100))
    assert found.table.select("run", "tokens", "samples", "batch_tokens", "loss").rows() == [
        ("a", 1_000_000, 10_000, 1600, 3.5),
        ("a", 2_000_000, 20_000, 1600, 3.25),
        ("b", 1_000_000, 10_000, 3200, 3.75),
    ]
    assert [meta.run for meta in found.runs] == ["a", "b"]


def test_csv_names_what_is_wrong():
    with pytest.raises(DataError, match=r"smooth_loss.*smooth loss"):
        read_as(csv, "D,smooth loss\n1,2\n", ReadOptions(columns=(("loss", "smooth_loss"),)))
    with pytest.raises(DataError, match=r"no column is known to be a loss; there are: a, b"):
        read_as(csv, "a,b\n1,2\n")
    bad = "step,tokens,loss\n1,10,5\n2,20.5,4\n3,30\n4,40,x\n5,50,3\n6,6"
    found = read_as(csv, bad)
    assert found.table["step"].to_list() == [1, 5]
    assert [line.line for line in found.malformed] == [3, 4, 5]
    assert [note.line for note in found.notes if note.kind == "torn"] == [7]


CURVE = st.lists(
    st.tuples(st.integers(0, 2**62), st.floats(-1e6, 1e6), st.floats(0, 1)),
    max_size=20,
    unique_by=lambda row: row[0],
)


@given(CURVE)
def test_csv_round_trips_every_integer_and_float(rows):
    rows = sorted(rows)
    text = "tokens,loss,lr\n" + "".join(f"{a},{b!r},{c!r}\n" for a, b, c in rows)
    assert read_as(csv, text).table.select("tokens", "loss", "lr").rows() == rows


def test_jsonl_of_lingua():
    text = "".join(
        json.dumps(
            {"global_step": step, "loss/out": 4 / step, "optim/lr": 1e-3}
            | {"optim/grad_norm": 0.5, "optim/total_tokens": step * 4096}
        )
        + "\n"
        for step in (1, 2)
    )
    found = read_as(jsonl, text + '{"global_step": 3')
    assert recognised(text) == "jsonl"
    assert found.table.select("step", "tokens", "loss", "grad_norm").rows() == [
        (1, 4096, 4.0, 0.5),
        (2, 8192, 2.0, 0.5),
    ]
    assert kinds(found) == ["torn"]


HISTORY = [
    {"_step": 1, "_runtime": 1.5, "train/loss": 5.0, "train/learning_rate": 0.1},
    {"_step": 2, "train/loss": 4.5, "eval/loss": None},
    {"_step": 2, "eval/loss": 4.75},
]
ROWS = [(1, 5.0, "instantaneous"), (2, 4.5, "instantaneous"), (2, 4.75, "validation")]


@pytest.mark.parametrize("form", ["json", "lines", "csv", "parquet", "pandas", "groups"])
def test_every_form_of_a_wandb_history(form):
    frame = pl.DataFrame(HISTORY)
    buffer = io.BytesIO()
    if form == "json":
        data = json.dumps(HISTORY, indent=1).encode()
    elif form == "lines":
        data = "\n".join(json.dumps(row) for row in HISTORY).encode() + b"\n"
    elif form == "csv":
        data = frame.write_csv().encode()
    elif form == "parquet":
        frame.write_parquet(buffer)
        data = buffer.getvalue()
    elif form == "pandas":
        columns = {
            name: dict(enumerate(values)) for name, values in frame.to_dict(as_series=False).items()
        }
        data = json.dumps(columns, indent=1).encode()
    else:
        groups = {
            "train": {"iter": [1, 2], "train_loss": [5.0, 4.5], "train_lr": [0.1, 0.1]},
            "val": {"iter": [2], "val_loss": [4.75]},
        }
        config = {"sequence_length": 512}
        whole = {"history": groups, "config": config, "summary": {"parameters": 77}, "name": "r"}
        data = json.dumps(whole).encode()
    name = recognised(data)
    assert name in ("wandb", "jsonl", "csv")
    reader = {"wandb": wandb, "jsonl": jsonl, "csv": csv}[name]
    found = read_as(reader, data)
    assert found.table.select("step", "loss", "loss_kind").rows() == ROWS
    if form == "groups":
        assert (found.runs[0].n_params, found.runs[0].seq_length) == (77, 512)


def test_chart_of_the_wandb_page_has_a_run_per_column():
    text = (
        '"Step","small-1 - train/loss","small-1 - train/loss__MIN","small-1 - train/loss__MAX",'
        '"big - 2 - train/loss","big - 2 - train/loss__MIN","big - 2 - train/loss__MAX"\n'
        '10,5.5,5.5,5.5,"","",""\n20,5.0,5.0,5.0,4.5,4.5,4.5\n'
    )
    found = read_as(wandb, text)
    assert recognised(text) == "wandb"
    assert found.table.select("run", "step", "loss").rows() == [
        ("small-1", 10, 5.5),
        ("small-1", 20, 5.0),
        ("big - 2", 20, 4.5),
    ]
    with pytest.raises(DataError, match="x axis must be steps, tokens or samples"):
        read_as(wandb, text.replace('"Step"', '"Relative Time (Process)"'))


def test_a_sampled_history_is_called_so():
    rows = [{"_step": step, "loss": 5 - step / 1000} for step in range(500)]
    assert "sampled" in kinds(read_as(wandb, json.dumps(rows)))


STATE = {
    "global_step": 30,
    "max_steps": 100,
    "train_batch_size": 8,
    "log_history": [
        {"epoch": 0.1, "step": 10, "loss": 5.5, "learning_rate": 1e-4, "grad_norm": 1.5},
        {"epoch": 0.2, "step": 20, "loss": "nan", "learning_rate": 1e-4},
        {"epoch": 0.2, "step": 20, "eval_loss": 5.25, "eval_runtime": 1.5},
        {"epoch": 0.2, "step": 20, "eval_web_loss": 5.0},
        {"test_loss": 5.0},
        {"epoch": 0.3, "step": 30, "loss": 5.0, "num_input_tokens_seen": 3000},
        {"train_loss": 5.2, "train_runtime": 10.0, "total_flos": 1e12, "step": 30},
    ],
}


def test_trainer_state():
    text = json.dumps(STATE, indent=2)
    found = read_as(hf, text)
    assert recognised(text) == "hf"
    assert found.table.select("step", "tokens", "loss", "loss_kind").rows() == [
        (10, None, 5.5, "interval_mean"),
        (20, None, 5.25, "validation"),
        (20, None, 5.0, "validation:web"),
        (30, 3000, 5.0, "interval_mean"),
    ]
    assert kinds(found) == ["nonfinite_loss"]
    with pytest.raises(DataError, match=r":\d+: not a JSON document"):
        read_as(hf, text[:-30])


def test_golden_values():
    text = json.dumps(
        {
            "lm loss": {
                "start_step": 1,
                "end_step": 15,
                "step_interval": 5,
                "values": {"1": 12.9, "5": 11.5, "10": "nan"},
            }
        }
    )
    found = read_as(golden, text)
    assert recognised(text) == "megatron-golden"
    assert found.table.select("step", "loss").rows() == [(1, 12.9), (5, 11.5)]
    assert kinds(found) == ["nonfinite_loss"]


def mllog(key, value, **metadata) -> str:
    entry = {"namespace": "", "time_ms": 1, "event_type": "POINT_IN_TIME", "key": key}
    return "0: :::MLLOG " + json.dumps(entry | {"value": value, "metadata": metadata}) + "\n"


def test_mlperf():
    text = (
        mllog("submission_benchmark", "llama31_8b")
        + mllog("global_batch_size", 32)
        + mllog("max_sequence_length", 8192)
        + mllog("seed", 7)
        + mllog("tracked_stats", {"reduced_train_loss": 12.5}, step=2, samples_count=64)
        + mllog("eval_accuracy", 5.5, samples_count=12288) * 2
        + "noise\n:::MLLOG {torn}\n"
        + mllog("run_stop", None, status="success")
    )
    found = read_as(mlperf, text)
    assert recognised(text) == "mlperf"
    columns = ("step", "samples", "tokens", "batch_samples", "loss", "loss_kind")
    assert found.table.select(columns).rows() == [
        (2, 64, 64 * 8192, 32, 12.5, "instantaneous"),
        (384, 12288, 12288 * 8192, 32, 5.5, "validation"),
    ]
    assert found.runs[0].extra["status"] == "success"
    assert [line.line for line in found.malformed] == [9]
    accuracy = text.replace("llama31_8b", "bert")
    assert read_as(mlperf, accuracy).table.height == 1
