"""One run in numbers: the same digits from its records, its table and its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from megascale.formats.run_log import Attempts, RunLog, attempts_of, read_run
from megascale.runs.overview import overviews, record_segments
from megascale.runs.readers import own
from megascale.runs.table import load_runs
from megascale.verbs.run_console import summary_rows

BEGAN = (10, 5000)
BATCHES = (100, 100, 200, 200, 100)
COUNTED = (100, 20, 200, 0, 7)
"""Tokens that count in each step's loss; none where the step was skipped."""


def branch(folder: Path) -> Path:
    """A log that begins at a parent's checkpoint, with masked tokens and a skipped step."""
    folder.mkdir()
    log = RunLog(folder, header={"name": folder.name})
    step, tokens = BEGAN
    log.event("branch", step=step, tokens=tokens)
    for number, (batch, counted) in enumerate(zip(BATCHES, COUNTED, strict=True)):
        step, tokens = step + 1, tokens + batch
        loss = 3.0 - 0.25 * number if counted else None
        log.metrics({
            "step": step, "tokens": tokens, "samples": tokens // 10, "batch_tokens": batch,
            "micro_batches": 1, "sequence_length": 10, "interval_tokens": batch, "steps": 1,
            "skipped": int(not counted), "loss_sum": (loss or 0.0) * counted,
            "loss_tokens": counted, "loss": loss, "lr": 0.1 / (number + 1), "weight_decay": 0.1,
            "grad_norm": 1.0, "seconds": 0.5,
        })  # fmt: skip
    log.event("end", step=step, tokens=tokens, exit_code=0)
    log.close()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return branch(tmp_path / "run")


def test_records_give_the_segments(folder: Path) -> None:
    found = record_segments(read_run(folder).records)
    first, second, third = found
    assert [(s.start_tokens, s.end_tokens, s.batch_tokens, s.steps) for s in found] == [
        (5000, 5200, 100, 2), (5200, 5600, 200, 2), (5600, 5700, 100, 1)
    ]  # fmt: skip
    assert first.loss == pytest.approx((3.0 * 100 + 2.75 * 20) / 120)
    assert second.loss == second.last_loss == 2.5
    assert (third.loss, third.lr, third.seconds) == (2.0, pytest.approx(0.02), 0.5)
    assert record_segments([]) == []


@pytest.mark.parametrize("small_bytes", [own.SMALL_BYTES, 0])
def test_the_table_gives_the_same(folder: Path, small_bytes: int, monkeypatch) -> None:
    monkeypatch.setattr(own, "SMALL_BYTES", small_bytes)
    (seen,) = overviews(load_runs(folder, cache=False))
    exact = record_segments(read_run(folder).records)
    assert [s.loss for s in seen.segments] == pytest.approx([s.loss for s in exact], rel=1e-15)
    same = ("start_tokens", "end_tokens", "batch_tokens", "steps", "last_loss", "lr", "seconds")
    for name in same:
        assert [getattr(s, name) for s in seen.segments] == [getattr(s, name) for s in exact], name
    assert (seen.tokens, seen.steps, seen.skipped, seen.attempts, seen.exit_code) == (
        5700, 15, 1, 1, 0
    )  # fmt: skip


def test_what_training_prints_is_the_same(folder: Path) -> None:
    rows = summary_rows(read_run(folder).records)
    (seen,) = overviews(load_runs(folder, cache=False))
    assert [row[3] for row in rows[:-1]] == [f"{s.loss:.4f}" for s in seen.segments]
    assert rows[0][:3] == ["5K - 5.2K", "2", "100"]
    whole = (3.0 * 100 + 2.75 * 20 + 2.5 * 200 + 2.0 * 7) / 327
    assert rows[-1] == ["all", "5", "", f"{whole:.4f}", "2.0000", "2.00e-02", "280", "1"]


def test_attempts() -> None:
    events = [
        {"kind": "branch", "step": 3, "tokens": 30},
        {"kind": "end", "exit_code": 75},
        {"kind": "resume", "step": 4, "tokens": 40},
    ]
    assert attempts_of(events) == Attempts(2, (3, 30), None)
    assert attempts_of([*events, {"kind": "end", "exit_code": 0}]).exit_code == 0
    assert attempts_of([]) == Attempts(0, (0, 0), None)
    assert attempts_of([{"kind": "start"}]) == Attempts(1, (0, 0), None)
