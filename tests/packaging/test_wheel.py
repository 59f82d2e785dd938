"""What a wheel carries, and that its commands find it away from the source tree.

The wheel's files are those of setuptools' `build_py`; the compiled engine is left out here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from megascale import shipped


def output(folder: Path, path: Path | None, *arguments: str) -> str:
    """What `python ARGUMENTS` prints in `folder`, with `path` before the installed packages."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the package as a wheel holds it."""
    folder = tmp_path_factory.mktemp("wheel")
    lib = folder / "lib"
    steps = ["egg_info", "--egg-base", str(folder), "build_py", "--build-lib", str(lib)]
    output(repository, None, "setup.py", "--quiet", *steps)
    root = output(folder, lib, "-P", "-c", "from megascale.shipped import *; print(CONFIG_ROOT)")
    assert root.strip() == str(lib / "megascale" / "_configs")
    return lib


def relative(folder: Path) -> set[str]:
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".so"
    }


def test_the_wheel_carries_every_file_of_the_package(built: Path, repository: Path) -> None:
    packed = relative(built / "megascale")
    configs = {name for name in packed if name.startswith("_configs/")}
    assert packed - configs == relative(repository / "megascale")
    assert configs == {f"_configs/{name}" for name in relative(repository / "configs")}
    assert "report/static/page.css" in packed
    assert "_configs/models/qwen3-8b.yaml" in packed


def megascale(built: Path, folder: Path, *arguments: str) -> str:
    """Output of a command of the built package, started in `folder`."""
    return output(folder, built, "-P", "-m", "megascale", *arguments)


@pytest.mark.parametrize(
    "name",
    ["quickstart.yaml", "configs/quickstart.yaml", "own.yaml"],
    ids=["plain", "as in the source tree", "as a base"],
)
def test_an_installed_package_finds_its_configs(built: Path, tmp_path: Path, name: str) -> None:
    own = "base: quickstart.yaml\nmodel: {preset: models/nano-moe.yaml}\nseed: 11\n"
    (tmp_path / "own.yaml").write_text(own)
    shown = json.loads(megascale(built, tmp_path, "config", "show", name, "--json"))
    assert shown["model"]["num_experts"] > 0
    assert (shown["seed"] == 11) == (name == "own.yaml")


def test_an_installed_package_finds_models_laws_and_studies(built: Path, tmp_path: Path) -> None:
    size = json.loads(megascale(built, tmp_path, "model", "show", "qwen3-8b", "--json"))
    assert size["config"]["num_hidden_layers"] == 36
    asked = ("recommend", "--model", "models/qwen3-8b.yaml", "--tokens", "1T", "--json")
    plain = json.loads(megascale(built, tmp_path, *asked))
    with_law = json.loads(megascale(built, tmp_path, *asked, "--law-file", "step-law"))
    assert plain != with_law
    plan = json.loads(megascale(built, tmp_path, "sweep", "batch_size", "--dry-run", "--json"))
    assert len(plan["runs"]) > 1


def test_names_mean_files_here_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = shipped.CONFIG_ROOT
    assert shipped.locate("quickstart.yaml") == root / "quickstart.yaml"
    assert shipped.locate("configs/laws/step-law.json") == root / "laws" / "step-law.json"
    assert shipped.locate("qwen3-8b", "models") == root / "models" / "qwen3-8b.yaml"
    assert shipped.locate("qwen3-8b") == Path("qwen3-8b")
    assert shipped.locate("no-such", "models") == Path("no-such")
    absent = tmp_path / "configs" / "quickstart.yaml"
    assert shipped.locate(absent) == absent
    Path("quickstart.yaml").write_text("seed: 1\n")
    assert shipped.locate("quickstart.yaml") == Path("quickstart.yaml")


def test_the_source_distribution_holds_what_the_engine_is_built_from(
    repository: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(
        repository,
        tmp_path / "source",
        ignore=shutil.ignore_patterns(".*", "build", "*.so", "*.egg-info", "__pycache__"),
    )
    output(source, None, "setup.py", "--quiet", "sdist", "-d", str(tmp_path))
    (archive,) = tmp_path.glob("megascale-*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    wanted = {f"csrc/{name}" for name in relative(repository / "csrc")}
    assert wanted | {"CMakeLists.txt", "setup.py", "pyproject.toml"} <= names
    assert {f"configs/{name}" for name in relative(repository / "configs")} <= names
