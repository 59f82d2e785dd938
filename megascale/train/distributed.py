"""Bring a process up among its ranks: device, threads, process group, agreement on the config."""

from __future__ import annotations

import os
import resource
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from megascale.errors import ConfigError, LayoutError, LostRankError, RunError, UserError
from megascale.machine import launched_ranks, rank_threads
from megascale.train.rundir import disk_error

Result = TypeVar("Result")

TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Process:
    """Where this process stands, as torchrun told it (or alone)."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes logs and prints."""
        return self.rank == 0


def start_process(
    *, backend: str = "auto", threads: int | None = None, timeout: timedelta = TIMEOUT
) -> Process:
    """Choose the device and the threads; open the process group when there are several ranks.

    Args:
        backend: `auto` (NCCL with GPUs, gloo without), `gloo` or `nccl`.
        threads: CPU threads of this process; None takes OMP_NUM_THREADS or a share of the
            cores (`rank_threads`). Results are bitwise repeatable only at equal thread counts.
        timeout: how long a collective waits for a rank.

    Raises:
        ConfigError: OMP_NUM_THREADS or Slurm's variable is no positive integer, or only a part of
            what a launcher sets is there.
        LayoutError: NCCL is to be used and this process has no GPU.
    """
    environment = os.environ
    rank, world_size = int(environment.get("RANK", "0")), launched_ranks(environment)
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    local_world_size = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    use_cuda = backend == "nccl" or (backend == "auto" and torch.cuda.is_available())
    devices = torch.cuda.device_count()
    if use_cuda and local_rank >= devices:
        raise LayoutError.of(
            "parallel.backend",
            backend,
            f"NCCL takes a GPU for each of this node's {local_world_size} processes, and "
            f"{devices} can be used",
            "gloo" if devices == 0 else f"--nproc-per-node {devices}",
        )
    if use_cuda:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    torch.set_num_threads(threads or rank_threads(local_world_size))
    torch.set_flush_denormal(True)
    if world_size > 1 and not dist.is_initialized():
        allow_connections(world_size)
        store, _, _ = next(dist.rendezvous("env://", rank, world_size, timeout=TIMEOUT))
        if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store = dist.PrefixStore(agree_on_attempt(store, rank, world_size), store)
        # gloo beside NCCL: checkpoints and host-side agreement do not touch the GPU.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if use_cuda else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    return Process(rank, world_size, local_rank, local_world_size, device)


def agree_on_attempt(
    store: dist.Store, rank: int, world_size: int, *, timeout: timedelta = TIMEOUT
) -> str:
    """A name for this start of all ranks that no earlier start has had. Collective.

    With a c10d or static rendezvous torchrun keeps one store over its restarts, and its count of
    restarts differs between nodes. Without a name of their own, restarted workers find the
    addresses that dead ones left there. Each rank asks under a name it has just invented, so no
    answer can be an old one; rank 0 answers whatever it finds, old questions too, until every
    rank has confirmed.

    Args:
        store: the one that all ranks share.
        rank: of this process.
        world_size: number of processes.
        timeout: longest wait for the other ranks.

    Raises:
        TimeoutError: on rank 0; some ranks did not come. They are named.
        torch.distributed.DistStoreError: on the others; rank 0 did not come.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"megascale/asks/{rank}", name)
        store.wait([f"megascale/answers/{name}"], timeout)
        attempt = store.get(f"megascale/answers/{name}").decode()
        store.set(f"megascale/confirmed/{attempt}/{rank}", "")
        return attempt
    missing = set(range(1, world_size))
    until = time.monotonic() + timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"megascale/confirmed/{name}/{other}"]):
                missing.remove(other)
            elif store.check([f"megascale/asks/{other}"]):
                asking = store.get(f"megascale/asks/{other}").decode()
                store.set(f"megascale/answers/{asking}", name)
        if missing and time.monotonic() > until:
            raise TimeoutError(f"ranks {sorted(missing)} did not come within {timeout}")
        time.sleep(0.01)
    return name


def agree_on_config(process: Process, digest: str) -> None:
    """Stop before the first collective when the ranks were started with different configs.

    Compares through the rendezvous store, which needs no collective and cannot hang on ranks
    whose programs differ.

    Args:
        digest: hash of the resolved config of this rank.

    Raises:
        ConfigError: on every rank, naming the ranks that differ from rank 0.
    """
    if process.world_size == 1:
        return
    store = dist.distributed_c10d._get_default_store()
    compare_digests(store, process.rank, process.world_size, digest)


def compare_digests(store: dist.Store, rank: int, world_size: int, digest: str) -> None:
    """Stop on every rank where one rank's digest differs from the first rank's.

    A rank makes at most eight requests of the store, the first one more for every rank that
    differs, so the store answers O(ranks) requests.

    Args:
        store: shared by all ranks.
        rank: of this process.
        world_size: number of processes.
        digest: hash of the resolved config of this rank.

    Raises:
        ConfigError: as `agree_on_config`.
    """
    prefix = "megascale/config-digest"
    if rank == 0:
        store.set(f"{prefix}/first", digest)
        first = digest
    else:
        first = store.get(f"{prefix}/first").decode()
        if digest != first:
            number = store.add(f"{prefix}/differing", 1)
            store.set(f"{prefix}/differing/{number}", f"{rank} {digest}")
        if store.add(f"{prefix}/compared", 1) == world_size - 1:
            store.set(f"{prefix}/all-compared", "")
    if rank == 0:
        if world_size > 1:
            store.wait([f"{prefix}/all-compared"])
        count = store.add(f"{prefix}/differing", 0)
        listed = [store.get(f"{prefix}/differing/{n}").decode() for n in range(1, count + 1)]
        store.set(f"{prefix}/verdict", ",".join(listed))
    verdict = store.get(f"{prefix}/verdict").decode()
    # Rank 0 serves the store: it must not leave before everybody has read.
    if store.add(f"{prefix}/read", 1) == world_size:
        store.set(f"{prefix}/all-read", "")
    if rank == 0:
        store.wait([f"{prefix}/all-read"])
    if not verdict:
        return
    others = sorted((int(one.split()[0]), one.split()[1]) for one in verdict.split(","))
    different = [other for other, _ in others]
    error = ConfigError.of(
        "config",
        f"{others[0][1][:12]} on rank {different[0]}",
        f"every rank must be started with the same config and overrides; ranks {different} "
        f"differ from rank 0 ({first[:12]})",
    )
    error.found_by = "run"
    raise error


SPARE_DESCRIPTORS = 256
"""Open files of a process beside its connections: token files, libraries, logs."""
MESHES = 2
"""Groups in which gloo connects every rank with every other: the default one, the checkpoints'."""


