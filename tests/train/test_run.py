"""Whole runs: what a change of batch, layout or branch may change, and what it must not."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

import pytest

from megascale.config import dump_yaml
from megascale.errors import CheckpointError, ConfigError
from megascale.train.branch import branch_config
from megascale.train.checkpoint import list_checkpoints
from tests.tiny_run import MODEL, log_of, run_ranks, signal_at, tiny_config
from tests.verbs.scene import call

TOTAL, WARMUP, DECAY, PEAK = 10240, 1024, 2048, 1e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def dense(folder: Path, name: str, **sections):
    """A dense run, the cheapest kind."""
    sections = {
        "model": MODEL,
        "moe_balance": {
            "window_tokens": None,
            "window_loads": "own",
            "bias_update_per_million_tokens": 0.0,
        },
        "checkpoint": {"interval_steps": None},
        **sections,
    }
    return tiny_config(folder, name=name, **sections)


def checkpoints_of(config) -> list[Path]:
    found = list_checkpoints(Path(config.output_dir) / config.name / "checkpoints")
    return [saved.path for saved in found]


def tree_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


CUTS = {
    "growing": {},
    "constant": {"batch": {"schedule": "0: 512"}},
    "shrinking": {"batch": {"schedule": "0: 1024, 2K: 512, 6K: 256"}},
    "odd": {"batch": {"schedule": "0: 320, 3K: 448"}},
    "longer sequences": {
        "batch": {"schedule": "0: 256, 4K: 512, 7K: 1024", "growth": "sequence_length"}
    },
    "single sequences": {"train": {"micro_batch_size": 1}, "batch": {"schedule": "0: 96, 9K: 768"}},
    "two ranks": {"batch": {"schedule": "0: 256, 4K: 512"}, "ranks": 2},
}


@pytest.fixture(scope="module")
def cut_runs(folder):
    """The log of a run under every way to cut the same stream."""
    logs = {}
    for number, (label, cut) in enumerate(CUTS.items()):
        sections = dict(cut)
        ranks = sections.pop("ranks", 1)
        train = {
            "total_tokens": TOTAL,
            "sequence_length": 32,
            "micro_batch_size": 2,
            "threads": 1,
        } | sections.pop("train", {})
        config = dense(folder, f"cut-{number}", train=train, **sections)
        assert run_ranks(config, ranks) == [0] * ranks
        logs[label] = log_of(config)
    return logs


def test_every_cut_consumes_the_same_tokens(cut_runs):
    ends = {label: log.records[-1] for label, log in cut_runs.items()}
    assert {record["tokens"] for record in ends.values()} == {TOTAL}
    assert len({record["token_hash"] for record in ends.values()}) == 1
    assert len({tuple(log.column("batch_tokens")) for log in cut_runs.values()}) >= 5


def test_sequences_grow_with_the_batch_where_asked(cut_runs):
    log = cut_runs["longer sequences"]
    lengths = dict(zip(log.column("batch_tokens"), log.column("sequence_length"), strict=True))
    assert lengths == {256: 32, 512: 64, 1024: 128}
    assert set(log.column("micro_batches")) == {4}


def test_learning_rate_is_one_function_of_tokens_under_every_cut(cut_runs):
    """In closed form, at the middle of each step's window."""
    for label, log in cut_runs.items():
        start = 0
        for record in log.records:
            middle = (start + record["tokens"]) / 2
            expected = PEAK * min(
                1,
                middle / WARMUP,
                1 - 0.9 * max(0, middle - (TOTAL - DECAY)) / DECAY,
            )
            assert record["lr"] == pytest.approx(expected, rel=1e-12), (label, record["step"])
            start = record["tokens"]


def test_a_run_goes_on_over_other_layouts(folder):
    """One rank, two with DDP, two sharded, two tensor-parallel: the same run to rounding."""
    model = {"model": MODEL, "moe_balance": {"bias_update_per_million_tokens": 0.0}}
    whole = tiny_config(folder, name="one-layout", **model)
    assert run_ranks(whole) == [0]
    stages = [
        (1, {}, 6),
        (2, {"data_mode": "ddp"}, 13),
        (2, {"data_mode": "fsdp"}, 20),
        (2, {"tensor": 2, "sequence_parallel": True}, None),
    ]
    for ranks, parallel, stop in stages:
        config = tiny_config(folder, name="many-layouts", parallel=parallel, **model)
        prepare = None if stop is None else signal_at(stop, signal.SIGTERM)
        expected = 0 if stop is None else 75
        assert run_ranks(config, ranks, prepare=prepare) == [expected] * ranks
    expected, found = log_of(whole), log_of(config)
    assert found.column("token_hash") == expected.column("token_hash")
    assert found.column("loss") == pytest.approx(expected.column("loss"), rel=1e-5)
    assert found.column("grad_norm") == pytest.approx(expected.column("grad_norm"), rel=1e-4)
    resumed = [event for event in found.events if event["kind"] == "resume"]
    assert len(resumed) == 3
    notes = [event["message"] for event in found.events if event["kind"] == "warning"]
    assert any("parallel.data_mode: 'ddp' -> 'fsdp'" in note for note in notes)
    assert any(note.startswith("random generators start afresh") for note in notes)


