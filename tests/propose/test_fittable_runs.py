"""The losses that a law of whole schedules takes from logs."""

from __future__ import annotations

from pathlib import Path

from megascale.propose.fittable_runs import fittable_runs
from megascale.runs.table import load_runs
from tests.propose.known_law import write_known_logs


def test_losses_after_the_beginning(tmp_path: Path) -> None:
    table = load_runs([write_known_logs(tmp_path / "runs.csv")], cache=False)
    runs, loss, begin = fittable_runs(table)
    assert (len(runs), loss, begin) == (8, "validation", 120_000)
    assert min(run.tokens.min() for run in runs) >= begin
    assert all(len(run.loss) > 80 for run in runs)
