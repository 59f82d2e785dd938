"""A thread beside the training of each rank that says which rank the others wait for.

Ranks wait for each other in collectives, which say nothing until their time-out. While steps go
on, the thread only looks at the clock. Once no step was finished for `parallel.stalled_seconds`,
one rank asks all of them, through the store that they met at, where they are: a rank whose process
is stopped or gone, or whose node is, does not answer. N ranks make O(N) requests of the store.

It also looks after orphans: ranks whose launcher has died save and leave, as after a signal.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import torch.distributed as dist

from megascale.train.distributed import Process
from megascale.train.state import RunCounters
from megascale.train.telemetry.reporter import Reporter

PACKAGE = Path(__file__).resolve().parents[1]
PREFIX = "megascale/stall"
POLL_SECONDS = 0.5
ANSWER_SECONDS = 10.0
"""So long, or a tenth of `parallel.stalled_seconds`, has a rank to answer on a busy node."""
SHOWN_RANKS = 8
"""So many ranks are named one by one."""


class AsksStore(Protocol):
    """What is used of `torch.distributed.Store`."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def add(self, key: str, amount: int) -> int: ...
    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class RankPlace:
    """Where a rank is: its host and the innermost line of this project in its main thread."""

    host: str
    place: str


class StallWatch:
    """Watches the steps of one rank; use as a context manager around the training."""

    def __init__(
        self,
        store: AsksStore | None,
        rank: int,
        world_size: int,
        *,
        seconds: float,
        tell: Callable[[str], None],
        launched: bool = False,
    ) -> None:
        """Args:
        store: shared by all ranks, of the same name for all of this start and no other; None for
            one rank.
        rank, world_size: of this process.
        seconds: without a finished step before the ranks are asked where they are.
        tell: takes what was found, on the rank that asked.
        launched: whether a launcher started this process, whose death ends the run.
        """
        self._store, self._rank, self._ranks = store, rank, world_size
        self._seconds, self._tell = seconds, tell
        self._parent = os.getppid() if launched else None
        self._main = threading.main_thread().ident or 0
        self._last = time.monotonic()
        self._report_after = seconds
        self._answered = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stall watch", daemon=True)

    def __enter__(self) -> Self:
        if self._store is not None:
            self._store.set(f"{PREFIX}/host/{self._rank}", socket.gethostname())
        self.tick()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def tick(self) -> None:
        """The main thread goes on: a step or a forward pass was begun or finished."""
        self._last = time.monotonic()
        self._report_after = self._seconds

    def _run(self) -> None:
        pause = min(POLL_SECONDS, self._seconds / 4)
        while not self._done.wait(pause):
            if self._parent is not None and os.getppid() != self._parent:
                self._parent = None
                self._tell("the launcher is gone: saving and leaving")
                os.kill(os.getpid(), signal.SIGTERM)
            silent = time.monotonic() - self._last
            if self._store is None or silent < self._seconds / 2:
                continue
            if _within(self._seconds, partial(self._look, silent)):
                continue
            silent = time.monotonic() - self._last
            speaks = self._rank == 1 or os.environ.get("LOCAL_RANK", "0") == "0"
            if silent > self._seconds and speaks:
                self._tell(
                    f"no step for {silent:.0f} s, and the store that the ranks met at does not "
                    "answer: rank 0, its launcher or its node has stopped or cannot be reached"
                )
            self._store = None  # the request may hang for good: no further one would do better

    def _look(self, silent: float) -> None:
        """RankPlace who asks; ask, where this rank has waited long enough."""
        assert self._store is not None
        asked = self._store.add(f"{PREFIX}/asked", 0)
        if asked > self._answered:
            self._answered = asked
            answer = json.dumps([socket.gethostname(), place_of(self._main)])
            self._store.set(f"{PREFIX}/answer/{asked}/{self._rank}", answer)
            self._report_after = _later(silent)  # another rank asks for this one
        if silent < self._report_after:
            return
        self._report_after = _later(silent)
        if self._store.add(f"{PREFIX}/turn/{asked}", 1) == 1:
            self._ask(silent)

    def _ask(self, silent: float) -> None:
        assert self._store is not None
        number = self._store.add(f"{PREFIX}/asked", 1)
        self._answered = number
        own = RankPlace(socket.gethostname(), place_of(self._main))
        others = [rank for rank in range(self._ranks) if rank != self._rank]
        keys = [f"{PREFIX}/answer/{number}/{rank}" for rank in others]
        until = time.monotonic() + max(ANSWER_SECONDS, 0.1 * self._seconds)
        while time.monotonic() < until and not self._store.check(keys):
            time.sleep(POLL_SECONDS)
        answers: dict[int, RankPlace] = {self._rank: own}
        hosts: dict[int, str] = {}
        for rank, key in zip(others, keys, strict=True):
            if self._store.check([key]):
                answers[rank] = RankPlace(*json.loads(self._store.get(key)))
            else:
                host = f"{PREFIX}/host/{rank}"
                known = self._store.check([host])
                hosts[rank] = self._store.get(host).decode() if known else "a host not known yet"
        if time.monotonic() - self._last > silent:  # it may have gone on meanwhile
            self._tell(stall_message(silent, answers, hosts))


