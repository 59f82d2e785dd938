"""Held-out loss: the same on every layout, and no trace of it in what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_run import log_of, run_ranks, tiny_config, trajectory, write_source


def evaluations(config) -> list[tuple[int, int, float]]:
    return [
        (event["tokens"], event["loss_tokens"], event["loss"])
        for event in log_of(config).events
        if event["kind"] == "evaluation"
    ]


def test_evaluation_on_every_layout_and_across_a_resume(tmp_path: Path):
    held_out = {"held": {"path": str(write_source(tmp_path / "h", seed=9))}}
    train = {"total_tokens": 3072, "eval_interval_tokens": 1024, "eval_tokens": 1000}
    lr = {"decay_tokens": 512}
    batch = {"schedule": "0: 256"}
    data = tiny_config(tmp_path).data.model_dump(mode="json") | {"validation": held_out}
    phases = [phase for phase in data["phases"] if phase["start_tokens"] == 0]
    common = {"train": train, "lr": lr, "batch": batch, "data": data | {"phases": phases}}

    plain = tiny_config(tmp_path, name="plain", **common)
    assert run_ranks(plain) == [0]
    expected = evaluations(plain)
    assert [tokens for tokens, _, _ in expected] == [1024, 2048, 3072]
    assert all(0 < count < 1000 for _, count, _ in expected), "chunk joins have no valid target"

    # checkpoints fall right after evaluations: every 4 steps of 256 tokens
    sharded = tiny_config(
        tmp_path,
        name="sharded",
        parallel={"data_mode": "fsdp"},
        checkpoint={"interval_steps": 4},
        **common,
    )
    assert run_ranks(sharded, 2) == [0, 0]
    for (tokens, count, loss), (same_tokens, same_count, same_loss) in zip(
        expected, evaluations(sharded), strict=True
    ):
        assert (tokens, count) == (same_tokens, same_count)
        assert loss == pytest.approx(same_loss, rel=1e-5)

    unevaluated = tiny_config(
        tmp_path,
        name="unevaluated",
        **{**common, "train": {"total_tokens": 3072}},
    )
    assert run_ranks(unevaluated) == [0]
    assert trajectory(unevaluated) == trajectory(plain)

    # take away the last checkpoint: the run resumes from one that was written after an evaluation
    before = trajectory(sharded)
    checkpoints = sorted((Path(sharded.output_dir) / "sharded" / "checkpoints").glob("step-*"))
    checkpoints[-1].rename(tmp_path / "taken-away")
    assert run_ranks(sharded, 2) == [0, 0]
    assert trajectory(sharded) == before
    assert log_of(sharded).superseded > 0
