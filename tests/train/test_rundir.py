"""The run directory: one owner, one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import yaml

from megascale.errors import RunError
from megascale.train.rundir import RunDirectory, flatten, write_durably
from tests.train.checkpoint_samples import files_below

CONFIG = {
    "name": "demo",
    "model": {"hidden_size": 64, "num_experts": 8},
    "train": {"total_tokens": 1000, "micro_batch_size": 2},
    "batch": {"schedule": "0: 100"},
    "parallel": {"data": 1},
    "lr": {"peak": 0.01},
}
IDENTITY = {"tokenizer": "aaa"}


def changed(**sections):
    return {
        key: (value | sections.get(key, {})) if isinstance(value, dict) else value
        for key, value in CONFIG.items()
    }


def begin(directory, config=CONFIG, identity=IDENTITY, **options):
    text = yaml.safe_dump(config)
    return directory.begin(
        config=config, config_yaml=text, digest=str(hash(text)), identity=identity, **options
    )


def test_new_run_saves_config_and_is_then_begun(tmp_path):
    with RunDirectory(tmp_path / "a" / "run") as directory:
        assert not directory.begun
        assert begin(directory) == []
        assert directory.begun
        assert yaml.safe_load((directory.path / "config.yaml").read_text()) == CONFIG
    with RunDirectory(tmp_path / "a" / "run") as directory:
        assert begin(directory) == []
        assert [p.name for p in (directory.path / "configs").iterdir()] == ["0001.yaml"]


def test_a_real_config_is_the_same_run_as_itself(tmp_path, repository):
    """However counts are written in YAML ("2B"): what is compared are the values."""
    from megascale.config import dump_yaml, load_config

    def start(*overrides):
        config = load_config(repository / "configs" / "reference.yaml", list(overrides))
        return directory.begin(
            config=config.model_dump(mode="json"),
            config_yaml=dump_yaml(config),
            digest=config.digest(),
            identity=IDENTITY,
        )

    with RunDirectory(tmp_path) as directory:
        assert start() == []
        assert start() == []
        assert start("log.interval_steps=7") == ["log.interval_steps: 1 -> 7"]
        with pytest.raises(RunError, match=r"train\.total_tokens: 600000000000 -> 700000000000"):
            start("train.total_tokens=700B")


def test_second_process_is_told_who_holds_it(tmp_path):
    with RunDirectory(tmp_path), pytest.raises(RunError) as caught:
        RunDirectory(tmp_path)
    message = str(caught.value)
    assert f"in use by pid {os.getpid()} on host" in message
    assert "since 20" in message
    RunDirectory(tmp_path).close()  # released with the block


def test_lock_dies_with_its_process(tmp_path):
    code = (
        "import sys, time\n"
        "from megascale.train.rundir import RunDirectory\n"
        "held = RunDirectory(sys.argv[1]); print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"pid {holder.pid}"):
        RunDirectory(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    RunDirectory(tmp_path).close()


@pytest.mark.parametrize(
    "change",
    [
        {"parallel": {"data": 4, "tensor": 2}},
        {"batch": {"schedule": "0: 100, 500: 200"}},
        {"train": {"micro_batch_size": 4}},
        {"train": {"compile": "blocks"}},
    ],
)
def test_layout_and_remaining_batch_schedule_may_change(tmp_path, change):
    with RunDirectory(tmp_path) as directory:
        begin(directory)
        lines = begin(directory, changed(**change))
        assert lines
        assert len(list((tmp_path / "configs").iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"hidden_size": 128}}, "model.hidden_size: 64 -> 128"),
        ({"train": {"total_tokens": 2000}}, "train.total_tokens: 1000 -> 2000"),
        ({"lr": {"peak": 0.02}}, "lr.peak: 0.01 -> 0.02"),
        ({"model": {"extra": 1}}, "model.extra: None -> 1"),
    ],
)
def test_another_run_is_refused_and_nothing_changes(tmp_path, change, named):
    with RunDirectory(tmp_path) as directory:
        begin(directory)
        before = files_below(tmp_path)
        with pytest.raises(RunError) as caught:
            begin(directory, changed(**change))
        assert named in str(caught.value)
        assert files_below(tmp_path) == before
        key = named.split(":")[0]
        assert begin(directory, changed(**change), allow_changed=[key]) != []


def test_changed_fingerprint_is_refused_by_name(tmp_path):
    name = "tokenizer"
    other = IDENTITY | {name: "zzz"}
    with RunDirectory(tmp_path) as directory:
        begin(directory)
        with pytest.raises(RunError, match=f"{name} fingerprint: .* -> zzz"):
            begin(directory, identity=other)
        assert begin(directory, identity=other, allow_changed=[name]) == []


def test_file_in_the_way_and_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="run directory = "):
        RunDirectory(tmp_path / "file")
    with pytest.raises(RunError, match="run directory = /proc/nothing"):
        RunDirectory("/proc/nothing")


def test_read_only_directory(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c"),
            'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -c "$3" "$1"',
            *("sh", str(target), sys.executable),
            "import sys; from megascale.train.rundir import *; RunDirectory(sys.argv[1])",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("needs the right to mount")
    assert "RunError: run directory = " in done.stderr
    assert "Read-only file system; make it writable" in done.stderr


def test_durable_write_replaces_or_leaves(tmp_path):
    path = tmp_path / "file"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_flatten_leaves_lists_whole_and_drops_nothing_but_none():
    assert flatten({"a": {"b": [1, 2], "c": None}, "d": 0}) == {"a.b": [1, 2], "d": 0}


def test_a_run_begun_before_a_key_existed_goes_on(tmp_path, repository):
    """Keys that came later stand at their defaults; another value than that is a change."""
    from megascale.config import dump_yaml, load_config
    from megascale.train.rundir import saved_form

    config = load_config(repository / "configs" / "quickstart.yaml")
    saved = saved_form(config)
    earlier = {**saved, "data": {**saved["data"]}, "optimizer": {**saved["optimizer"]}}
    del earlier["data"]["validation_seed"], earlier["data"]["mask_documents"]
    del earlier["optimizer"]["eps"]

    def start(form, directory):
        return directory.begin(
            config=form, config_yaml=dump_yaml(config), digest="", identity=IDENTITY
        )

    with RunDirectory(tmp_path) as directory:
        assert start(earlier, directory) == []
        assert start(saved, directory) == []
        other = {**saved, "optimizer": {**saved["optimizer"], "eps": 1e-6}}
        with pytest.raises(RunError, match=r"optimizer\.eps: 1e-08 -> 1e-06"):
            start(other, directory)
    gone = {**saved, "train": {**saved["train"], "no_longer": 1}}
    (tmp_path / "gone").mkdir()
    with RunDirectory(tmp_path / "gone") as directory:
        start(gone, directory)
        with pytest.raises(RunError, match=r"train\.no_longer: 1 -> None"):
            start(saved, directory)


def test_checkpoints_of_a_model_from_before_a_key_existed_are_of_the_same_model(repository):
    from megascale.errors import CheckpointError
    from megascale.model.config import read_model_config
    from megascale.train.checkpoint import check_same_model

    preset = repository / "configs" / "models" / "nano-moe.yaml"
    model = read_model_config(preset).model_dump(mode="json")
    earlier = {key: value for key, value in model.items() if key != "shared_expert_gate"}
    check_same_model("checkpoint", earlier, model)
    with pytest.raises(CheckpointError, match=r"model\.hidden_size"):
        check_same_model("checkpoint", earlier, model | {"hidden_size": 32})
