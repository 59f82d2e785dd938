"""Turn SIGTERM, SIGUSR1, SIGHUP and SIGINT into a request that the loop sees between two steps.

torchrun forwards SIGTERM to its workers and kills them 30 seconds later, or after its
`--shutdown_timeout`: the loop has that long to finish the step it is in and to write a
checkpoint. docs/faults.md says how to start a run whose checkpoints take longer.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any, Self

WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


class SignalFlags:
    """Remembers which signal asked the process to stop.

    Use as a context manager in the main thread; leaving it puts the previous handlers back.
    The first SIGINT asks for a checkpoint; the second has its default effect and ends the
    process at once, even inside a collective.
    """

    def __init__(self) -> None:
        self._received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in WATCHED:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            message = b"\nSIGINT: finishing the step and saving; press again to stop at once\n"
            os.write(2, message)

    def requested(self) -> str | None:
        """Name of the first signal received by this process, None so far.

        Ranks may be told at different moments, or only one of them: agree on it (a maximum over
        the ranks) before acting.
        """
        return self._received
