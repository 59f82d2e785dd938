"""Ranks that start again find each other, whatever an earlier start left in their store."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from megascale.train.distributed import agree_on_attempt


def attempt_of_all(store: dist.Store, ranks: int, *, first: int = 0) -> list[str]:
    """The name that each rank gets; rank `first` comes first, the others later."""
    names: dict[int, str] = {}

    def join(rank: int) -> None:
        names[rank] = agree_on_attempt(store, rank, ranks, timeout=timedelta(seconds=20))

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(ranks)]
    threads[first].start()
    threads[first].join(0.1)
    for number, thread in enumerate(threads):
        if number != first:
            thread.start()
    for thread in threads:
        thread.join()
    return [names[rank] for rank in range(ranks)]


@pytest.mark.parametrize("first", [0, 2])
def test_every_start_has_one_name_of_its_own(first):
    store = dist.HashStore()
    names = [attempt_of_all(store, 3, first=first) for _ in range(3)]
    assert all(len(set(of_all)) == 1 for of_all in names)
    assert len({of_all[0] for of_all in names}) == 3


def test_ranks_that_died_while_asking_do_not_matter():
    store = dist.HashStore()
    store.set("megascale/asks/1", "dead")
    store.set("megascale/answers/dead", "an earlier attempt")
    names = attempt_of_all(store, 2)
    assert names[0] == names[1] != "an earlier attempt"


def test_rank_0_names_who_did_not_come():
    with pytest.raises(TimeoutError, match=r"ranks \[1, 2\] did not come"):
        agree_on_attempt(dist.HashStore(), 0, 3, timeout=timedelta(seconds=0.05))
