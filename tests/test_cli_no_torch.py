"""Everything but the training itself works where torch cannot be imported."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import megascale
from tests.conftest import REPOSITORY
from tests.verbs.scene import make_scene

USES_TORCH = tuple(
    f"megascale.{name}." for name in ("downstream", "kernels", "model", "parallel", "train")
)
OFFLINE = {
    "megascale.data.loader": False,
    "megascale.integrations.hugging_face": False,
    "megascale.data.batches": True,
    "megascale.verbs.model": True,
    "megascale.model.config": True,
    "megascale.model.count": True,
    "megascale.model.hf_config": True,
    "megascale.parallel.layout": True,
    "megascale.plan.layout": True,
    "megascale.train.branch": True,
    "megascale.train.checks": True,
    "megascale.verbs.train": True,
    "megascale.train.explain": True,
    "megascale.verbs.train_tables": True,
    "megascale.train.rundir": True,
    "megascale.train.signals": True,
    "megascale.train.telemetry": True,
    "megascale.train.telemetry.figure": True,
    "megascale.train.telemetry.interval": True,
    "megascale.train.telemetry.reporter": True,
    "megascale.train.telemetry.sinks": True,
    "megascale.train.telemetry.timing": True,
}
"""Whether modules are offline, where it is not as their package says."""

BLOCKED = """
import importlib.abc, importlib.machinery, importlib, sys

class NoTorch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":  # looking for it, as polars does, is allowed
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ImportError(f"{spec.name} must not be imported here")

    def exec_module(self, module):
        raise AssertionError

sys.meta_path.insert(0, NoTorch())
"""


def run(program: str, *arguments: str, folder: Path = REPOSITORY) -> str:
    """What a program prints in a Python that has no torch."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "MPLBACKEND": "Agg"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def offline_modules() -> list[str]:
    names = [
        module.name
        for module in pkgutil.walk_packages(megascale.__path__, "megascale.")
        if not module.name.endswith("__main__")
    ]
    return [name for name in names if OFFLINE.get(name, not name.startswith(USES_TORCH))]


def test_offline_modules_import_without_torch() -> None:
    program = """
import json
failures = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError as error:
        failures[name] = str(error)
assert not failures, failures
assert "torch" not in sys.modules
"""
    modules = offline_modules()
    packages = {name.split(".")[1] for name in modules}
    assert packages >= {"config", "schedule", "runs", "laws", "report"}
    assert packages >= {"fitting", "plan", "data", "formats", "curves", "propose", "verbs"}
    assert {name for name, offline in OFFLINE.items() if offline} <= set(modules)
    run(program, json.dumps(modules))


def test_the_block_blocks() -> None:
    with pytest.raises(AssertionError, match="torch must not be imported here"):
        run("import megascale.model.qwen3")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["train", "run.yaml", "--explain"], "Batch schedule"),
        (["train", "run.yaml", "--explain", "--json", "--world-size", "2"], '"config_digest"'),
        (["train", "run.yaml", "--dry-run", "--world-size", "2"], "in order for 2 ranks"),
        (["config", "check", "run.yaml"], "in order"),
        (["config", "show", "run.yaml", "lr.peak=2e-2"], "peak: 0.02"),
        (["config", "reference"], "total_tokens"),
        (["data", "inspect", "web"], "uint16"),
        (["model", "show", "qwen3.yaml"], "non-embedding"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_work_without_torch(words: list[str], shown: str, tmp_path: Path) -> None:
    make_scene(tmp_path)
    preset = REPOSITORY / "configs" / "models" / "qwen3-0.6b.yaml"
    (tmp_path / "qwen3.yaml").write_text(preset.read_text())
    program = "from megascale.cli import main\nmain(sys.argv[1:])"
    assert shown in run(program, *words, folder=tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "run.yaml"],
        ["sweep", "batch_size", "-o", "runs"],
        ["model", "check", "folder"],
        ["model", "export", "checkpoint", "-o", "folder"],
    ],
    ids=" ".join,
)
def test_what_needs_torch_says_how_to_get_it(words: list[str], tmp_path: Path) -> None:
    make_scene(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    program = """
import contextlib, io
from megascale.cli import main
error = io.StringIO()
with contextlib.redirect_stderr(error):
    try:
        main(sys.argv[1:])
    except SystemExit as left:
        print(left.code, error.getvalue())
"""
    shown = run(program, *words, folder=tmp_path)
    verb = " ".join(words[: 2 if words[0] == "model" else 1])
    assert shown.startswith("2 ")
    assert shown.count("\n") == 2
    assert f"`megascale {verb}` needs it" in shown
    assert "pip install 'megascale[train]'" in shown
    assert sorted(tmp_path.rglob("*")) == before
