"""Completion in a real bash: what `--show-completion` prints, and what a word becomes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHELL = """
eval "$(cat completion)"
COMP_WORDS=({words} {last}) COMP_CWORD={index}
complete -p megascale >/dev/null && _megascale_completion megascale
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A folder with the program `megascale` and its completion for bash."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    made = tmp_path_factory.mktemp("completion")
    program = made / "megascale"
    path = shlex.quote(str(repository))
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m megascale "$@"\n')
    program.chmod(0o755)
    (made / "completion").write_text(bash(made, "megascale --show-completion; true"))
    return made


def bash(folder: Path, script: str) -> str:
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("words", "last", "completed"),
    [
        ("megascale", "fi", ["fit"]),
        ("megascale runs", "l", ["ls"]),
        ("megascale fit", "--boot", ["--bootstrap"]),
        ("megascale nothing", "--boot", [""]),
    ],
)
def test_bash_completes(folder: Path, words: str, last: str, completed: list[str]) -> None:
    script = SHELL.format(words=words, last=last, index=len(words.split()))
    assert bash(folder, script).splitlines() == completed
