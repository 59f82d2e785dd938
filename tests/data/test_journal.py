"""A killed `data prepare` goes on, and the result is that of one never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megascale.data import prepare as module
from megascale.data.journal import Written, journal_path, read_journal, write_journal
from megascale.data.prepare import prepare
from tests.borders.reading import _make_tokenizer

KILLED = """
import os, signal, sys
from megascale.data import documents, journal, prepare as module
for one in (documents, module):
    one.BATCH_BYTES = 400
module.JOURNAL_BATCHES = 3
seen = 0
def progress(at):
    global seen
    seen += 1
    if seen == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
module.prepare([sys.argv[1]], tokenizer=sys.argv[2], prefix=sys.argv[3], on_progress=progress)
"""


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    _make_tokenizer(tmp_path)
    lines = [json.dumps({"text": f"document {n} " + "word " * (n % 17)}) for n in range(200)]
    lines[7] = lines[120] = "{broken"
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for target in ("megascale.data.documents", "megascale.data.prepare"):
        monkeypatch.setattr(f"{target}.BATCH_BYTES", 400)
    monkeypatch.setattr(module, "JOURNAL_BATCHES", 3)
    return tmp_path


def prepared(folder: Path, name: str, **options):
    done = prepare(
        [folder / "in.jsonl"],
        tokenizer=folder / "tokenizer.json",
        prefix=folder / name,
        **options,
    )
    kinds = (".bin", ".idx", ".meta.json", ".malformed.jsonl")
    return done, [Path(f"{folder / name}{kind}").read_bytes() for kind in kinds]


def kill_at(folder: Path, name: str, batch: int) -> None:
    words = [str(folder / part) for part in ("in.jsonl", "tokenizer.json", name)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *words, str(batch)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


@pytest.mark.parametrize("batch", [2, 4, 11, 20])
def test_a_killed_run_goes_on_to_the_same_files(inputs, batch):
    whole, expected = prepared(inputs, "whole")
    kill_at(inputs, "again", batch)
    assert not (inputs / "again.idx").exists()
    done, found = prepared(inputs, "again", workers=1)
    assert found == expected
    assert (done.resumed_tokens > 0) == (batch > 3)
    assert (done.malformed, done.first_malformed) == (whole.malformed, whole.first_malformed)
    assert sorted(path.name for path in inputs.glob("again*")) == [
        f"again{kind}" for kind in (".bin", ".idx", ".malformed.jsonl", ".meta.json")
    ]


def test_two_kills_one_after_the_other(inputs):
    _, expected = prepared(inputs, "whole")
    kill_at(inputs, "again", 8)
    kill_at(inputs, "again", 5)
    done, found = prepared(inputs, "again")
    assert found == expected
    assert done.resumed_tokens > 0


@pytest.mark.parametrize("change", ["input", "options", "journal", "partial"])
def test_anything_else_begins_anew(inputs, change):
    kill_at(inputs, "again", 11)
    options = {}
    if change == "input":
        with (inputs / "in.jsonl").open("a") as file:
            file.write('\n{"text": "one more"}')
    elif change == "options":
        options["append_eos"] = False
    elif change == "journal":
        journal_path(inputs / "again").write_text('{"fingerprint": 3, "batches": "x"}')
    else:
        (inputs / "again.bin.partial").write_bytes(b"")
    done, found = prepared(inputs, "again", **options)
    assert done.resumed_tokens == 0
    assert found == prepared(inputs, "whole", **options)[1]


def test_a_journal_survives_the_round_trip(tmp_path):
    written = Written("f" * 64, 3, 5, 2, 9, 1, 4, 0, 77, [["a.txt", 1, "why"]])
    write_journal(tmp_path / "p", written)
    files = {}
    for name, width, count in (("bin", 2, 5), ("lengths", 4, 2), ("bad", 1, 4)):
        (tmp_path / name).write_bytes(bytes(width * count))
        files[tmp_path / name] = width
    assert read_journal(tmp_path / "p", "f" * 64, files) == written
    assert read_journal(tmp_path / "p", "e" * 64, files) is None
    (tmp_path / "lengths").write_bytes(bytes(7))
    assert read_journal(tmp_path / "p", "f" * 64, files) is None
