"""The progress of a fit or a search, for people who watch."""

from __future__ import annotations

import sys
from typing import Any


class FitProgressBar:
    """A progress bar on standard error, only on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> FitProgressBar:
        return self

    def update(self, done: int, total: int) -> None:
        """Show how many of the problems are fitted."""
        if self._quiet:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("fitting", total=total)
        self._bar.update(self._task, completed=done)

    def __exit__(self, *failure: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class StageLine:
    """What is being done, one line on standard error, only on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._status: Any = None

    def __enter__(self) -> StageLine:
        return self

    def show(self, words: str) -> None:
        """Replace the line."""
        if self._quiet:
            return
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status(words)
            self._status.start()
        self._status.update(words)

    def __exit__(self, *failure: object) -> None:
        if self._status is not None:
            self._status.stop()
