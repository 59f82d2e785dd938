"""The checks of `megascale doctor`. None imports torch here: a broken one ends no doctor."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from megascale.errors import UserError
from megascale.extras import EXTRA_OF, is_installed, pip_command

FEW_FILES = 4096
"""Open files at a time below which a corpus or a study of thousands of files may not open."""
OLDEST_TORCH = (2, 11)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIBRARIES = ("numpy", "scipy", "polars", "pydantic", "matplotlib", "typer", "rich", "tokenizers")
USES = {
    "tensorboard": "`log.tensorboard` of a run",
    "wandb": "`log.wandb` of a run, and `.wandb` files as logs",
    "transformers": "`megascale.integrations.hugging_face`",
    "accelerate": "the Trainer of transformers",
    "zstandard": "corpora and logs in .zst",
    "submitit": "sweeps on Slurm",
    "ray": "sweeps on a Ray cluster",
    "playwright": "the tests of the report's page",
}
"""Packages that are optional, each a check of its own, and what they are for."""

TORCH_PROBE = """
import json, torch, torch.distributed as d
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "built_for": torch.version.cuda,
    "devices": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
    "cuda": cuda,
    "nccl": ".".join(map(str, torch.cuda.nccl.version())) if d.is_nccl_available() else None,
}))
"""


@dataclass(frozen=True)
class MachineFinding:
    """What a check found.

    Attributes:
        check: its name.
        state: `ok`; `absent` is missing and optional; `wrong` does not work.
        found: what is there, in words.
        advice: what to do about it, empty where nothing is to be done.
    """

    check: str
    state: Literal["ok", "absent", "wrong"]
    found: str
    advice: str = ""

    def required(self) -> MachineFinding:
        """The finding where the check must be ok."""
        return replace(self, state="wrong") if self.state == "absent" else self


def examine() -> list[MachineFinding]:
    """Every check, in the order in which they are shown."""
    return [check(name) for name, check in CHECKS.items()]


def _python(name: str) -> MachineFinding:
    where = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return MachineFinding(name, "ok", f"{where}, {sys.executable}")


def _versions(name: str) -> MachineFinding:
    versions = {package: _version(package) for package in ("megascale", *LIBRARIES)}
    missing = [package for package, version in versions.items() if version is None]
    found = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    if missing:
        advice = f"not installed: {', '.join(missing)}; pip install megascale brings them"
        return MachineFinding(name, "wrong", found, advice)
    return MachineFinding(name, "ok", found)


def _engine(name: str) -> MachineFinding:
    try:
        from megascale.fitting import _engine
    except ImportError as error:
        advice = "install again where a C++17 compiler is, or from a wheel of this Python"
        return MachineFinding(name, "wrong", str(error), advice)
    devices = _engine.cuda_devices()
    gpus = f", {devices} CUDA device{'s' if devices != 1 else ''}" if devices else ""
    return MachineFinding(name, "ok", f"instruction set {_engine.instruction_set()}{gpus}")


def _compiler(name: str) -> MachineFinding:
    command = os.environ.get("CXX", "c++")
    path = shutil.which(command)
    if path is None:
        advice = "only building the engine and `model.compile` need one: g++, clang, or set CXX"
        return MachineFinding(name, "absent", f"no {command} on the path", advice)
    shown = _printed([path, "--version"])
    if shown is None:
        return MachineFinding(
            name, "wrong", f"{path} --version fails", "install g++ or clang, or set CXX"
        )
    return MachineFinding(name, "ok", f"{shown.splitlines()[0]}, {path}")


def _torch(name: str) -> MachineFinding:
    if not is_installed("torch"):
        return MachineFinding(
            name, "absent", "not installed", f"training needs it: {pip_command(name)}"
        )
    facts = _torch_facts()
    if "error" in facts:
        return MachineFinding(
            name, "wrong", facts["error"], f"install it again: {pip_command('torch')}"
        )
    oldest = ".".join(map(str, OLDEST_TORCH))
    built = "the CPU" if facts["built_for"] is None else f"CUDA {facts['built_for']}"
    found = f"{facts['version']} for {built}"
    if tuple(map(int, facts["version"].split(".")[:2])) < OLDEST_TORCH:
        return MachineFinding(
            name, "wrong", found, f"needs {oldest} or newer: {pip_command('torch')}"
        )
    return MachineFinding(name, "ok", found)


def _cuda(name: str) -> MachineFinding:
    shown = _printed(["nvidia-smi", "-L"]) or ""
    gpus = [line for line in shown.splitlines() if line.startswith("GPU")]
    facts = _torch_facts()
    devices = facts.get("devices", [])
    if facts.get("cuda"):
        return MachineFinding(name, "ok", f"{len(devices)} of {', '.join(sorted(set(devices)))}")
    if gpus and "version" in facts:
        seen = f"the driver has {len(gpus)} GPUs, torch can use none"
        advice = "install torch for the CUDA version that `nvidia-smi` shows"
        return MachineFinding(name, "wrong", seen, advice)
    return MachineFinding(name, "absent", f"{len(gpus)} GPUs", "runs train on the CPU, over gloo")


def _nccl(name: str) -> MachineFinding:
    version = _torch_facts().get("nccl")
    if version is None:
        return MachineFinding(
            name, "absent", "not in torch", "several GPUs need it; it is in CUDA builds"
        )
    return MachineFinding(name, "ok", version)


def _browser(name: str) -> MachineFinding:
    named = os.environ.get("MEGASCALE_CHROMIUM")
    path = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if named and not os.access(named, os.X_OK):
        return MachineFinding(
            name, "wrong", f"MEGASCALE_CHROMIUM = {named}", "is no program; unset it"
        )
    if path is None:
        advice = "for the tests of the report's page: your system's chromium, or MEGASCALE_CHROMIUM"
        return MachineFinding(name, "absent", "no Chromium on the path", advice)
    return MachineFinding(name, "ok", path)


def _package(name: str) -> MachineFinding:
    if not is_installed(name):
        return MachineFinding(name, "absent", "not installed", f"{USES[name]}: {pip_command(name)}")
    return MachineFinding(name, "ok", _version(name) or "installed")


def _open_files(name: str) -> MachineFinding:
    from megascale.machine import open_file_limit

    limit = open_file_limit()
    if limit is None:
        return MachineFinding(name, "ok", "no limit")
    advice = "" if limit >= FEW_FILES else f"thousands of files need more: ulimit -n {FEW_FILES}"
    return MachineFinding(name, "ok", f"{limit:,} at a time", advice)


def _threads(name: str) -> MachineFinding:
    from megascale.machine import rank_threads, usable_cores

    cores = len(usable_cores())
    stated = os.environ.get("OMP_NUM_THREADS")
    variable = "OMP_NUM_THREADS is not set" if not stated else f"OMP_NUM_THREADS = {stated}"
    found = f"{cores} cores of {os.cpu_count()}; {variable}"
    try:
        threads = rank_threads(1)
    except UserError as error:
        return MachineFinding(name, "wrong", found, str(error))
    advice = ""
    if threads > cores:
        advice = f"a run would start {threads} threads on {cores} cores: unset OMP_NUM_THREADS"
    elif threads < cores:
        advice = f"a run of one rank uses {threads} of {cores} cores; unset OMP_NUM_THREADS for all"
    return MachineFinding(name, "ok", found, advice)


CHECKS: dict[str, Callable[[str], MachineFinding]] = {
    "python": _python,
    "versions": _versions,
    "engine": _engine,
    "compiler": _compiler,
    "torch": _torch,
    "cuda": _cuda,
    "nccl": _nccl,
    "browser": _browser,
    **dict.fromkeys([package for package in EXTRA_OF if package in USES], _package),
    "open-files": _open_files,
    "threads": _threads,
}
"""Checks by name."""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _printed(command: list[str], seconds: float = 120) -> str | None:
    """Standard output of a program that ends well."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@cache
def _torch_facts() -> dict[str, Any]:
    """What torch says of itself in a process of its own; `error` where it does not start."""
    if not is_installed("torch"):
        return {}
    done = subprocess.run(
        [sys.executable, "-c", TORCH_PROBE], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        return {"error": last[0]}
    return json.loads(done.stdout.splitlines()[-1])
