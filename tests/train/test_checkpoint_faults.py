"""Checkpoints under kills, damage, full and read-only disks."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from megascale.errors import CheckpointError, RunError
from megascale.train.checkpoint import (
    Checkpointer,
    Retention,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from megascale.train.checkpoint import storage as storage_module
from tests.train.checkpoint_samples import (
    empty_like,
    equal,
    files_below,
    run_in_mount,
    sample_chunks,
    whole,
)


def save(directory, *steps, **options):
    checkpointer = Checkpointer(directory, retention=Retention(keep_last=10), **options)
    for step in steps:
        checkpointer.save(step=step, tokens=step, chunks=sample_chunks(step), state={"n": step})
    checkpointer.close()


def _save_until_killed(folder: Path, mode: str, report: int) -> None:
    """A training life: resume, then save as fast as possible, telling each finished call."""
    torch.set_num_threads(1)
    found = latest_checkpoint(folder, move_damaged=True)
    weight = torch.zeros(200, 1000)
    begin = load_checkpoint(found.path, [whole("w", weight)])["n"] if found else 0
    assert torch.all(weight == begin)
    checkpointer = Checkpointer(
        folder, retention=Retention(keep_last=2), asynchronous=mode == "async"
    )
    for n in itertools.count(begin + 1):
        weight.fill_(n)
        checkpointer.save(step=n, tokens=n, chunks=[whole("w", weight)], state={"n": n})
        os.write(report, f"{n}\n".encode())


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_sigkill_at_random_moments_always_leaves_a_whole_checkpoint(tmp_path, mode):
    """Each life resumes from the last and dies in the middle of what it is doing."""
    delays = random.Random(mode)
    newest = 0
    for _ in range(12):
        receive, report = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _save_until_killed(tmp_path, mode, report)
            finally:
                os._exit(1)
        os.close(report)
        with open(receive) as lines:
            told = [int(next(lines)), int(next(lines))]
            time.sleep(delays.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            told += [int(line) for line in lines]
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        found = latest_checkpoint(tmp_path)
        assert found.rejected == []
        weight = torch.zeros(200, 1000)
        state = load_checkpoint(found.path, [whole("w", weight)])
        assert torch.all(weight == state["n"])
        # what a finished call promised is there (async: the last call may still be in flight)
        assert state["n"] >= told[-1] - (mode == "async")
        assert state["n"] > newest
        newest = state["n"]
        assert len(list_checkpoints(tmp_path)) <= 3


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path):
    os.truncate(path, path.stat().st_size - 10)


DAMAGE = {"flip": flip, "truncate": truncate, "delete": lambda path: path.unlink()}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(
    "name", ["rank-00000.safetensors", "index.json", "state.json", "manifest.json"]
)
def test_damaged_newest_falls_back_loudly_to_the_one_before(tmp_path, name, how):
    save(tmp_path, 1, 2, 3)
    DAMAGE[how](tmp_path / "step-00000003-tokens-3" / name)
    found = latest_checkpoint(tmp_path)
    assert found.saved.step == 2
    assert found.set_aside == []
    assert "step-00000003-tokens-3" in found.rejected[0]
    loaded = empty_like(sample_chunks())
    load_checkpoint(found.path, loaded)
    assert equal(loaded, sample_chunks(2))


def test_damaged_ones_are_moved_aside_so_that_their_step_can_be_saved_again(tmp_path):
    save(tmp_path, 1, 2, 3)
    for step in (2, 3):
        flip(tmp_path / f"step-0000000{step}-tokens-{step}" / "rank-00000.safetensors")
    found = latest_checkpoint(tmp_path, move_damaged=True)
    assert found.saved.step == 1
    assert [path.name for path in found.set_aside] == [
        "step-00000003-tokens-3",
        "step-00000002-tokens-2",
    ]
    assert all(path.is_dir() for path in found.set_aside)
    save(tmp_path, 2, 3)
    assert latest_checkpoint(tmp_path).rejected == []


def test_all_damaged_is_an_error_that_lists_them(tmp_path):
    save(tmp_path, 1, 2)
    for saved in list_checkpoints(tmp_path):
        flip(saved.path / "state.json")
    with pytest.raises(CheckpointError, match=r"all 2 are damaged.*tokens-2.*tokens-1"):
        latest_checkpoint(tmp_path)


def test_unverified_lookup_takes_the_newest_and_loading_it_is_still_an_error(tmp_path):
    save(tmp_path, 1, 2)
    truncate(tmp_path / "step-00000002-tokens-2" / "rank-00000.safetensors")
    found = latest_checkpoint(tmp_path, verify=False)
    assert found.saved.step == 2
    with pytest.raises(CheckpointError, match=r"rank-00000\.safetensors: cannot be read"):
        load_checkpoint(found.path, empty_like(sample_chunks()))


SAVE_INTO_FULL = """
import os, sys, shutil, torch
torch.set_num_threads(1)
from collections import namedtuple
from megascale.errors import RunError
from megascale.train.checkpoint import Checkpointer, latest_checkpoint, load_checkpoint
from tests.train.checkpoint_samples import whole
folder, check = sys.argv[1] + '/checkpoints', {check}
if not check:  # as on a disk that another process fills while we write
    Usage = namedtuple('Usage', 'total used free')
    shutil.disk_usage = lambda path: Usage(1 << 40, 0, 1 << 40)
