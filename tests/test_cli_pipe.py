"""A reader that leaves early, as `| head` does, is no error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def piped(folder: Path, repository: Path, words: str) -> tuple[int, str]:
    """Exit code of a command whose reader takes one byte and leaves, and its standard error."""
    made = subprocess.Popen(
        [sys.executable, "-m", "megascale", *words.split()],
        cwd=folder,
        env={"PYTHONPATH": str(repository), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    made.stdout.close()
    _, error = made.communicate()
    return made.returncode, error


@pytest.mark.parametrize(
    "words",
    [
        "config reference",
        "recommend --params 4e9 --active-params 538e6 --tokens 500e9",
        "runs ls log.csv --no-cache",
        "schedule --table 0:2M,125B:4M --tokens 500e9 --micro-batch 1 --seq-length 4096 --dp 8",
    ],
    ids=lambda words: words.split()[0],
)
def test_it_ends_in_silence(tmp_path: Path, repository: Path, words: str) -> None:
    (tmp_path / "log.csv").write_text("step,tokens,batch_tokens,loss\n1,10,10,3.0\n2,20,10,2.0\n")
    assert piped(tmp_path, repository, words) == (0, "")


def test_a_run_is_not_called_done(tmp_path: Path, repository: Path) -> None:
    code, error = piped(tmp_path, repository, "train quickstart.yaml --explain")
    assert code != 0
    assert "BrokenPipeError" in error
