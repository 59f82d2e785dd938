"""What a path holds: one answer for all verbs, with its reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from megascale.errors import FitError
from megascale.runs.inputs import GRID, LAW_FILE, LOGS, POINTS, STUDY, TABLE, recognise
from tests.report.samples import write_grid, write_log, write_runs, write_study

GRID_ROWS = {"N": [10**7, 10**8], "D": [10**9, 2 * 10**9], "lr": [1e-3, 2e-3], "loss": [3.0, 2.5]}
WANDB = {"Name": ["a", "b"], "State": ["finished", "finished"], "learning_rate": [1e-3, 2e-3],
         "batch_size": [64, 128], "val/loss": [3.0, 2.9], "tokens_seen": [10**9, 10**9],
         "n_params": [10**7, 10**7]}  # fmt: skip
POINT_ROWS = {
    "target_loss": [3.0, 3.0],
    "batch_tokens": [65536, 131072],
    "tokens": [10**9, 2 * 10**9],
}
LOG_ROWS = {
    "step": [1, 2],
    "loss": [3.0, 2.9],
    "batch_tokens": [1024, 1024],
    "tokens": [1024, 2048],
}

TABLES = [
    ("grid", GRID_ROWS, GRID),
    ("grid with runs", GRID_ROWS | {"run": ["a", "b"]}, GRID),
    ("grid of batches", {**GRID_ROWS, "lr": [64, 128]}, GRID),
    ("W&B runs", WANDB, GRID),
    ("W&B runs with their last step", WANDB | {"_step": [100, 100]}, GRID),
    ("W&B runs without N", {k: v for k, v in WANDB.items() if k != "n_params"}, TABLE),
    ("a chart", {"Step": [1, 2], "a - train/loss": [3.0, 2.9]}, LOGS),
    ("rows of one run", GRID_ROWS | {"run": ["a", "a"]}, TABLE),
    ("rows of one run by tokens", {"run": ["a", "a"], "tokens": [1, 2], "loss": [3.0, 2.9]}, LOGS),
    ("grid with steps", GRID_ROWS | {"step": [1, 2]}, LOGS),
    ("a curve of one run", {"N": [10**7] * 3, "lr": [1e-3] * 3, "tokens": [1, 2, 3],
                            "loss": [3.0, 2.9, 2.8]}, LOGS),
    ("points", POINT_ROWS, POINTS),
    ("points by letters", {"S": [10, 20], "E": [10**6, 10**6]}, POINTS),
    ("points by L, S and batch", {"L": [3, 3], "S": [10, 20], "batch_tokens": [1, 2]}, POINTS),
    ("points with a loss column", {"S": [10, 20], "E": [10**6, 10**6], "loss": [3.0, 3.0]}, POINTS),
    ("log", LOG_ROWS, LOGS),
    ("log by tokens", {"tokens": [1, 2], "train/loss": [3.0, 2.9]}, LOGS),
    ("loss without a counter", {"loss": [3.0, 2.9], "epoch": [1, 2]}, TABLE),
    ("anything else", {"x": [1, 2], "y": [3.0, 4.0]}, TABLE),
]  # fmt: skip


def write(rows: dict, path: Path) -> Path:
    frame = pl.DataFrame(rows)
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".tsv":
        frame.write_csv(path, separator="\t")
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_ndjson(path)
    return path


@pytest.mark.parametrize(("name", "rows", "holds"), TABLES, ids=[name for name, *_ in TABLES])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl"])
def test_tables_are_told_by_their_columns(name, rows, holds, suffix, tmp_path: Path) -> None:
    found = recognise(write(rows, tmp_path / f"table.{suffix}"))
    if name == "a chart" and suffix in ("parquet", "jsonl"):
        pytest.skip("charts are texts")
    assert found.holds == holds, found.reason
    assert found.reason
    assert (found.frame is None) == (holds == LOGS)


def test_paths_of_other_kinds(tmp_path: Path) -> None:
    law = tmp_path / "law.json"
    law.write_text(json.dumps({"schema": "megascale.law/1"}))
    assert recognise(law).holds == LAW_FILE
    study = write_study(tmp_path / "study")
    assert recognise(study).holds == STUDY
    assert recognise(tmp_path / "study").holds == STUDY
    assert recognise(write_log(tmp_path / "run")).holds == LOGS
    assert recognise(tmp_path / "run" / "metrics.jsonl").holds == LOGS
    assert recognise(str(tmp_path / "*.csv")).holds == LOGS
    assert recognise(write_runs(tmp_path)).holds == LOGS
    assert recognise(write_grid(tmp_path)).holds == GRID
    packed = tmp_path / "grid.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "grid.csv").read_bytes()))
    assert recognise(packed).holds == GRID


def test_what_the_user_says_counts(tmp_path: Path) -> None:
    path = write({"size": [10**7, 10**8], **{k: v for k, v in GRID_ROWS.items() if k != "N"}},
                 tmp_path / "t.csv")  # fmt: skip
    assert recognise(path).holds == TABLE
    assert recognise(path, stated=[("N", "size")]).holds == GRID
    assert recognise(path, constant=["n_params"]).holds == GRID
    assert recognise(path, format="csv").holds == LOGS
    assert recognise(path, wanted=GRID).holds == GRID
    path.rename(tmp_path / "t.txt")
    with pytest.raises(FitError, match="must be one of"):
        recognise(tmp_path / "t.txt", wanted=GRID)


def test_a_table_of_no_kind_says_what_it_lacks(tmp_path: Path) -> None:
    runs = {k: v for k, v in WANDB.items() if k not in ("n_params", "State")}
    reason = recognise(write(runs, tmp_path / "t.csv")).reason
    assert reason.startswith("for a table of final losses it lacks n_params")
    assert "for a table of points it lacks" in reason


def test_runs_may_repeat_below_the_rows_that_are_looked_at_first(tmp_path: Path) -> None:
    rows = [{"run": f"r{at % 100}", "n_params": 10**7, "tokens": 1000 * at, "lr": 1e-3, "loss": 3.0}
            for at in range(1, 200)]  # fmt: skip
    assert recognise(write(rows, tmp_path / "t.csv")).holds == LOGS