weight = torch.full((1000, 1000), 1.0)
checkpointer = Checkpointer(folder, asynchronous={asynchronous})
checkpointer.save(step=1, tokens=1, chunks=[whole('w', weight)], state=dict())
checkpointer.collect()
weight.fill_(2)
try:
    checkpointer.save(step=2, tokens=2, chunks=[whole('w', weight)], state=dict())
    checkpointer.collect()
except RunError as failure:
    print(failure)
assert os.listdir(folder) == ['step-00000001-tokens-1'], os.listdir(folder)
assert torch.all(weight == 2)  # training could go on
back = torch.zeros(1000, 1000)
load_checkpoint(latest_checkpoint(folder).path, [whole('w', back)])
assert torch.all(back == 1)
print('whole')
"""


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_full_disk_is_one_message_and_loses_nothing(tmp_path, repository, check, asynchronous):
    """A real full file system: 6 MB for two checkpoints of 4 MB."""
    code = f"import sys; sys.path.insert(0, {str(repository)!r})\n" + SAVE_INTO_FULL.format(
        check=check, asynchronous=asynchronous
    )
    done = run_in_mount('mount -t tmpfs -o size=6m tmpfs "$1"', tmp_path, code)
    assert done.returncode == 0, done.stderr
    message, last = done.stdout.splitlines()
    assert re.match(r"checkpoint = .*: No space left on device; free some space", message)
    assert last == "whole"


def test_read_only_directory_is_one_message(tmp_path, repository):
    save(tmp_path, 1)
    code = (
        f"import sys; sys.path.insert(0, {str(repository)!r})\n"
        "from tests.train.test_checkpoint_faults import save\n"
        "save(sys.argv[1], 2)"
    )
    setup = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
    done = run_in_mount(setup, tmp_path, code)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("megascale.errors.RunError: checkpoint = ")
    assert "Read-only file system; make it writable" in last
    assert [saved.step for saved in list_checkpoints(tmp_path)] == [1]


@pytest.mark.parametrize("victim", ["rank-00000.safetensors", "state.json", "manifest.json"])
def test_io_error_in_any_file_leaves_the_old_set(tmp_path, monkeypatch, victim):
    save(tmp_path, 1)
    before = files_below(tmp_path)
    fsync = os.fsync

    def failing(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(victim):
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(RunError, match="Input/output error"):
        save(tmp_path, 2)
    assert files_below(tmp_path) == before
    assert not any(path.name.startswith(".tmp") for path in tmp_path.iterdir())


def test_everything_is_on_the_disk_before_the_name_appears(tmp_path, monkeypatch):
    """Every file and the folder are synced before the rename, the parent after it."""
    calls = []
    fsync, rename = os.fsync, os.rename

    def recording(descriptor):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append("rename"), rename(a, b)))
    save(tmp_path, 1)
    name = "step-00000001-tokens-1"
    files = set(os.listdir(tmp_path / name))
    position = calls.index("rename")
    assert set(calls[:position]) == files | {f".tmp-{name}"}
    assert calls[position - 1] == f".tmp-{name}"
    assert calls[position + 1 :] == [tmp_path.name]


def test_written_hash_is_that_of_the_bytes_meant_not_of_those_on_disk(tmp_path, monkeypatch):
    """A disk that stores something else is found out by verification."""

    class LyingFile:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self._file.close()

        def write(self, data):
            changed = bytearray(data)
            if len(changed) > 1000:
                changed[500] ^= 1
            return self._file.write(changed)

        def __getattr__(self, name):
            return getattr(self._file, name)

    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(step=1, tokens=1, chunks=[whole("w", torch.ones(100))], state={})
    monkeypatch.setattr(
        storage_module,
        "open",
        lambda path, mode: LyingFile(open(path, mode)),  # noqa: SIM115
        raising=False,
    )
    checkpointer.save(step=2, tokens=2, chunks=[whole("w", torch.ones(1000))], state={})
    found = latest_checkpoint(tmp_path)
    assert found.saved.step == 1
    assert "content differs from its sha256" in found.rejected[0]
