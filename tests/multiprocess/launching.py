"""Start runs as a user does, with `launch/torchrun.sh`, and watch their processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from megascale.config import RunConfig, dump_yaml
from tests.conftest import REPOSITORY


def launch(
    config: RunConfig,
    output: Path,
    *,
    environment: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start `launch/torchrun.sh` on a config.

    Args:
        output: file that takes what it prints.
        environment: variables of the launcher.
        inside: a command that runs the launcher, for example `ip netns exec NAME`.
    """
    file = output.with_suffix(".yaml")
    file.write_text(dump_yaml(config))
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {})
    with output.open("wb") as sink:
        return subprocess.Popen(
            [*inside, "bash", str(REPOSITORY / "launch/torchrun.sh"), str(file)],
            env=variables,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120):
    """Return once the condition holds.

    Raises:
        RuntimeError: the process ended before that, or it took too long.
    """
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"the launcher ended with {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError("it took too long")
        time.sleep(0.01)


def logged_step(config: RunConfig) -> int:
    """The number of complete lines in the log of a run: at least its finished steps."""
    path = Path(config.output_dir) / config.name / "metrics.jsonl"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def workers(launcher: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of the trainers below a launcher, in the order they were started."""
    found, level = [], [launcher.pid]
    while level:
        children = [
            int(pid)
            for parent in level
            for pid in _text(f"/proc/{parent}/task/{parent}/children").split()
        ]
        found += [pid for pid in children if "\0LOCAL_RANK=" in _text(f"/proc/{pid}/environ")]
        level = children
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill what is left of launchers and their trainers."""
    for process in processes:
        if process.poll() is None:
            for pid in [*workers(process), process.pid]:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            process.wait()
