"""Calls that hold the interpreter's lock, spread over forked processes.

A user's callable need not be picklable: a fork inherits it. Where there is no fork the calls are
made here, one after the other, with the same results.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable[[Any], Any] | None = None


def forked(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, *, least: int = 8
) -> list[Result]:
    """`[work(item) for item in items]` on several processes, in order.

    Args:
        work: any callable; what it returns must be picklable.
        items: picklable.
        processes: 1 makes the calls here.
        least: items below which starting processes would cost more than it saves.
    """
    global _work
    able = "fork" in multiprocessing.get_all_start_methods()
    if processes < 2 or len(items) < least or not able:
        return [work(item) for item in items]
    _work = work
    try:
        size = max(1, len(items) // (4 * processes))
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            return list(pool.map(_call, items, chunksize=size))
    finally:
        _work = None


def _call(item: Any) -> Any:
    assert _work is not None
    return _work(item)
