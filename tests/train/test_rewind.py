"""Going back to an older checkpoint of a run: what changes, what is kept, what is marked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from megascale.config import dump_yaml, load_config
from megascale.formats.run_log import read_run
from megascale.runs.table import load_runs
from megascale.train import loop
from megascale.train.checkpoint import list_checkpoints, read_state
from tests.tiny_run import MODEL, log_of, run_ranks, tiny_config
from tests.verbs.scene import call


def dense(folder: Path, name: str, **sections):
    sections = {
        "checkpoint": {"interval_steps": 2, "keep_last": 50},
        "lr": {"decay_tokens": 0},
        **sections,
    }
    train = {"total_tokens": 5120, "eval_interval_tokens": 1024} | sections.pop("train", {})
    data = {
        "phases": [{"start_tokens": 0, "mixture": {"web": 0.75, "code": 0.25}}],
        "validation": {"held": {"path": str(folder / "code")}},
    } | sections.pop("data", {})
    return tiny_config(folder, name=name, model=MODEL, train=train, data=data, **sections)


def checkpoints_of(config) -> dict[int, Path]:
    found = list_checkpoints(Path(config.output_dir) / config.name / "checkpoints")
    return {saved.tokens: saved.path for saved in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def plain(folder):
    """A run to its end, never rewound."""
    config = dense(folder, "plain")
    assert run_ranks(config) == [0]
    return config


def test_the_same_config_gives_the_same_run_again(folder, plain):
    """Optimizer, random numbers and data position come back: bit by bit what was before."""
    config = dense(folder, "again")
    assert run_ranks(config) == [0]
    assert run_ranks(config, rewind_to=checkpoints_of(config)[2048]) == [0]
    mine, theirs = log_of(config), log_of(plain)
    for key in ("step", "tokens", "loss_sum", "grad_norm", "lr", "token_hash"):
        assert mine.column(key) == theirs.column(key)


def test_another_rate_and_a_longer_run_from_an_older_checkpoint(folder, plain):
    config = dense(folder, "longer")
    assert run_ranks(config) == [0]
    before = log_of(config)
    start = checkpoints_of(config)[2048]
    longer = dense(
        folder,
        "longer",
        train={"total_tokens": 6144},
        lr={"peak": 5e-3, "decay_tokens": 1024},
    )
    assert run_ranks(longer, rewind_to=start) == [0]
    after = log_of(longer)
    assert after.records[-1]["tokens"] == 6144
    assert [r["loss_sum"] for r in after.records if r["tokens"] <= 2048] == [
        r["loss_sum"] for r in before.records if r["tokens"] <= 2048
    ]
    rates = [r["lr"] for r in after.records if 2048 < r["tokens"] <= 5120]
    assert rates == [5e-3] * len(rates)
    # The first step's loss is that of the weights before its update: the same data, the same loss.
    first = next(r for r in after.records if r["tokens"] > 2048)
    other = next(r for r in before.records if r["step"] == first["step"])
    assert first["loss_sum"] == other["loss_sum"]


def test_what_was_abandoned_is_kept_and_passed_over(folder):
    config = dense(folder, "marked")
    assert run_ranks(config) == [0]
    path = Path(config.output_dir) / config.name
    lines = (path / "metrics.jsonl").read_bytes()
    abandoned = {tokens: file.name for tokens, file in checkpoints_of(config).items()}
    slower = dense(folder, "marked", lr={"peak": 1e-3, "decay_tokens": 0})
    assert run_ranks(slower, rewind_to=checkpoints_of(config)[2048]) == [0]

    assert (path / "metrics.jsonl").read_bytes().startswith(lines)  # nothing is taken out
    aside = {file.name for file in (path / "checkpoints" / "set-aside").iterdir()}
    assert aside == {name for tokens, name in abandoned.items() if tokens > 2048}
    markers = [json.loads(line) for line in (path / "metrics.jsonl").read_bytes().splitlines()]
    assert [m["resumed_at_tokens"] for m in markers if m.get("rewound")] == [2048]

    run = read_run(path)
    assert {r["attempt"] for r in run.records if r["tokens"] > 2048} == {2}
    evaluations = [e for e in run.events if e["kind"] == "evaluation"]
    assert len({e["tokens"] for e in evaluations}) == len(evaluations) == 5
    assert {e["attempt"] for e in evaluations if e["tokens"] > 2048} == {2}
    assert {e["attempt"] for e in run.abandoned_events} == {1}
    table = load_runs([str(path)]).table
    assert sorted(table["tokens"].to_list()) == sorted(
        [*run.column("tokens"), *(e["tokens"] for e in evaluations)]
    )


def test_the_same_command_again_resumes(folder):
    """As torchrun and a requeued job do it: what was done since is not thrown away."""
    config = dense(folder, "requeued")
    assert run_ranks(config) == [0]
    start = checkpoints_of(config)[2048]
    slower = dense(folder, "requeued", lr={"peak": 1e-3, "decay_tokens": 0})

    def stop_at_12() -> None:
        original = loop.accumulate_gradients

        def accumulate(parallel, mesh, optimizer, loaded, **rest):
            if loaded.step == 12:
                raise SystemExit(9)
            return original(parallel, mesh, optimizer, loaded, **rest)

        loop.accumulate_gradients = accumulate

    assert run_ranks(slower, rewind_to=start, prepare=stop_at_12) != [0]
    reached = max(checkpoints_of(slower))
    assert reached > 2048
    assert run_ranks(slower, rewind_to=start) == [0]
    kinds = [e["kind"] for e in log_of(slower).events if e["kind"] in ("start", "rewind", "resume")]
    assert kinds == ["start", "rewind", "resume"]
    assert log_of(slower).events[-1]["exit_code"] == 0


def test_two_ranks_go_back_together(folder):
    config = dense(folder, "two", batch={"schedule": "0: 256"})
    assert run_ranks(config, 2) == [0, 0]
    slower = dense(
        folder, "two", batch={"schedule": "0: 256"}, lr={"peak": 1e-3, "decay_tokens": 0}
    )
    assert run_ranks(slower, 2, rewind_to=checkpoints_of(config)[2048]) == [0, 0]
    assert [e["kind"] for e in log_of(slower).events if e["kind"] == "rewind"] == ["rewind"]


def test_a_window_of_the_data_is_left_out_and_recorded(folder, plain):
    config = dense(folder, "skipping")
    assert run_ranks(config) == [0]
    start = checkpoints_of(config)[2048]
    data = {"skip_tokens": ["2.56K:3.584K"]}
    skipping = dense(folder, "skipping", data=data)
    assert run_ranks(skipping, rewind_to=start) == [0]
    mine, theirs = log_of(skipping), log_of(plain)
    hashes = {r["tokens"]: r["token_hash"] for r in mine.records}
    others = {r["tokens"]: r["token_hash"] for r in theirs.records}
    assert hashes[2560] == others[2560]
    assert all(hashes[tokens] != others[tokens] for tokens in hashes if tokens > 2560)
    assert mine.records[-1]["tokens"] == theirs.records[-1]["tokens"]
    state = read_state(checkpoints_of(skipping)[5120])
    assert state["skip_tokens"] == [[2560, 3584]]
    again = load_config(Path(config.output_dir) / config.name / "config.yaml", [])
    assert again.data.skip_tokens == ((2560, 3584),)


def test_a_window_that_was_consumed_cannot_be_left_out(folder, capfd):
    config = dense(folder, "too-late")
    assert run_ranks(config) == [0]
    data = {"skip_tokens": ["1K:1.5K"]}
    late = dense(folder, "too-late", data=data)
    assert run_ranks(late, rewind_to=checkpoints_of(config)[2048]) == [4]
    assert "at the 2048 positions already consumed" in capfd.readouterr().err


def test_the_verb_goes_back_and_says_why_it_cannot(folder, plain, capsys):
    file = folder / "plain.yaml"
    file.write_text(dump_yaml(plain))
    start = checkpoints_of(plain)[2048]
    words = ["train", str(file), "--from", str(start), "lr.peak=1e-3"]
    assert call([*words, "train.total_tokens=6K", "--dry-run"]) == 0
    assert call([*words, "seed=8", "--dry-run"]) == 5
    assert call([*words, "name=another", "--dry-run"]) == 4
    assert call([*words, "--branch-decay", str(start), "--dry-run"]) == 2
    lost = start.with_name("step-00000009-tokens-9")
    capsys.readouterr()
    assert call(["train", str(file), "--from", str(lost), "--dry-run"]) == 4
    assert str(max(checkpoints_of(plain).values())) in capsys.readouterr().err


def test_the_guard_names_a_checkpoint_from_before_the_fault_and_the_way_back(folder, capfd):
    """NaN gradients at steps 9 and 11 to 13; the checkpoint after step 10 lies between them."""
    guard = {"nonfinite_budget": 2, "window_tokens": 100_000}
    config = dense(folder, "faulty", guard=guard)

    def poison() -> None:
        original = loop.accumulate_gradients

        def accumulate(parallel, mesh, optimizer, loaded, **rest):
            statistics, gradients = original(parallel, mesh, optimizer, loaded, **rest)
            if loaded.step in (8, 10, 11, 12):
                statistics.grad_norm = float("nan")
            return statistics, gradients

        loop.accumulate_gradients = accumulate

    assert run_ranks(config, prepare=poison) == [6]
    found = capfd.readouterr().err
    assert max(checkpoints_of(config)) == 2560  # between the faults
    good = checkpoints_of(config)[2048]
    assert f"--from {good}" in found
    window = re.search(r"data.skip_tokens=\"\['([^']+)'\]\"", found)
    assert window is not None
    data = {"skip_tokens": [window.group(1)]}
    skipping = dense(folder, "faulty", guard=guard, data=data)
    assert skipping.data.skip_tokens == ((2048, 3072),)
    assert run_ranks(skipping, rewind_to=good) == [0]