def watch_stalls(
    process: Process, seconds: float, reporter: Reporter | None, progress: RunCounters
) -> StallWatch:
    """The watch of one rank of a run; what it finds goes to standard error and into the log."""
    store = None
    if process.world_size > 1:
        store = dist.distributed_c10d._get_default_store()
        if hasattr(store, "clone"):
            store = store.clone()  # one that waits for nobody else's request

    def tell(text: str) -> None:
        print(
            f"megascale: rank {process.rank} on host {socket.gethostname()}: {text}",
            file=sys.stderr,
            flush=True,
        )
        if reporter is not None:
            reporter.log.event("warning", step=progress.step, tokens=progress.tokens, message=text)

    return StallWatch(
        store,
        process.rank,
        process.world_size,
        seconds=seconds,
        tell=tell,
        launched="TORCHELASTIC_RUN_ID" in os.environ,
    )


def stall_message(silent: float, answers: dict[int, RankPlace], missing: dict[int, str]) -> str:
    """Which ranks a run waits for, in words.

    Args:
        silent: seconds without a finished step.
        answers: of the ranks that answered.
        missing: hosts of those that did not.
    """
    begin = f"no step for {silent:.0f} s: "
    if missing:
        named = [f"rank {rank} on host {host}" for rank, host in sorted(missing.items())]
        rest = len(named) - SHOWN_RANKS
        shown = ", ".join(named[:SHOWN_RANKS]) + (f" and {rest} more" if rest > 0 else "")
        stand = "stands" if len(named) == 1 else "stand"
        return (
            f"{begin}{shown} {stand} still (the process is stopped or gone, or its node is); the "
            f"other {len(answers)} wait"
        )
    places = Counter(answer.place for answer in answers.values()).most_common()
    if len(places) == 1:
        return f"{begin}all {len(answers)} ranks answer, and are at {places[0][0]}"
    usual = places[0][0]
    apart = [
        f"rank {rank} on host {answer.host} at {answer.place}"
        for rank, answer in sorted(answers.items())
        if answer.place != usual
    ]
    rest = len(apart) - SHOWN_RANKS
    shown = ", ".join(apart[:SHOWN_RANKS]) + (f" and {rest} more" if rest > 0 else "")
    return f"{begin}all {len(answers)} ranks answer; {shown}; the others at {usual}"


def place_of(thread: int) -> str:
    """The innermost line of this project that a thread of this process is in."""
    frame: Any = sys._current_frames().get(thread)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            return f"{file.relative_to(PACKAGE.parent)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "no line of this project"


def _later(silent: float) -> float:
    """After how long a silence the ranks are asked again."""
    return 2 * (silent + ANSWER_SECONDS)


def _within(seconds: float, action: Callable[[], None]) -> bool:
    """Whether an action ended in time; one that fails has not. It may hang for good."""
    ended = threading.Event()

    def act() -> None:
        try:
            action()
        except Exception:
            return
        ended.set()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds + 2 * ANSWER_SECONDS)
    return ended.is_set()
