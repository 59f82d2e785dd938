"""Counts of what ranks read and ask, by which the work at thousands of ranks is known."""

from __future__ import annotations

import resource
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch.distributed as dist

from megascale.errors import ConfigError, LayoutError
from megascale.train import distributed
from megascale.train.checkpoint import directory, latest_checkpoint, loading, storage
from megascale.train.distributed import (
    MESHES,
    SPARE_DESCRIPTORS,
    allow_connections,
    compare_digests,
)
from tests.multiprocess.harness import spawn_ranks
from tests.train.checkpoint_samples import empty_like, equal, sample_chunks


class CountingStore:
    """A store that counts what each thread asks of it."""

    def __init__(self) -> None:
        self.inner = dist.HashStore()
        self.asked: Counter[int] = Counter()

    def __getattr__(self, name):
        function = getattr(self.inner, name)

        def counted(*arguments):
            self.asked[threading.get_ident()] += 1
            return function(*arguments)

        return counted


def compare(ranks: int, digests: dict[int, str]) -> tuple[CountingStore, list[str | None]]:
    store = CountingStore()
    messages: list[str | None] = [None] * ranks

    def one(rank: int) -> None:
        try:
            compare_digests(store, rank, ranks, digests.get(rank, "a" * 64))
        except ConfigError as error:
            messages[rank] = str(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return store, messages


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_ranks_agree_on_the_config_with_a_bounded_number_of_requests_each(ranks):
    store, messages = compare(ranks, {})
    assert messages == [None] * ranks
    assert max(store.asked.values()) <= 8
    assert sum(store.asked.values()) <= 4 * ranks + 8


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_every_rank_names_the_ranks_that_differ(ranks):
    store, messages = compare(ranks, {1: "b" * 64, ranks - 1: "c" * 64})
    different = sorted({1, ranks - 1})
    for message in messages:
        assert message is not None
        assert f"ranks {different} differ from rank 0 (aaaaaaaaaaaa)" in message
    assert sum(store.asked.values()) <= 4 * ranks + 14


def _read_counted(rank: int, folder: str) -> tuple[dict[str, int], int]:
    from megascale.train.checkpoint import Checkpointer, load_checkpoint, rng_state

    saved = Checkpointer(folder).save(
        step=1, tokens=4, chunks=sample_chunks(), state={}, rank_state=rng_state()
    )
    assert saved is not None
    read: Counter[str] = Counter()
    real = directory.read_object

    def counted(path: Path):
        read[path.name] += 1
        return real(path)

    for module in (directory, loading, storage):
        module.read_object = counted
    found = latest_checkpoint(folder)
    assert found is not None
    loaded = empty_like(sample_chunks())
    state = load_checkpoint(found.path, loaded)
    assert equal(loaded, sample_chunks())
    own = loading.read_rank_state(found.path, rank, state)
    assert own is not None
    return dict(read), (found.path / "state.json").stat().st_size


@pytest.mark.parametrize("ranks", [2, 4])
def test_shared_files_are_read_by_the_first_rank_alone(ranks, tmp_path):
    results = spawn_ranks(ranks, _read_counted, str(tmp_path))
    for rank, (read, state_bytes) in enumerate(results):
        shared = {name: count for name, count in read.items() if not name.startswith("rank-")}
        once = {"manifest.json": 1, "index.json": 1, "state.json": 1} if rank == 0 else {}
        assert shared == once
        assert read[f"rank-{rank:05d}.json"] == 1
        assert state_bytes < 1000


def test_the_limit_of_open_files_is_raised_or_named(monkeypatch):
    set_to = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: set_to.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    allow_connections(100)
    assert set_to == []
    allow_connections(1000)
    assert set_to == [(MESHES * 999 + SPARE_DESCRIPTORS, 4096)]
    with pytest.raises(LayoutError, match=r"ulimit -n = 4096: 3000 ranks need 6254 open files"):
        allow_connections(3000)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, resource.RLIM_INFINITY))
    allow_connections(16_384)
    assert set_to[-1][0] == MESHES * 16_383 + SPARE_DESCRIPTORS
    assert distributed.allow_connections is allow_connections
