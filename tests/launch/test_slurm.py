"""The Slurm script with stand-ins for `srun` and `scontrol`: what is requeued, and what is not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from megascale.config import dump_yaml
from tests.conftest import REPOSITORY
from tests.multiprocess.launching import logged_step
from tests.tiny_run import log_of, tiny_config

SCRIPT = REPOSITORY / "launch/slurm.sbatch"
SCONTROL = """#!/bin/sh
echo "$@" >>"$FOLDER/asked"
[ "$1" = show ] && printf 'node-1\\nnode-2\\n'
exit 0
"""
SRUN_STEP = """#!/bin/bash
# A step of Slurm: tells that it runs, and leaves as $ON_TERM or $AT_END say.
echo "$@" >"$FOLDER/step"
env >"$FOLDER/environment"
trap 'sleep 0.2; exit $ON_TERM' TERM
for _ in $(seq $STEPS); do sleep 0.05; done
exit $AT_END
"""
SRUN_HERE = '#!/bin/sh\nexec "$@"\n'


def install(folder: Path, srun: str) -> dict[str, str]:
    """The environment of a job whose `srun` and `scontrol` are these."""
    for name, text in (("srun", srun), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "FOLDER": str(folder),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_SUBMIT_DIR": str(REPOSITORY),
    }


def requeued(folder: Path) -> bool:
    return "requeue 123456" in (folder / "asked").read_text().splitlines()


@pytest.mark.parametrize(
    ("sent", "on_term", "at_end", "code", "again"),
    [
        (None, 1, 0, 0, False),
        (None, 1, 3, 3, False),
        (signal.SIGUSR1, 1, 0, 1, True),
        (signal.SIGTERM, 1, 0, 1, True),
        (signal.SIGUSR1, 0, 0, 0, False),
    ],
    ids=["done", "failed", "time limit", "preempted", "done while signalled"],
)
def test_only_a_signalled_job_that_did_not_finish_is_requeued(
    tmp_path, sent, on_term, at_end, code, again
):
    environment = install(tmp_path, SRUN_STEP) | {
        "ON_TERM": str(on_term),
        "AT_END": str(at_end),
        "STEPS": "200" if sent else "2",
    }
    job = subprocess.Popen(["bash", SCRIPT, "config.yaml", "lr.peak=1e-3"], env=environment)
    if sent:
        while not (tmp_path / "environment").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        job.send_signal(sent)
    assert job.wait(60) == code
    assert requeued(tmp_path) is again
    words = (tmp_path / "step").read_text().split()
    assert words == ["bash", f"{REPOSITORY}/launch/torchrun.sh", "config.yaml", "lr.peak=1e-3"]
    variables = dict(
        line.split("=", 1)
        for line in (tmp_path / "environment").read_text().splitlines()
        if "=" in line
    )
    assert variables["HEAD_NODE"] == "node-1:23456"
    assert variables["NNODES"] == "2"
    assert variables["NPROC_PER_NODE"] == "8"


@pytest.mark.slow
def test_a_real_run_is_requeued_and_goes_on(tmp_path):
    config = tiny_config(tmp_path, name="slurm", train={"total_tokens": 40_960})
    file = tmp_path / "slurm.yaml"
    file.write_text(dump_yaml(config))
    environment = install(tmp_path, SRUN_HERE) | {
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    job = subprocess.Popen(["bash", SCRIPT, file], env=environment)
    until = time.monotonic() + 120
    while logged_step(config) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 1
    assert requeued(tmp_path)
    stopped = log_of(config).records[-1]["tokens"]
    assert stopped < 40_960
    assert subprocess.run(["bash", SCRIPT, file], check=False, env=environment).returncode == 0
    assert log_of(config).records[-1]["tokens"] == 40_960
    assert [e["tokens"] for e in log_of(config).events if e["kind"] == "resume"] == [stopped]
