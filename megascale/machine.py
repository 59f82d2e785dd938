"""What this machine lets the process use: cores, threads a rank, open files.

Nothing here imports more than the standard library, and everything answers on Linux and macOS.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from megascale.errors import ConfigError


def usable_cores() -> list[int]:
    """Cores this process may run on; all of the machine where the system knows no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def rank_threads(local_ranks: int, environment: Mapping[str, str] = os.environ) -> int:
    """CPU threads of one of a node's ranks.

    OMP_NUM_THREADS where it is set; else an even share of the cores that Slurm gave the task
    (SLURM_CPUS_PER_TASK); else of those this process may use. torchrun sets OMP_NUM_THREADS to 1
    where it starts several ranks and finds none set; `launch/torchrun.sh` sets the share before.

    Args:
        local_ranks: ranks on this node.
        environment: where the variables are.

    Raises:
        ConfigError: a variable is no positive integer.
    """
    stated = environment.get("OMP_NUM_THREADS", "").split(",")[0]  # one number a nesting level
    if stated:
        return _positive("OMP_NUM_THREADS", stated)
    task = environment.get("SLURM_CPUS_PER_TASK", "")
    cores = _positive("SLURM_CPUS_PER_TASK", task) if task else len(usable_cores())
    return max(1, cores // local_ranks)


RANK_VARIABLES = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets beside WORLD_SIZE, without which ranks do not find each other."""


def launched_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """Number of ranks that torchrun started; 1 without it.

    Args:
        environment: where the variables are.

    Raises:
        ConfigError: WORLD_SIZE is no positive integer, or what belongs to it is missing.
    """
    stated = environment.get("WORLD_SIZE", "")
    if not stated:
        return 1
    ranks = _positive("WORLD_SIZE", stated)
    missing = [name for name in RANK_VARIABLES if not environment.get(name)]
    if ranks > 1 and missing:
        raise ConfigError.of(
            "WORLD_SIZE",
            stated,
            f"{', '.join(missing)} must be set as well, as torchrun does for the ranks it starts; "
            "unset WORLD_SIZE for a run of one process",
        )
    for name in ("RANK", "LOCAL_RANK"):
        rank = environment.get(name, "0")
        if not rank.strip().isdecimal() or int(rank) >= ranks:
            raise ConfigError.of(name, rank, f"must be between 0 and WORLD_SIZE - 1 = {ranks - 1}")
    return ranks


def cpu_name() -> str:
    """The CPU as Linux describes it: vendor, family, model, stepping and name; else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return f"{platform.system()} {platform.machine()}"
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    keys = ("vendor_id", "cpu family", "model", "stepping")
    numbers = " ".join(found[key] for key in keys if key in found)
    return f"{found.get('model name', platform.machine())} ({numbers})"


def cache_folder() -> Path:
    """MEGASCALE_CACHE, or `megascale` in the user's cache directory."""
    if named := os.environ.get("MEGASCALE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megascale"


def open_file_limit() -> int | None:
    """Files this process may have open at a time; None where there is no limit to ask for."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _positive(variable: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError.of(variable, text, "must be a positive integer, or unset", 1)
    return int(text)


if __name__ == "__main__":
    import sys

    print(rank_threads(int(sys.argv[1])))
