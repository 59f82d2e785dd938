"""The process around one run of a sweep: pinned to its cores, ended when the sweep is.

Started as `python -m megascale.sweep.worker PARENT_PID CORES RANKS TRAIN_ARGUMENTS...`. With one
rank it becomes `megascale train`, with more torchrun.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Pin this process, tie its life to the sweep's and become the run.

    Args:
        arguments: the sweep's process id, cores such as `0,1` (empty for all), ranks, then the
            words after `megascale train`.
    """
    parent, cores, ranks, *words = arguments
    end_with(int(parent))
    # Slurm sends it to every process of a job; the job answers it, and tells its runs with SIGTERM.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if int(ranks) > 1:
        launcher = [sys.executable, "-m", "megascale.train.launcher", "--standalone"]
        launcher += ["--nproc-per-node", ranks, "-m", "megascale", "train", *words]
        os.execv(sys.executable, launcher)
    os.execv(sys.executable, [sys.executable, "-m", "megascale", "train", *words])


def end_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent dies: the run then saves and stops.

    Linux only; elsewhere a run outlives a sweep that was killed and holds its directory's lock.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(f"the sweep (pid {parent}) is gone")


if __name__ == "__main__":
    main(sys.argv[1:])
