"""A Slurm cluster of this machine alone: real munged, slurmctld, slurmd, with ports of their own.

It needs neither systemd nor cgroups, and nothing in /etc. Debian: apt-get install slurm-wlm munge.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ['PATH']}:/usr/sbin"
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job begins again when its old credentials are out of date.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
KillWait=60
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


class SlurmCluster:
    """The running cluster, asked by Slurm's own commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}

    def ask(self, *words: str, **variables: str) -> str:
        """What one of Slurm's commands prints; it must succeed."""
        done = subprocess.run(
            words,
            env=self.environment | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def is_idle(self) -> bool:
        """Whether the node waits for work."""
        return "idle" in self.ask("sinfo", "-h", "-o", "%t")

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, Restarts, ExitCode, PreemptTime ..."""
        shown = self.ask("scontrol", "--oneliner", "show", "job", number)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = 120) -> None:
        """Return once something holds; if it never does, the test fails with all logs."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                logs = sorted(self.folder.rglob("*.log"))
                texts = [f"{log.name}:\n{log.read_text()[-3000:]}" for log in logs]
                pytest.fail("\n".join([f"waited {seconds:g} s for {what}", *texts]))
            time.sleep(0.1)

    def wait_for_state(self, number: str, *states: str) -> None:
        """Return once a job is in one of these states."""
        wanted = " or ".join(states)
        self.wait(f"{number} {wanted}", lambda: self.job(number)["JobState"] in states)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """A cluster of one node, ended with the context; without Slurm the test is skipped."""
    missing = [name for name in DAEMONS if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    cluster = SlurmCluster(folder)
    config = CONFIG.format(
        host=socket.gethostname().split(".")[0],
        user=cluster.ask("id", "-un"),
        folder=folder,
        ports=_free_ports(),
        cores=os.cpu_count(),
    )
    (folder / "slurm.conf").write_text(config)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge.{end}" for option, end in files.items()]
    try:
        cluster.ask("munged", "--force", f"--key-file={key}", *options)
        cluster.ask("slurmctld", "-L", str(folder / "slurmctld.log"))
        cluster.ask("slurmd", "-L", str(folder / "slurmd.log"))
        cluster.wait("the node", cluster.is_idle, 60)
        try:
            yield cluster
        finally:  # a job would outlive the daemons
            cluster.ask("scancel", "--signal=KILL", "--full", "--state=RUNNING", "--me")
            cluster.ask("scancel", "--me")
            cluster.wait("an empty node", lambda: not cluster.ask("squeue", "-h"))
    finally:
        for name in ("slurmd", "slurmctld", "munge"):
            _end(folder / f"{name}.pid")


def _free_ports() -> list[int]:
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in (first, second)]


def _end(pid_file: Path) -> None:
    try:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return