def test_experts_spread_over_ranks_mid_run(folder):
    whole = tiny_config(folder, name="experts-together")
    config = tiny_config(folder, name="experts-apart")
    assert run_ranks(whole) == [0]
    assert run_ranks(config, prepare=signal_at(8, signal.SIGTERM)) == [75]
    spread = tiny_config(folder, name="experts-apart", parallel={"expert": 2, "data_mode": "fsdp"})
    assert run_ranks(spread, 2) == [0, 0]
    expected, found = log_of(whole), log_of(spread)
    assert found.records[-1]["token_hash"] == expected.records[-1]["token_hash"]
    assert found.column("loss") == pytest.approx(expected.column("loss"), rel=1e-5)


@pytest.fixture(scope="module")
def stable(folder):
    """A stable run stopped in its stable phase, with checkpoints in every LR phase before."""
    config = dense(folder, "stable", checkpoint={"interval_steps": 1, "keep_last": 50})
    assert run_ranks(config) == [0]
    return config


def branch_point(config, tokens: int) -> Path:
    return next(path for path in checkpoints_of(config) if path.name.endswith(f"-{tokens}"))


def test_a_decay_branch_decays_at_once_to_exactly_the_final_rate(folder, stable):
    run_folder = Path(stable.output_dir) / stable.name
    before = tree_hashes(run_folder)
    start = 4096
    checkpoint = branch_point(stable, start)
    config = branch_config(stable, checkpoint)
    assert config.name == f"stable-decay-{start}"
    assert config.train.total_tokens == start + DECAY
    assert run_ranks(config, branch_from=checkpoint) == [0]

    log = log_of(config)
    assert log.records[0]["step"] == log_of(stable).column("tokens").index(start) + 2
    assert log.records[-1]["tokens"] == start + DECAY
    at = start
    for record in log.records:
        middle = (at + record["tokens"]) / 2 - start
        assert record["lr"] == pytest.approx(PEAK * (1 - 0.9 * middle / DECAY), rel=1e-12)
        at = record["tokens"]
    assert log.events[0]["kind"] == "branch"
    # The stable run: only a pin was added, which keeps the checkpoint for ever.
    after = tree_hashes(run_folder)
    pins = [name for name in after if name not in before]
    assert {name: after[name] for name in before} == before
    assert len(pins) == 1
    assert pins[0].startswith(f"checkpoints/pins/{checkpoint.name}.")


def test_the_branchs_first_step_is_the_stable_runs_data(stable, folder):
    """Same weights, same tokens: the first loss of the branch is the stable run's, bit by bit."""
    checkpoint = branch_point(stable, 5120)
    config = branch_config(stable, checkpoint)
    assert run_ranks(config, branch_from=checkpoint) == [0]
    mine = log_of(config).records[0]
    theirs = next(r for r in log_of(stable).records if r["step"] == mine["step"])
    assert (mine["loss_sum"], mine["grad_norm"]) == (theirs["loss_sum"], theirs["grad_norm"])
    assert mine["token_hash"] == theirs["token_hash"]
    assert mine["lr"] < theirs["lr"]


def phases(*mixtures: tuple[int, dict[str, float]]):
    return {"phases": [{"start_tokens": at, "mixture": mixture} for at, mixture in mixtures]}


def test_a_branch_may_read_other_data_from_its_start_on(folder, stable, capfd):
    checkpoint = branch_point(stable, 6144)
    before, better = {"web": 0.75, "code": 0.25}, {"code": 1.0}
    data = phases((0, before), (6144, better))
    config = branch_config(dense(folder, "better", data=data), checkpoint)
    assert run_ranks(config, branch_from=checkpoint) == [0]
    data = phases((0, before), (6016, better))
    config = branch_config(dense(folder, "too-early", data=data), checkpoint)
    assert run_ranks(config, branch_from=checkpoint) == [4]
    assert "at the 6144 positions already consumed" in capfd.readouterr().err


def test_a_branchs_new_data_may_start_where_the_stable_run_ended(folder):
    """The paper's own setup: a stable run to its end, then the decay on better data."""
    stable_end = dense(
        folder,
        "to-the-end",
        train={"total_tokens": 2048},
        lr={"warmup_tokens": 0, "decay_tokens": 0},
        batch={"schedule": "0: 256"},
        data=phases((0, {"web": 0.75, "code": 0.25})),
    )
    assert run_ranks(stable_end) == [0]
    file = folder / "to-the-end.yaml"
    file.write_text(dump_yaml(stable_end))
    checkpoint = branch_point(stable_end, 2048)
    words = [str(file), "--branch-decay", str(checkpoint), "lr.decay_tokens=512"]
    words += ["data.phases=[{start_tokens: 0, mixture: {web: 0.75, code: 0.25}}, "
              "{start_tokens: 2048, mixture: {code: 1.0}}]"]  # fmt: skip
    assert call(["train", *words, "--dry-run"]) == 0
    ahead = ["data.phases=[{start_tokens: 0, mixture: {web: 0.75, code: 0.25}}, "
             "{start_tokens: 4096, mixture: {code: 1.0}}]"]  # fmt: skip
    assert call(["train", str(file), *ahead, "--dry-run"]) == 2


