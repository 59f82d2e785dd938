"""Packages that only some uses need: which extra brings each, and what to say where it is missing.

`pip install megascale` installs what logs, laws, schedules and reports need. Everything else is an
extra of `pyproject.toml`.
"""

from __future__ import annotations

import importlib.util
import sys

from megascale.errors import ConfigError

EXTRA_OF = {
    "torch": "train",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "transformers": "hf",
    "accelerate": "hf",
    "zstandard": "zstd",
    "submitit": "slurm",
    "ray": "ray",
    "playwright": "browser",
}
"""Package as it is imported -> the extra that brings it."""


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it.

    A plain folder of that name (W&B leaves one in the working directory) is no package.
    """
    if package in sys.modules:
        return sys.modules[package] is not None
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def pip_command(package: str) -> str:
    """The command that brings a package: `pip install 'megascale[train]'`."""
    return f"pip install 'megascale[{EXTRA_OF[package]}]'"


def require_torch(verb: str) -> None:
    """Check, before anything is imported or started, that torch is there.

    Args:
        verb: what needs it, as the user wrote it: `train`, `model export`.

    Raises:
        ConfigError: torch is not installed; the message has the command that installs it.
    """
    if not is_installed("torch"):
        rule = (
            f"`megascale {verb}` needs it, logs, laws, schedules and reports do not; "
            + pip_command("torch")
        )
        raise ConfigError.of("torch", "not installed", rule)
