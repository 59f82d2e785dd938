"""Held-out loss: the same on every layout, and no trace of it in what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from megascale.data.held_out import open_held_out
from megascale.errors import DataError
from megascale.train.branch import branch_config
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
    assert {count for _, count, _ in expected} == {31 * 31}, "31 sequences, a target less in each"

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
        **{
            **common,
            "train": {"total_tokens": 3072},
            "data": {**common["data"], "validation": {}},
        },
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


def held_out(folder: Path, documents: int = 60) -> dict[str, object]:
    path = write_source(folder / f"held-{documents}", seed=9, documents=documents)
    data = tiny_config(folder).data.model_dump(mode="json")
    phases = [phase for phase in data["phases"] if phase["start_tokens"] == 0]
    return data | {"phases": phases, "validation": {"held": {"path": str(path)}}}


def test_the_same_weights_have_the_same_loss_whatever_the_run_reads(tmp_path: Path):
    """At the start no step was taken: seeds of data, chunks and micro-batches must not show."""
    losses = []
    for name, changes in {
        "plain": {},
        "order": {"data": {"seed": 99}},
        "chunks": {"data": {"chunk_tokens": 64}},
        "cut": {"train": {"micro_batch_size": 4}},
        "longer": {"train": {"sequence_length": 64, "eval_sequence_length": 32}},
    }.items():
        config = tiny_config(
            tmp_path,
            name=name,
            data=held_out(tmp_path) | changes.get("data", {}),
            train={"total_tokens": 512, "eval_at_start": True, "eval_tokens": 1024}
            | changes.get("train", {}),
            lr={"warmup_tokens": 0, "decay_tokens": 0},
            batch={"schedule": "0: 256"},
        )
        assert run_ranks(config) == [0]
        found = evaluations(config)
        assert [tokens for tokens, _, _ in found] == [0, 512]
        losses.append(found[0][1:])
    assert [count for count, _ in losses] == [32 * 31] * 5
    assert [loss for _, loss in losses] == pytest.approx([losses[0][1]] * 5, rel=1e-6)


def test_the_final_model_is_evaluated_once_in_decay_branches_too(tmp_path: Path):
    common = {"data": held_out(tmp_path), "batch": {"schedule": "0: 256"}}
    stable = tiny_config(
        tmp_path,
        name="stable",
        train={"total_tokens": 2048, "eval_interval_tokens": 1500},
        lr={"warmup_tokens": 0, "decay_tokens": 0},
        **common,
    )
    assert run_ranks(stable) == [0]
    assert [tokens for tokens, _, _ in evaluations(stable)] == [1536, 2048]
    assert run_ranks(stable) == [0]
    assert len(evaluations(stable)) == 2
    [first, *_] = sorted((Path(stable.output_dir) / "stable" / "checkpoints").glob("step-*"))
    decaying = tiny_config(
        tmp_path,
        name="stable",
        train={"total_tokens": 2048},
        lr={"warmup_tokens": 0, "decay_tokens": 512},
        **common,
    )
    branch = branch_config(decaying, first)
    assert run_ranks(branch, branch_from=first) == [0]
    assert [tokens for tokens, _, _ in evaluations(branch)] == [branch.train.total_tokens]


def test_a_set_is_never_read_beyond_its_end(tmp_path: Path):
    data = held_out(tmp_path, documents=4)
    config = tiny_config(tmp_path, data=data, train={"eval_tokens": 10_000})
    with pytest.raises(DataError, match=r"train\.eval_tokens = 10K.*sequences of 32\. Nearest"):
        open_held_out(config)
    [found] = open_held_out(tiny_config(tmp_path, data=data)).values()
    held = found.stream.sources["held"].tokens
    assert found.tokens == held // 32 * 32
    short = held_out(tmp_path, documents=1)
    longer = tiny_config(tmp_path, data=short, train={"eval_sequence_length": 128})
    with pytest.raises(DataError, match=r"train\.eval_sequence_length = 128: source 'held'"):
        open_held_out(longer)
