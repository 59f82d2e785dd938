"""Written predictions beside their runs: before and after the decay, and in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from megascale.propose.prediction_check import WrittenPredictions, check_measured, check_verdict
from megascale.runs.table import load_runs

END = {"value": 3.0, "low": 2.9, "high": 3.1}


def write_csv(path: Path, shift: float) -> None:
    """A run that is `shift` nats higher until its decay begins, at 7,000 tokens."""
    rows = ["step,tokens,batch_tokens,lr,loss,loss_kind"]
    for n in range(1, 1001):
        rate = 1.0 if n <= 700 else 1.0 - (n - 700) / 300
        loss = 4.0 - 0.001 * n + (shift if n <= 800 else 0.0)
        rows.append(f"{n},{10 * n},10,{rate:.4f},{loss:.4f},interval_mean")
    path.write_text("\n".join(rows) + "\n")


def test_the_gain_before_the_decay_is_told_apart(tmp_path):
    write_csv(tmp_path / "fixed.csv", 0.0)
    write_csv(tmp_path / "growing.csv", -0.2)
    plan = {"end": END, "steps": 1000, "total_tokens": 10_000}
    written = WrittenPredictions.model_validate(
        {
            "confidence": 0.9,
            "schedules": [
                plan | {"name": "fixed", "against_first": None},
                plan | {"name": "growing", "against_first": END},
            ],
        }
    )
    first, second = check_measured(written, load_runs(tmp_path, cache=False))
    assert first.before_decay is None
    assert second.before_decay is not None
    tokens, gap = second.before_decay
    assert tokens == 7000
    assert gap == pytest.approx(-0.2, abs=0.01)
    assert second.against_first == pytest.approx(0.0, abs=0.02)
    assert second.time is None  # the logs have no clock
    said = check_verdict([first, second], 0.9)
    assert "after the decay and -0.2" in said
    assert "before it, at 7K tokens, in 1.00 of the steps." in said
