"""Worker processes that read one file each. Imports nothing heavy: workers set up threads first."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def one_thread_each() -> None:
    """Keep a worker's table engine to one thread; read when that engine is first imported."""
    os.environ["POLARS_MAX_THREADS"] = "1"


def in_order(
    work: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    """Return the results of `work` on every task, in the order of the tasks.

    Workers are started afresh (not forked: the table engine has threads), so with more than one a
    script that calls this must be importable, its own calls under `if __name__ == "__main__"`.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context("spawn")
    size = max(1, min(16, len(tasks) // (workers * 4)))
    with ProcessPoolExecutor(workers, context, initializer=one_thread_each) as pool:
        yield from pool.map(work, tasks, chunksize=size)
