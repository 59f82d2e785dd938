"""Who answers a rank that waits, what it says, and what that costs the store."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter

import pytest
import torch.distributed as dist

from megascale.train import stall_watch
from megascale.train.stall_watch import RankPlace, StallWatch, place_of, stall_message


class CountingStore:
    """A store for several threads that counts the requests."""

    def __init__(self) -> None:
        self.inner = dist.HashStore()
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __getattr__(self, name):
        function = getattr(self.inner, name)

        def counted(*arguments):
            with self.lock:
                self.asked[name] += 1
                return function(*arguments)

        return counted


@pytest.mark.parametrize("ranks", [4, 32])
def test_one_rank_asks_and_names_the_one_that_does_not_answer(ranks, monkeypatch):
    monkeypatch.setattr(stall_watch, "ANSWER_SECONDS", 4.0)
    store, told = CountingStore(), []
    silent = ranks - 2
    watches = [
        StallWatch(store, rank, ranks, seconds=0.4, tell=told.append) for rank in range(ranks)
    ]
    store.set(f"megascale/stall/host/{silent}", "node-7")
    for rank, watch in enumerate(watches):
        if rank != silent:
            watch.__enter__()
    until = time.monotonic() + 60
    while not told and time.monotonic() < until:
        time.sleep(0.05)
    for watch in watches:
        watch.__exit__()
    assert f"rank {silent} on host node-7 stands still" in told[0]
    assert f"the other {ranks - 1} wait" in told[0]
    assert len(told) == 1
    polls = stall_watch.ANSWER_SECONDS / stall_watch.POLL_SECONDS
    assert store.asked["get"] + store.asked["check"] <= 2 * ranks + polls + 2


def test_nothing_is_asked_while_steps_go_on():
    store, told = CountingStore(), []
    with StallWatch(store, 0, 2, seconds=0.4, tell=told.append) as watch:
        for _ in range(20):
            watch.tick()
            time.sleep(0.05)
    assert told == []
    assert store.asked == {"set": 1}


def test_ranks_that_all_answer_are_told_apart_by_where_they_are():
    waiting = {rank: RankPlace("a", "step.py:163 accumulate_gradients") for rank in range(3)}
    assert "all 3 ranks answer, and are at step.py:163" in stall_message(9, waiting, {})
    reading = RankPlace("b", "loader.py:12 read")
    found = stall_message(9, {**waiting, 3: reading}, {})
    assert "rank 3 on host b at loader.py:12 read; the others at step.py:163" in found


def test_of_many_ranks_the_first_are_named():
    found = stall_message(9, {0: RankPlace("a", "x")}, dict.fromkeys(range(1, 100), "n"))
    assert "rank 8 on host n and 91 more stand still" in found


def test_the_place_is_in_this_project():
    held, go = threading.Event(), threading.Event()

    def wait_here() -> None:
        StallWatch(None, 0, 1, seconds=1, tell=lambda text: None)
        held.set()
        go.wait()

    thread = threading.Thread(target=wait_here)
    thread.start()
    held.wait()
    assert place_of(thread.ident) == "no line of this project"
    go.set()
    thread.join()


def test_an_orphan_is_asked_to_stop(monkeypatch):
    sent, told = [], []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    with StallWatch(None, 0, 1, seconds=0.4, tell=told.append, launched=True):
        monkeypatch.setattr(os, "getppid", lambda: 1)
        until = time.monotonic() + 30
        while not sent and time.monotonic() < until:
            time.sleep(0.02)
    assert sent == [(os.getpid(), 15)]
    assert told == ["the launcher is gone: saving and leaving"]
