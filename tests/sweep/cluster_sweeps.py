"""Sweeps that send their runs to a cluster: started, watched, and what their runs' logs say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from megascale.formats.run_log import METRICS_FILE, read_run
from megascale.sweep.progress import read_progress
from tests.conftest import REPOSITORY

SECONDS = 240


class ClusterSweep:
    """One study's sweep as a process that may be killed and started again."""

    def __init__(self, study: Path, *words: str, **variables: str) -> None:
        """Args:
        study: file of the study; its runs go to `out` beside it.
        words: further ones of the command line.
        variables: of the environment.
        """
        self.folder = study.parent / "out"
        self._words = [sys.executable, "-m", "megascale", "sweep", str(study)]
        self._words += ["-o", str(self.folder), *words]
        self._environment: Mapping[str, str] = os.environ | variables | {"OMP_NUM_THREADS": "1"}
        self._environment |= {"PYTHONPATH": str(REPOSITORY)}
        self._printed = study.parent / "printed.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start it (again)."""
        with self._printed.open("ab") as sink:
            self.process = subprocess.Popen(
                self._words,
                env=self._environment,
                cwd=self.folder.parent,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.process

    def end(self) -> int:
        """Wait for its end; the exit code."""
        assert self.process is not None
        return self.process.wait(timeout=SECONDS)

    def printed(self) -> str:
        """All that its starts have printed."""
        return self._printed.read_text()

    def until(self, holds: Callable[[], bool]) -> None:
        """Return once something holds, while the sweep runs."""
        assert self.process is not None
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.1)

    def events(self, run: str) -> list[str]:
        """Kinds of the events of a run's log; none before there is one."""
        if not (self.folder / run / METRICS_FILE).is_file():
            return []
        return [event["kind"] for event in read_run(self.folder / run).events]

    def tokens(self, run: str) -> int:
        """Consumed tokens of a run."""
        return read_progress(self.folder / run).tokens
