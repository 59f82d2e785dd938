"""Branches of several batches from one checkpoint: real runs, resumed, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megascale.errors import UserError
from megascale.formats.run_log import read_run
from megascale.sweep.batch_branches import plan_branches
from megascale.train.saved_state import read_training_state
from tests.tiny_run import MODEL, run_ranks, tiny_config
from tests.verbs.scene import call

START, BATCH = 4096, 256


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("branches")
    config = tiny_config(
        folder,
        name="stable",
        model=dict(MODEL),
        train={"total_tokens": START},
        batch={"schedule": f"0: {BATCH}"},
        lr={"peak": 1e-2, "warmup_tokens": 1024, "decay_tokens": 0},
        data={"phases": [{"start_tokens": 0, "mixture": {"web": 0.75, "code": 0.25}}]},
        checkpoint={"interval_steps": 2, "keep_last": 10},
    )
    assert run_ranks(config) == [0]
    (found,) = (folder / "runs" / "stable" / "checkpoints").glob(f"step-*-{START}")
    return found


def plan(checkpoint: Path, **changes):
    options = {
        "factors": [0.5, 1, 2],
        "tokens": 16 * 2 * BATCH,
        "lr_rule": "sqrt",
        "output": None,
        "ranks": 1,
    }
    return plan_branches(checkpoint, read_training_state(checkpoint), **{**options, **changes})


def test_branches_run_at_equal_tokens_and_answer(checkpoint, capsys):
    words = ["branch", str(checkpoint), "--batch", "0.5,1,2", "--branch-tokens", "8192", "--json"]
    assert call(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["batch_tokens"] == BATCH
    assert [row["batch_tokens"] for row in answer["rows"]] == [128, 256, 512]
    assert {run["tokens"] for run in answer["runs"]} == {START + 8192}
    for run, factor in zip(answer["runs"], (0.5, 1, 2), strict=True):
        data = read_run(run["run"])
        assert data.events[0]["kind"] == "branch"
        assert {row["batch_tokens"] for row in data.records} == {factor * BATCH}
        rates = [row["lr"] for row in data.records]
        assert rates == pytest.approx([1e-2 * factor**0.5] * len(rates))
        assert data.records[0]["tokens"] == START + factor * BATCH
    # all read the same tokens
    assert len({read_run(run["run"]).records[-1]["token_hash"] for run in answer["runs"]}) == 1
    # again: nothing is run, and the answer is the same
    before = [(Path(run["run"]) / "metrics.jsonl").read_bytes() for run in answer["runs"]]
    assert call(words) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == answer
    assert printed.err.count("found finished") == 3
    assert before == [(Path(run["run"]) / "metrics.jsonl").read_bytes() for run in answer["runs"]]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"factors": [1, 1.5]}, "--batch"),
        ({"factors": [1]}, "--batch"),
        ({"factors": [0.125, 1], "tokens": 16 * BATCH}, "batch"),
        ({"tokens": 16 * 2 * BATCH + 1}, "--branch-tokens"),
        ({"tokens": 2 * BATCH}, "--branch-tokens"),
    ],
)
def test_what_cannot_be_compared_is_refused(checkpoint, changes, key):
    with pytest.raises(UserError, match=key):
        plan(checkpoint, **changes)


def test_a_checkpoint_of_the_warmup_is_refused(checkpoint):
    early = next(checkpoint.parent.glob("step-*-512"))
    with pytest.raises(UserError, match="warmup"):
        plan(early)
