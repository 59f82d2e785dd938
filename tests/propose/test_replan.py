"""The rest of a run's schedule, planned from its log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megascale.cli import app
from megascale.errors import ConfigError, DataError
from megascale.formats.run_log import RunLog
from megascale.propose.replan import replanned_law_points, replanned_table, standing
from megascale.schedule.points import BatchPoint, parse_table


def log(folder: Path, batches: list[int], *, config: bool = True) -> Path:
    """A run of one record per step with these batches (tokens), sequences of 16, 2 ranks."""
    folder.mkdir(parents=True)
    run, tokens = RunLog(folder), 0
    run.start()
    previous = batches[0]
    for step, batch in enumerate(batches, start=1):
        if batch != previous:
            run.event("batch_change", step=step - 1, tokens=tokens, batch_tokens=batch)
        previous = batch
        tokens += batch
        run.metrics(
            {
                "step": step,
                "tokens": tokens,
                "samples": tokens // 16,
                "batch_tokens": batch,
                "micro_batches": batch // 32,
                "sequence_length": 16,
                "loss_tokens": batch,
                "loss_sum": 3.0 * batch,
                "loss": 3.0,
                "lr": 1e-3,
                "weight_decay": 0.1,
                "grad_norm": 1.0,
                "seconds": 1.0,
            }
        )
    run.close()
    if config:
        content = {"train": {"total_tokens": 10_000, "micro_batch_size": 1}}
        (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_a_run_says_where_it_stands(tmp_path: Path) -> None:
    at = standing(log(tmp_path / "run", [64, 64, 64, 128, 128]))
    assert (at.tokens, at.step, at.batch_tokens) == (448, 5, 128)
    assert (at.sequence_length, at.micro_batch_size, at.data_parallel) == (16, 1, 2)
    assert at.history == (BatchPoint(0, 64), BatchPoint(192, 128))
    assert at.total_tokens == 10_000


def test_only_looks_beyond_the_run_ask_the_law(tmp_path: Path) -> None:
    at = standing(log(tmp_path / "run", [64] * 5))
    asked: list[int] = []

    def law(tokens: int) -> float:
        asked.append(tokens)
        return 200.0

    points = replanned_law_points(law, at, interval_tokens=100, momentum=0.5, total_tokens=600)
    assert asked == [400, 500]
    assert points == (BatchPoint(0, 64), BatchPoint(400, 132), BatchPoint(500, 166))


def test_a_table_that_differs_now_changes_at_once(tmp_path: Path) -> None:
    at = standing(log(tmp_path / "run", [64] * 5))
    points = replanned_table(parse_table("0: 96, 1000: 128"), at)
    assert points == (BatchPoint(0, 64), BatchPoint(320, 96), BatchPoint(1000, 128))


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["schedule", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_command_plans_the_rest_and_keeps_the_past(tmp_path: Path) -> None:
    folder = log(tmp_path / "run", [64, 64, 64, 128, 128])
    words = ("--replan", str(folder), "--table", "0:64,192:128,5000:256")
    found = json.loads(run(*words, "--json", "--export", "yaml"))
    assert (found["start_tokens"], found["start_step"]) == (448, 5)
    assert [s["batch_tokens"] for s in found["segments"]] == [128, 256]
    assert found["segments"][0]["first_step"] == 5
    assert "0: 64, 192: 128, 5K: 256" in found["export"]
    assert found["replanned_from"]["tokens"] == 448


def test_command_refusals(tmp_path: Path) -> None:
    bare = log(tmp_path / "bare", [64], config=False)
    words = ["schedule", "--replan", str(bare), "--table", "0:64"]
    with pytest.raises(ConfigError, match="--tokens"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    with pytest.raises(ConfigError, match="no config beside its log"):
        CliRunner().invoke(app, [*words, "--tokens", "1K"], catch_exceptions=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    RunLog(empty).close()
    with pytest.raises(DataError, match="logged no step"):
        standing(empty)