@pytest.mark.parametrize("asked_again", [True, False], ids=["same command", "without the option"])
def test_a_killed_branch_goes_on(folder, stable, asked_again):
    checkpoint = branch_point(stable, 6144)
    overrides = {"checkpoint": {"interval_steps": 2}}
    names = {"whole": f"branch-whole-{asked_again}", "killed": f"branch-killed-{asked_again}"}
    whole, killed = (
        branch_config(dense(folder, name, **overrides), checkpoint) for name in names.values()
    )
    assert run_ranks(whole, branch_from=checkpoint) == [0]
    steps = log_of(whole).column("step")
    kill = signal_at(steps[2], signal.SIGKILL)  # the last of its four steps
    assert run_ranks(killed, branch_from=checkpoint, prepare=kill) == [-signal.SIGKILL]
    assert run_ranks(killed, branch_from=checkpoint if asked_again else None) == [0]
    for key in ("step", "loss_sum", "grad_norm", "lr", "token_hash"):
        assert log_of(killed).column(key) == log_of(whole).column(key)
    assert [e["kind"] for e in log_of(killed).events if e["kind"] in ("branch", "resume")] == [
        "branch",
        "resume",
    ]


@pytest.mark.parametrize(("tokens", "phase"), [(512, "warmup"), (9216, "decay")])
def test_branches_start_in_the_stable_phase_only(stable, tokens, phase):
    with pytest.raises(ConfigError, match=f"lies in the {phase} phase"):
        branch_config(stable, branch_point(stable, tokens))


def test_a_branch_needs_a_decay_and_a_checkpoint(folder, stable):
    checkpoint = branch_point(stable, 4096)
    with pytest.raises(ConfigError, match=r"lr\.decay_tokens = 0"):
        branch_config(dense(folder, "b", lr={"decay_tokens": 0}), checkpoint)
    lr = {"kind": "cosine", "decay_tokens": 0}
    with pytest.raises(ConfigError, match=r"lr\.kind = cosine"):
        branch_config(dense(folder, "b", lr=lr), checkpoint)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        branch_config(stable, checkpoint.with_name("step-00000001-tokens-1"))


def test_the_pinned_checkpoint_outlives_the_retention_policy(folder):
    config = dense(folder, "pinned", checkpoint={"interval_steps": 4, "keep_last": 1})
    assert run_ranks(config, prepare=signal_at(17, signal.SIGTERM)) == [75]
    checkpoint = checkpoints_of(config)[-1]
    branch = branch_config(config, checkpoint)
    assert run_ranks(branch, branch_from=checkpoint) == [0]
    assert run_ranks(config) == [0]
    assert checkpoint in checkpoints_of(config)
    assert len(checkpoints_of(config)) == 2


def test_a_stage_of_longer_sequences_keeps_the_optimizer(folder, stable, capfd):
    """Another base of the rotary frequencies and twice the length, from the end of a stable run."""
    checkpoint = branch_point(stable, 4096)
    longer = {
        "model": {**MODEL, "rope_theta": 5e6, "max_position_embeddings": 256},
        "train": {"sequence_length": 64, "micro_batch_size": 1},
    }
    config = dense(folder, "longer", **longer)
    assert run_ranks(config, branch_from=checkpoint) == [0]
    log = log_of(config)
    assert log.records[0]["sequence_length"] == 64
    assert log.records[0]["tokens"] > 4096
    notes = [event["message"] for event in log.events if event["kind"] == "warning"]
    assert any("model.rope_theta: 1000000.0 in the checkpoint, 5000000.0" in n for n in notes)
    other = dense(folder, "wider", model={**MODEL, "intermediate_size": 64})
    assert run_ranks(other, branch_from=checkpoint) == [4]
    assert "model.intermediate_size: 32 in the checkpoint" in capfd.readouterr().err


def test_joined_micro_batches_are_the_same_run(folder):
    """Fewer passes a step, the same tokens and losses to rounding, also with a trailing balance."""
    configs = [
        tiny_config(folder, name=f"joined-{most}", train={"max_micro_batch_size": most})
        for most in (None, 8)
    ]
    for config in configs:
        assert run_ranks(config) == [0]
    alone, joined = map(log_of, configs)
    assert joined.column("token_hash") == alone.column("token_hash")
    assert joined.column("loss") == pytest.approx(alone.column("loss"), rel=1e-4)
    assert joined.column("aux_loss") == pytest.approx(alone.column("aux_loss"), rel=1e-3)
    assert joined.column("micro_batches") == [n // 4 for n in alone.column("micro_batches")]
