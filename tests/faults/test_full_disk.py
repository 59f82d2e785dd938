"""A file system that really is full: room that comes back, older checkpoints given up, and no room.

Every test mounts a small tmpfs in a mount namespace of its own.
"""

from __future__ import annotations

import json

import pytest

from tests.train.checkpoint_samples import run_in_mount

RUN_HERE = """
import json, os, shutil, sys, threading, time
sys.path.insert(0, {repository!r})
from pathlib import Path
from megascale.train.checkpoint import list_checkpoints, pin
from tests.faults.test_storage import at_steps
from tests.tiny_run import log_of, run_ranks, tiny_config

disk = Path(sys.argv[1])

def fill(leave=1_050_000):
    free = shutil.disk_usage(disk).free
    (disk / "balloon").write_bytes(bytes(max(0, free - leave)))

def free_later(seconds):
    threading.Timer(seconds, (disk / "balloon").unlink).start()

{body}
log = log_of(config)
folder = disk / "runs" / "tiny" / "checkpoints"
print(json.dumps({{
    "codes": codes,
    "kept": [saved.tokens for saved in list_checkpoints(folder)],
    "saved": [e["tokens"] for e in log.events if e["kind"] == "checkpoint"],
    "warnings": [e["message"] for e in log.events if e["kind"] == "warning"],
    "reached": log.records[-1]["tokens"],
}}))
"""


@pytest.fixture
def on_disk(tmp_path, repository):
    def run(size: str, body: str) -> dict:
        mount = f'mount -t tmpfs -o size={size} tmpfs "$1"'
        code = RUN_HERE.format(repository=str(repository), body=body)
        done = run_in_mount(mount, tmp_path, code)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout.splitlines()[-1]) | {
            "stderr": done.stderr,
            "stdout": done.stdout,
        }

    return run


def test_older_checkpoints_are_given_up_rather_than_the_run(on_disk):
    """Room for a few checkpoints, where keep_last wants nine: the run ends with its last one."""
    found = on_disk(
        "2m",
        """
config = tiny_config(disk, checkpoint=dict(interval_steps=2, keep_last=9, full_disk_minutes=0))
codes = run_ranks(config)
""",
    )
    assert found["codes"] == [0]
    assert found["reached"] == 10240
    assert found["kept"][-1] == 10240
    given_up = [line for line in found["warnings"] if "given up" in line]
    assert given_up
    # In the middle the first one that finds no room gives nothing up: the next may find some.
    first = next(number for number, line in enumerate(found["warnings"]) if "not written" in line)
    assert "not written" in found["warnings"][first + 1]


def test_pinned_checkpoints_and_the_newest_are_never_given_up(on_disk):
    found = on_disk(
        "2m",
        """
config = tiny_config(disk, checkpoint=dict(interval_steps=2, keep_last=9, full_disk_minutes=0))
def protect():
    for saved in list_checkpoints(disk / "runs" / "tiny" / "checkpoints"):
        pin(saved.path, "test")
codes = run_ranks(config, prepare=at_steps({8: protect, 14: protect, 20: protect}))
""",
    )
    assert found["codes"] == [5]
    assert found["reached"] == 10240
    assert not [line for line in found["warnings"] if "given up" in line]
    assert found["kept"] == found["saved"]
    assert "No space left on device; free some space" in found["stderr"]


def test_the_last_checkpoint_waits_for_room(on_disk):
    """Somebody else fills the disk near the end and frees it while the run waits."""
    found = on_disk(
        "4m",
        """
config = tiny_config(disk, checkpoint=dict(interval_steps=4, keep_last=9, full_disk_minutes=1))
steps = 16 + 12
def full():
    fill()
    free_later(6)
codes = run_ranks(config, prepare=at_steps({steps - 2: full}))
""",
    )
    assert found["codes"] == [0]
    assert found["kept"][-1] == 10240
    assert [line for line in found["warnings"] if "trying again for 1 minutes" in line]
    assert not [line for line in found["warnings"] if "given up" in line]


def test_a_signal_on_a_full_disk_gives_up_older_checkpoints_at_once(on_disk):
    found = on_disk(
        "4m",
        """
import signal
config = tiny_config(disk, checkpoint=dict(interval_steps=3, keep_last=9, full_disk_minutes=60))
def full():
    fill()
    os.kill(os.getpid(), signal.SIGTERM)
codes = run_ranks(config, prepare=at_steps({13: full}))
""",
    )
    assert found["codes"] == [75]
    assert found["kept"][-1] == found["reached"]
    assert [line for line in found["warnings"] if "given up" in line]


def test_the_log_is_whole_once_there_is_room_again(on_disk):
    """The disk is full to the last byte for ten steps, log lines and all."""
    found = on_disk(
        "4m",
        """
config = tiny_config(
    disk, checkpoint=dict(interval_steps=3, keep_last=2), log=dict(console="plain")
)
def full():
    try:
        with open(disk / "balloon", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
    except OSError:
        pass
codes = run_ranks(config, prepare=at_steps({8: full, 18: (disk / "balloon").unlink}))
steps = log_of(config).column("step")
assert steps == list(range(1, len(steps) + 1)), steps
""",
    )
    assert found["codes"] == [0]
    assert found["reached"] == found["kept"][-1] == 10240
    assert "the disk is full: lines of the log wait in memory" in found["stdout"]
    assert "the disk has room again: the log is complete" in found["stdout"]


def test_two_ranks_decide_alike(on_disk):
    found = on_disk(
        "2m",
        """
checkpoint = dict(interval_steps=2, keep_last=9, full_disk_minutes=0.02)
config = tiny_config(disk, checkpoint=checkpoint)
codes = run_ranks(config, 2)
""",
    )
    assert found["codes"] == [0, 0]
    assert found["kept"][-1] == 10240
