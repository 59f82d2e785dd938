"""Downstream scores of two runs at equal tokens."""

from __future__ import annotations

import json

import pytest

from megascale.curves.scores import score_differences
from megascale.formats.task_scores import TaskScore, append_scores
from tests.report.samples import write_log
from tests.verbs.scene import call


def score(task: str, tokens: int, value: float, stderr: float | None = 0.01, **changes):
    known = {
        "task": task,
        "metric": "acc",
        "value": value,
        "stderr": stderr,
        "shots": 0,
        "samples": 1000,
        "limit": None,
        "tokens": tokens,
        "step": tokens // 10,
        "checkpoint": f"step-{tokens // 10}",
        "harness": "0",
    }
    return TaskScore(**{**known, **changes})


def test_the_last_common_tokens_count():
    first = [score("mmlu", 100, 0.30), score("mmlu", 200, 0.40), score("mmlu", 300, 0.5)]
    other = [score("mmlu", 100, 0.35), score("mmlu", 200, 0.47), score("mmlu", 290, 0.9)]
    (found,) = score_differences(first, other)
    assert (found.tokens, found.baseline, found.other) == (200, 0.40, 0.47)
    assert found.difference == pytest.approx(0.07)
    assert found.error == pytest.approx(0.01 * 2**0.5)
    assert found.clear


def test_what_was_asked_otherwise_is_not_compared():
    first = [score("mmlu", 100, 0.3), score("cmmlu", 100, 0.3, stderr=None)]
    other = [score("mmlu", 100, 0.3, shots=5), score("cmmlu", 100, 0.9)]
    (found,) = score_differences(first, other)
    assert (found.task, found.error, found.clear) == ("cmmlu", None, False)


def test_compare_shows_scores_that_lie_beside_the_logs(tmp_path, capsys):
    runs = [tmp_path / name for name in ("first", "second")]
    for place, run in enumerate(runs):
        write_log(run)
        append_scores(run, [score("mmlu", 100, 0.3 + 0.1 * place)])
    words = ["compare", *map(str, runs)]
    assert call(words) == 0
    assert "1 of 1 differences exceed 2 standard errors" in capsys.readouterr().out
    assert call([*words, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["scores"].values()
    assert found[0]["difference"] == pytest.approx(0.1)
    assert found[0]["clear"]
