"""`megascale recommend` and configs with a law of whole schedules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_run import tiny_config
from tests.verbs.scene import call

ASKED = ["recommend", "--tokens", "1M", "--params", "86K", "--seq-length", "128"]


def test_a_plan_against_the_best_fixed_batch(schedule_law: Path, capsys) -> None:
    assert call([*ASKED, "--law-file", str(schedule_law), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["planned"]
    assert one["refused"] is None
    assert one["plan"]["verdict"]
    assert len(one["plan"]["opponent"]["batches"]) == 1
    low, high = (one["plan"]["proposal"]["difference"][end] for end in ("low", "high"))
    assert low <= high
    assert all(b["batch_tokens"] % 128 == 0 for b in one["plan"]["proposal"]["batches"])


def test_a_budget_beyond_the_runs_is_refused_and_the_other_laws_answer(
    schedule_law: Path, capsys
) -> None:
    line = [*ASKED, "--law-file", str(schedule_law)]
    line[line.index("1M")] = "100M"
    assert call(line) == 0
    said = capsys.readouterr().out
    assert "the law's longest run has 1M tokens" in said
    assert "it is a law of one model" in said
    assert "arXiv" in said


def test_a_config_that_follows_such_a_law_names_the_command(
    schedule_law: Path, tmp_path: Path
) -> None:
    from megascale.config.schedules import batch_schedule_from_config
    from megascale.errors import DataError

    law = {"file": str(schedule_law), "interval_tokens": 500, "initial_tokens": 64}
    config = tiny_config(tmp_path, batch={"schedule": None, "law": law})
    with pytest.raises(DataError, match="megascale schedule --optimize tokens --law-file"):
        batch_schedule_from_config(config, 1)