def allow_connections(world_size: int) -> None:
    """Raise the limit of open files to what gloo's connections take, a socket a rank and group.

    Raises:
        LayoutError: the system's hard limit is below that.
    """
    need = MESHES * (world_size - 1) + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    if hard != resource.RLIM_INFINITY and hard < need:
        error = LayoutError.of(
            "ulimit -n",
            hard,
            f"{world_size} ranks need {need} open files each: gloo connects every rank with every "
            "other; raise the hard limit (in limits.conf, LimitNOFILE or the container's --ulimit)",
            need,
        )
        error.found_by = "node"
        raise error
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def on_first(process: Process, action: Callable[[], Result]) -> Result | None:
    """Do something on rank 0; if that fails for the user, it fails on every rank. Collective.

    Returns:
        What `action` returned on rank 0; None on the other ranks.

    Raises:
        UserError: the one that `action` raised, on every rank, so that none waits for the others.
    """
    result: Result | None = None
    failure: UserError | None = None
    if process.is_main:
        try:
            result = action()
        except UserError as error:
            failure = error
    if process.world_size > 1:
        box = [failure]
        dist.broadcast_object_list(box, src=0)
        failure = box[0]
    if failure is not None:
        failure.found_by = "run"
        raise failure
    return result


def from_first(process: Process, value: Result) -> Result:
    """Rank 0's `value`, on every rank. Collective."""
    box = [value]
    if process.world_size > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def check_shared(process: Process, folder: Path, *, seconds: float = 60.0) -> None:
    """Check that all nodes see the directory that rank 0 writes to. Collective.

    Without that the other nodes' parts of every checkpoint would be missing.

    Args:
        folder: made by rank 0.
        seconds: how long a network file system may take to show a new file.

    Raises:
        RunError: on every rank, naming the hosts that look at another directory.
    """
    if process.world_size == process.local_world_size:
        return
    marker = on_first(process, lambda: _mark(folder))
    box = [marker]
    dist.broadcast_object_list(box, src=0)
    seen = folder / str(box[0])
    until = time.monotonic() + seconds
    while not seen.exists() and time.monotonic() < until:
        time.sleep(0.05)
    found: list[Any] = [None] * process.world_size
    dist.all_gather_object(found, None if seen.exists() else socket.gethostname())
    if process.is_main:
        seen.unlink()
    blind = sorted({host for host in found if host is not None})
    if blind:
        error = RunError.of(
            "output_dir",
            str(folder.parent),
            f"must be one directory for all nodes; {', '.join(blind)} cannot see what rank 0 "
            "writes there. Choose one on a shared file system",
        )
        error.found_by = "run"
        raise error


def _mark(folder: Path) -> str:
    name = f".seen-{uuid.uuid4().hex}"
    try:
        (folder / name).touch()
    except OSError as failure:
        raise disk_error("run directory", folder, failure) from failure
    return name


TRANSPORT_WORDS = ("gloo", "closed by peer", "reset by peer", "pair closure", "timed out waiting")
"""What gloo says where a rank is gone; its errors have no type of their own."""


def lost_rank(process: Process, failure: Exception, minutes: float) -> LostRankError | None:
    """What the user reads when a collective failed since another rank is gone; None otherwise.

    Args:
        process: this one.
        failure: what was raised here.
        minutes: the time-out of collectives.
    """
    first = str(failure).partition("\n")[0]
    words = first.lower()
    by_transport = isinstance(failure, dist.DistError) or any(w in words for w in TRANSPORT_WORDS)
    if process.world_size == 1 or not by_transport:
        return None
    error = LostRankError.of(
        "ranks",
        process.world_size,
        f"rank {process.rank} on host {socket.gethostname()} has lost another one, which ended or "
        f"did not come within {minutes:g} minutes (parallel.timeout_minutes); its own message says "
        f"why, and starting the same command again goes on ({first})",
    )
    error.found_by = "node"
    return error


def stop_process() -> None:
    """Close the process group, if one is open."""
    if dist.is_initialized():
        dist.destroy_process_group()
