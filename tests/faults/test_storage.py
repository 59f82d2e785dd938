"""Disks that fill up, logs that cannot be written, data that is gone or another."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from megascale.config import build_config
from megascale.errors import RunError
from megascale.train import loop
from megascale.train.checkpoint import list_checkpoints
from megascale.train.checks import check_run
from tests.tiny_run import (
    MODEL,
    log_of,
    run_ranks,
    signal_at,
    tiny_config,
    trajectory,
    write_source,
)
from tests.train.checkpoint_samples import run_in_mount


def at_steps(actions: dict[int, Callable[[], None]]) -> Callable[[], None]:
    """For `prepare`: call something as each of these steps (from 0) begins."""

    def prepare() -> None:
        original = loop.accumulate_gradients

        def accumulate(parallel, mesh, optimizer, loaded, **rest):
            if loaded.step in actions:
                actions[loaded.step]()
            return original(parallel, mesh, optimizer, loaded, **rest)

        loop.accumulate_gradients = accumulate

    return prepare


def allow_files_of(size: int) -> Callable[[], None]:
    """The kernel refuses to write beyond `size` bytes of any file, as it does on a full disk."""

    def limit() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    return limit


NO_LIMIT = resource.RLIM_INFINITY
BELOW_A_CHECKPOINT = 30_000  # bytes: more than the logs take, less than half the weights


def dense(folder: Path, name: str, **sections):
    sections = {
        "model": MODEL,
        "moe_balance": {"bias_update_per_million_tokens": 0.0},
        "batch": {"schedule": "0: 512"},
        **sections,
    }
    return tiny_config(folder, name=name, **sections)


def saved_steps(config) -> list[int]:
    folder = Path(config.output_dir) / config.name / "checkpoints"
    return [saved.step for saved in list_checkpoints(folder)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def undisturbed(folder) -> list:
    """The trajectory of a run of 20 steps that nothing disturbed."""
    config = dense(folder, "undisturbed")
    assert run_ranks(config) == [0]
    return trajectory(config)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_disk_full_for_a_while_costs_checkpoints_only(folder, undisturbed, ranks, asynchronous):
    checkpoint = {"interval_steps": 3, "async_save": asynchronous, "keep_last": 9}
    config = dense(folder, f"full-{ranks}-{asynchronous}", checkpoint=checkpoint)
    disk = at_steps({7: allow_files_of(BELOW_A_CHECKPOINT), 13: allow_files_of(NO_LIMIT)})
    assert run_ranks(config, ranks, prepare=disk) == [0] * ranks
    saved = saved_steps(config)
    # a save in the background may or may not be done when the disk fills up, or has room again
    between = {6, 12} if asynchronous else set()
    missing = {9, 12} | between
    missing -= {step for step in between if step in saved}
    assert saved == [step for step in (3, 6, 9, 12, 15, 18, 20) if step not in missing]
    warnings = [event for event in log_of(config).events if event["kind"] == "warning"]
    assert len(warnings) == len(missing)
    assert all("training goes on: checkpoint = " in event["message"] for event in warnings)
    assert all("File too large; free some space" in event["message"] for event in warnings)
    if ranks == 1:
        assert trajectory(config) == undisturbed


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_last_checkpoint_must_succeed(folder, undisturbed, capfd, asynchronous):
    checkpoint = {"interval_steps": 3, "async_save": asynchronous}
    config = dense(folder, f"full-at-the-end-{asynchronous}", checkpoint=checkpoint)
    disk = at_steps({17: allow_files_of(BELOW_A_CHECKPOINT)})
    assert run_ranks(config, prepare=disk) == [5]
    message = capfd.readouterr().err
    assert message.startswith("checkpoint = ")
    assert "start the same command again" in message
    assert saved_steps(config) == [9, 12, 15]
    assert run_ranks(config) == [0]
    assert trajectory(config) == undisturbed


def test_so_must_the_one_after_a_signal(folder, undisturbed, capfd):
    config = dense(folder, "full-after-signal")
    disk = at_steps({8: allow_files_of(BELOW_A_CHECKPOINT)})
    stop = signal_at(10, signal.SIGTERM)

    def prepare():
        disk()
        stop()

    assert run_ranks(config, prepare=prepare) == [5]
    assert "File too large" in capfd.readouterr().err
    assert saved_steps(config) == [3, 6]
    assert run_ranks(config) == [0]
    assert trajectory(config) == undisturbed


def test_a_log_that_cannot_be_written_stops_the_run(folder, undisturbed, capfd):
    config = dense(folder, "no-log")
    assert run_ranks(config, prepare=at_steps({9: allow_files_of(3_000)})) == [5]
    message = capfd.readouterr().err
    assert message.startswith("run log = ")
    assert "metrics.jsonl" in message
    assert "Traceback" not in message
    assert run_ranks(config) == [0]
    assert trajectory(config) == undisturbed


RUN_HERE = """
import sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from tests.tiny_run import run_ranks, tiny_config
{config}
sys.exit(run_ranks(config)[0])
"""


def test_a_read_only_output_directory(tmp_path, repository):
    write_source(tmp_path / "web", seed=0)
    write_source(tmp_path / "code", seed=1)
    before = sorted(path.name for path in tmp_path.iterdir())
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
    body = "config = tiny_config(Path(sys.argv[1]))"
    done = run_in_mount(mount, tmp_path, RUN_HERE.format(repository=str(repository), config=body))
    assert done.returncode == 5
    assert done.stderr.startswith("run directory = ")
    assert "Read-only file system; make it writable" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def own_data(tmp_path: Path, **sections):
    """A run over token files of its own, which the test may spoil."""
    return dense(tmp_path, "own", **sections)


def test_data_deleted_under_a_running_run_stays_readable(tmp_path, undisturbed):
    config = own_data(tmp_path)

    def delete():
        for file in [*tmp_path.glob("*.bin"), *tmp_path.glob("*.idx")]:
            file.unlink()

    assert run_ranks(config, prepare=at_steps({5: delete})) == [0]
    assert trajectory(config) == undisturbed


@pytest.mark.parametrize("name", ["web.bin", "code.idx"])
def test_data_missing_at_a_restart(tmp_path, undisturbed, capfd, name):
    config = own_data(tmp_path)
    assert run_ranks(config, prepare=signal_at(8, signal.SIGTERM)) == [75]
    before = trajectory(config)
    (tmp_path / name).rename(tmp_path / "away")
    assert run_ranks(config) == [3]
    message = capfd.readouterr().err
    assert f"{tmp_path / name} = missing: no such file" in message
    assert "Traceback" not in message
    assert trajectory(config) == before
    (tmp_path / "away").rename(tmp_path / name)
    assert run_ranks(config) == [0]
    assert trajectory(config) == undisturbed


def test_another_corpus_is_refused_unless_allowed(tmp_path, undisturbed, capfd):
    config = own_data(tmp_path)
    assert run_ranks(config, prepare=signal_at(8, signal.SIGTERM)) == [75]
    kept = tmp_path / "kept"
    shutil.copytree(Path(config.output_dir), kept)
    write_source(tmp_path / "web", seed=5)
    assert run_ranks(config) == [4]
    assert "--allow-changed past" in capfd.readouterr().err
    assert tree(Path(config.output_dir)) == tree(kept)
    assert run_ranks(config, allow_changed=("all",)) == [4]
    assert run_ranks(config, allow_changed=("past",)) == [0]
    assert any("WARNING: the data" in e.get("message", "") for e in log_of(config).events)
    assert trajectory(config)[:9] == undisturbed[:9]
    assert trajectory(config)[9:] != undisturbed[9:]


def test_a_corpus_that_only_grew_is_told_too(tmp_path, capfd):
    """The tokens consumed so far would be others: epochs and shuffles depend on the size."""
    config = own_data(tmp_path)
    assert run_ranks(config, prepare=signal_at(8, signal.SIGTERM)) == [75]
    write_source(tmp_path / "web", seed=0, documents=61)
    assert run_ranks(config) == [4]
    assert "the data of this config gives other tokens" in capfd.readouterr().err


def test_another_tokenizer_is_refused_unless_allowed(tmp_path, undisturbed, capfd):
    """The same token ids under another tokenizer would mean other text."""

    def config_with(tokenizer: str):
        (tmp_path / "tokenizer.json").write_text(tokenizer)
        digest = hashlib.sha256(tokenizer.encode()).hexdigest()
        for sidecar in tmp_path.glob("*.meta.json"):
            content = json.loads(sidecar.read_text())
            sidecar.write_text(json.dumps(content | {"tokenizer_sha256": digest}))
        return own_data(tmp_path, data=data)

    data = {"tokenizer": str(tmp_path / "tokenizer.json")}
    own_data(tmp_path)  # writes the sources
    config = config_with("first")
    assert run_ranks(config, prepare=signal_at(8, signal.SIGTERM)) == [75]
    (tmp_path / "tokenizer.json").write_text("second")
    assert run_ranks(config) == [3]  # not the one the sources were made with
    assert "tokenizer" in capfd.readouterr().err
    config = config_with("second")
    assert run_ranks(config) == [4]
    assert "tokenizer" in capfd.readouterr().err
    assert run_ranks(config, allow_changed=("past",)) == [5]
    assert "tokenizer fingerprint" in capfd.readouterr().err
    assert run_ranks(config, allow_changed=("tokenizer", "past")) == [0]
    assert trajectory(config) == undisturbed


@pytest.mark.parametrize("anew", [False, True], ids=["removed", "made anew"])
def test_a_run_directory_that_is_no_longer_its_own_is_left_alone(tmp_path, capfd, anew):
    """Two runs would otherwise write one `checkpoints/`."""
    config = own_data(tmp_path)
    path = Path(config.output_dir) / config.name

    def remove():
        shutil.move(path, tmp_path / "moved")
        if anew:
            path.mkdir()
            (path / "run.lock").touch()

    assert run_ranks(config, 2, prepare=at_rank_0({7: remove})) == [5, 5]
    message = capfd.readouterr().err
    assert f"run directory = {path}: was removed, moved or made anew" in message
    assert "Traceback" not in message
    assert [file.name for file in path.glob("*")] == (["run.lock"] if anew else [])


def at_rank_0(actions: dict[int, Callable[[], None]]) -> Callable[[], None]:
    """`at_steps` on the first of several ranks."""

    def prepare() -> None:
        if os.environ["RANK"] == "0":
            at_steps(actions)()

    return prepare


@pytest.mark.parametrize("damage", ["checkpoints is a file", "config.json is gone"])
def test_a_run_directory_that_lacks_what_it_needs_is_one_message(tmp_path, damage):
    config = own_data(tmp_path)
    assert run_ranks(config, prepare=signal_at(8, signal.SIGTERM)) == [75]
    path = Path(config.output_dir) / config.name
    if damage == "config.json is gone":
        (path / "config.json").unlink()
        words = "but no config.json, which says of which run"
    else:
        shutil.rmtree(path / "checkpoints")
        (path / "checkpoints").touch()
        words = "its `checkpoints` is a file, and must be a directory"
    with pytest.raises(RunError) as caught:
        check_run(config, 1)
    assert words in str(caught.value)


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file, but that of the lock, which names the last process."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.lock"
    }


def test_what_lies_ahead_may_change_and_the_data_may_move(tmp_path, undisturbed):
    """A future mixture, another place of the same files and a validation set need no switch."""
    config = own_data(tmp_path)
    assert run_ranks(config, prepare=signal_at(8, signal.SIGTERM)) == [75]
    (tmp_path / "moved").mkdir()
    for file in tmp_path.glob("web.*"):
        file.rename(tmp_path / "moved" / file.name)
    content = config.model_dump(mode="json")
    content["data"]["sources"]["web"]["path"] = [str(tmp_path / "moved" / "web")]
    [begin, *_] = [p["start_tokens"] for p in content["data"]["phases"] if p["start_tokens"]]
    content["data"]["phases"][1]["mixture"] = {"web": 1.0}
    held = write_source(tmp_path / "held", seed=9)
    content["data"]["validation"] = {"held": {"path": [str(held)]}}
    assert run_ranks(build_config(content)) == [0]
    steps = [entry for entry in undisturbed if entry[1] <= begin]
    assert 9 < len(steps) < len(undisturbed)
    assert trajectory(config)[: len(steps)] == steps
    assert trajectory(config)[len(steps) :] != undisturbed[len(steps) :]


def test_a_learning_rate_that_jumps_on_a_resume_is_told(tmp_path):
    """In the decay, a longer budget would raise the learning rate again and decay twice."""
    config = own_data(tmp_path)
    assert run_ranks(config, prepare=signal_at(17, signal.SIGTERM)) == [75]
    content = config.model_dump(mode="json")
    content["train"]["total_tokens"] = 2 * config.train.total_tokens
    longer = build_config(content)
    assert run_ranks(longer, allow_changed=("train.total_tokens",)) == [0]
    said = [e["message"] for e in log_of(config).events if "jumps from" in e.get("message", "")]
    assert len(said) == 1
    assert "the learning rate jumps from" in said[0]
    assert "step-00000015-tokens-7680, the last of the stable phase, would not" in said[0]
