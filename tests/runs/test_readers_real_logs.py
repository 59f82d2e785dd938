"""Real public logs, counted by independent means."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from megascale.runs.check import check_runs
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import load_runs


def text_of(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode("utf-8", "replace")


def counted(path: Path, pattern: str) -> int:
    """Lines that match, counted by zgrep."""
    done = subprocess.run(
        ["zgrep", "-acE", pattern, str(path)], capture_output=True, text=True, check=False
    )
    return int(done.stdout)


MEGATRON = {
    "datablations_blowup-4-alibi-bf16-nods-1814592": (2048, 7600, 2_619_080_704),
    "datablations_blowup-4-adam-1793736": (2048, 4200, 1_101_004_800),
    "bigscience_meg_gpt2_base_n8-1809562": (1024, 200, 819_200),
}


@pytest.mark.parametrize("name", MEGATRON)
def test_every_iteration_of_a_megatron_log(shared_data, name):
    (path,) = (shared_data / "megatron_logs").glob(f"{name}*")
    seq, last_step, last_tokens = MEGATRON[name]
    loaded = load_runs(path, cache=False)
    train = loaded.table.filter(pl.col("loss_kind") == "interval_mean")
    assert train.height == counted(path, r"iteration +[0-9]+/ *[0-9]+ \|")
    assert train["loss"].count() == counted(path, r"iteration .*\| lm loss: ")
    assert loaded.table.height - train.height == counted(path, r"loss at iteration [0-9]+ \|")
    assert (train["step"][-1], train["tokens"][-1]) == (last_step, last_tokens)
    assert loaded.runs[0].meta.seq_length == seq
    assert loaded.files[0].malformed_count == 0
    lines = text_of(path).split("\n")
    for step, tokens, loss, number in train.select("step", "tokens", "loss", "line").rows():
        line = lines[number - 1]
        assert re.search(rf"iteration +{step}/", line)
        samples = int(re.search(r"consumed samples: +(\d+)", line)[1])
        assert tokens == samples * seq
        shown = re.search(r"lm loss: (\S+)", line)
        assert loss == (float(shown[1]) if shown else None)


def test_the_batch_ramp_of_a_megatron_log_is_found(shared_data):
    loaded = load_runs(shared_data / "megatron_logs", cache=False)
    changes = [finding for finding in check_runs(loaded) if finding.kind == "batch_change"]
    assert len(changes) == 1
    assert "262,144 to 524,288 tokens by step 5,400" in changes[0].message
    lines = text_of(Path(changes[0].source)).split("\n")
    assert re.search(r"iteration +5400/.*global batch size: +256 ", lines[changes[0].line - 1])


def test_golden_values_against_json(shared_data):
    loaded = load_runs(shared_data / "megatron_golden", cache=False)
    assert len(loaded.runs) == 2
    assert [path.name for path, _ in loaded.skipped] == ["meta.json"]
    for run in loaded.runs:
        path = loaded.files[run.files[0]].path
        values = json.loads(text_of(path))["lm loss"]["values"]
        known = [(int(step), value) for step, value in values.items() if value != "nan"]
        assert loaded.rows(run.run).select("step", "loss").rows() == sorted(known)


def test_speed_run_logs(shared_data):
    loaded = load_runs(shared_data / "modded_nanogpt", cache=False)
    assert len(loaded.runs) == 3
    for run in loaded.runs:
        path = loaded.files[run.files[0]].path
        assert loaded.rows(run.run).height == counted(path, r"^step:[0-9]+/[0-9]+ val_loss:")
        shown = re.findall(r"val_loss:(\S+)", text_of(path))
        assert loaded.rows(run.run)["loss"].to_list() == [float(value) for value in shown]
    assert set(loaded.table["loss_kind"]) == {"validation"}


def test_wandb_histories(shared_data):
    loaded = load_runs(
        shared_data / "wandb_json", options=ReadOptions(batch_samples=100), cache=False
    )
    sizes = {run.meta.n_params for run in loaded.runs}
    assert sizes == {123_587_328, 208_540_416}
    for run in loaded.runs:
        history = json.loads(text_of(loaded.files[run.files[0]].path))["history"]
        rows = loaded.rows(run.run)
        train = rows.filter(pl.col("loss_kind") == "instantaneous")
        assert train["step"].to_list() == history["train"]["iter"]
        assert train["loss"].to_list() == history["train"]["train_loss"]
        assert train["lr"].to_list() == history["train"]["train_lr"]
        assert train["tokens"].to_list() == [n * 100 * 512 for n in history["train"]["iter"]]
        validation = rows.filter(pl.col("loss_kind") == "validation")
        assert validation["loss"].to_list() == history["val"]["val_loss"]
        final = rows.filter(pl.col("loss_kind").str.starts_with("validation:"))
        assert final["loss"].to_list() == history["final-val"]["final_val_loss"]


def test_event_file_against_tensorboards_loader(shared_data):
    loader_of = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (path,) = (shared_data / "tfevents").iterdir()
    from megascale.runs.readers.base import FileRead
    from megascale.runs.readers.tensorboard import scalars_of

    found = FileRead(path)
    tags = scalars_of(path.read_bytes(), found)
    expected: dict[str, list[tuple[int, float]]] = {}
    for event in loader_of.LegacyEventFileLoader(str(path)).Load():
        for value in event.summary.value:
            expected.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert expected
    assert {
        tag: list(zip(series.steps, series.values, strict=True)) for tag, series in tags.items()
    } == expected
    assert found.malformed_count == 0
    loaded = load_runs(path, cache=False)
    assert loaded.table.is_empty()
    assert "wer" in loaded.files[0].notes[0].message


def test_multipowerlaw_curves_by_a_column_map(shared_data):
    options = ReadOptions(
        columns=(("step", "step"), ("lr", "lr"), ("loss", "loss")),
        batch_tokens=524_288,
        loss_kind="instantaneous",
    )
    loaded = load_runs(shared_data / "multipowerlaw", options=options, cache=False)
    assert len(loaded.runs) == 18
    assert {"csv_25/wsdcon_3", "csv_100/wsdcon_3"} <= {run.run for run in loaded.runs}
    for run in loaded.runs:
        path = loaded.files[run.files[0]].path
        plain = np.loadtxt(path, delimiter=",", skiprows=1)
        rows = loaded.rows(run.run)
        assert np.array_equal(rows.select("step", "lr", "loss").to_numpy(), plain)
        assert np.array_equal(rows["tokens"].to_numpy(), plain[:, 0] * 524_288)


def test_mlperf_curves_by_a_column_map(shared_data):
    path = shared_data / "mlperf" / "eval_curves.csv.gz"
    columns = (("run", "run_id"), ("samples", "x"), ("validation", "value"))
    options = ReadOptions(columns=columns, seq_length=8192)
    loaded = load_runs(path, options=options, cache=False)
    records = list(csv.DictReader(io.StringIO(text_of(path))))
    assert loaded.table.height == len(records)
    assert len(loaded.runs) == len({record["run_id"] for record in records}) == 390
    assert set(loaded.table["loss_kind"]) == {"validation"}
    first = loaded.rows("2890").select("samples", "tokens", "loss").rows()[0]
    assert first == (12256, 12256 * 8192, 5.6529)


def test_step_law_points_by_a_column_map(shared_data):
    path = shared_data / "steplaw" / "dense_lr_bs_loss.csv"
    columns = tuple(
        pair.split("=")
        for pair in ["run=exp_name", "tokens=D", "batch_samples=bs", "step=ti", "n_params=N"]
    )
    options = ReadOptions(
        columns=(*((ours, theirs) for ours, theirs in columns), ("loss", "smooth loss")),
        seq_length=2048,
    )
    loaded = load_runs(path, options=options, cache=False)
    with path.open(newline="") as file:
        records = list(csv.DictReader(file))
    assert loaded.table.height == len(records) == 1911
    assert sorted(loaded.table["loss"]) == sorted(float(row["smooth loss"]) for row in records)
    sizes = {run.meta.n_params for run in loaded.runs}
    assert sizes == {int(row["N"]) for row in records}
