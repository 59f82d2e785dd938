"""`pip install megascale` in an empty environment: no torch, and everything but training works.

The wheel is built from the source distribution, the engine compiled or the one that
MEGASCALE_ENGINE names, or is the one that MEGASCALE_WHEEL names; the requirements come from the
package index that pip is set up for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.report.samples import write_log, write_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
BUILT = (".*", "build", "out", "*.so", "*.egg-info", "__pycache__")


class Installed:
    """An environment that holds the wheel and what it asks for."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.folder = folder / "work"
        self.folder.mkdir()
        self.bin = folder / "venv" / "bin"

    def done(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A program of the environment, run in its folder with nothing else in sight."""
        command = [str(self.bin / words[0]), *words[1:]]
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.folder)}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def output(self, *words: str) -> str:
        done = self.done(*words)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("install")
    pip = ["-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = os.environ.get("MEGASCALE_WHEEL") or build_wheel(repository, folder, pip)
    made = Installed(folder)
    subprocess.run([made.bin / "python", *pip, "install", wheel], check=True, cwd=made.folder)
    return made


def build_wheel(repository: Path, folder: Path, pip: list[str]) -> Path:
    """A wheel of the tree's source distribution, in `folder`."""
    source = shutil.copytree(repository, folder / "source", ignore=shutil.ignore_patterns(*BUILT))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", folder], cwd=source, check=True
    )
    (archive,) = folder.glob("megascale-*.tar.gz")
    subprocess.run([sys.executable, *pip, "wheel", "--no-deps", "-w", folder, archive], check=True)
    (wheel,) = folder.glob("megascale-*.whl")
    return wheel


def test_torch_is_not_installed(installed: Installed) -> None:
    found = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('safetensors'))"
    assert installed.output("python", "-c", found).split() == ["None", "None"]
    installed.output("python", "-m", "pip", "check")


def test_the_offline_half_works(installed: Installed) -> None:
    folder = installed.folder
    write_runs(folder)
    write_log(folder / "logs" / "a")
    write_log(folder / "logs" / "b")
    assert "runs" in installed.output("megascale", "--help")
    fitted = installed.done("megascale", "fit", "runs.csv", "-o", "law.json", "--json")
    assert fitted.returncode in (0, 7), fitted.stderr
    json.loads(fitted.stdout)
    assert json.loads((folder / "law.json").read_text())["schema"].startswith("megascale.law/")
    installed.output("megascale", "recommend", "--model", "qwen3-8b", "--tokens", "1T")
    installed.output(
        "megascale", "schedule", "--table", "0:2M,125B:4M", "--tokens", "500e9",
        "--micro-batch", "1", "--seq-length", "4096", "--dp", "128", "--export", "megatron",
    )  # fmt: skip
    installed.output("megascale", "compare", "logs/a", "logs/b")
    installed.output("megascale", "report", "runs.csv", "-o", "page.html")
    assert (folder / "page.html").stat().st_size > 10_000
    assert "a" in installed.output("megascale", "runs", "ls", "logs/a", "logs/b")
    installed.output("megascale", "sweep", "batch_size", "--dry-run")
    installed.output("megascale", "train", "quickstart.yaml", "--explain")


def test_training_says_what_to_install(installed: Installed) -> None:
    asked = installed.done("megascale", "sweep", "batch_size")
    assert asked.returncode == 2
    assert "pip install 'megascale[train]'" in asked.stderr
