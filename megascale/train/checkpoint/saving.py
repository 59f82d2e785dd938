"""Save checkpoints, at once or behind the training's back, and delete superfluous ones."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from megascale.errors import CheckpointError, UserError
from megascale.formats.run_log import timestamp
from megascale.train.checkpoint.chunks import ChunkSavePlanner, TensorChunk, group_chunks
from megascale.train.checkpoint.directory import (
    FORMAT,
    INDEX_FILE,
    MANIFEST_FILE,
    STATE_FILE,
    TEMPORARY_PREFIX,
    Retention,
    checkpoint_name,
    clean_leftovers,
    damage,
    delete_checkpoint,
    file_sha256,
    json_bytes,
    list_checkpoints,
    manifest_bytes,
    pinned_names,
    read_manifest,
    set_aside,
)
from megascale.train.checkpoint.storage import SafetensorsWriter
from megascale.train.rundir import disk_error, sync_directory

OWN_KEYS = ("format", "step", "consumed_tokens", "saved_at", "torch", "world_size", "ranks")
"""Keys of `state.json` that the checkpointer itself fills in."""


@dataclass(frozen=True, slots=True)
class SaveResult:
    """A finished save."""

    path: Path
    step: int
    tokens: int
    seconds: float  # from the call to the rename
    blocked_seconds: float  # of these, how long training stood still
    bytes: int = 0  # of all files; known on rank 0
    deleted: list[str] = field(default_factory=list)  # by the retention policy; on rank 0
    warnings: list[str] = field(default_factory=list)  # deletions that failed; on rank 0


@dataclass(frozen=True, slots=True)
class _StagedChunk:
    fqn: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    local: torch.Tensor


class Checkpointer:
    """Writes the checkpoints of one run; every rank has one and calls it in the same order.

    With `asynchronous=True` a save copies the tensors to host memory and returns; a thread
    writes them through a gloo group of its own. At most one save is in flight: the next one
    waits for it. Errors come out of the next `save`, `collect` or `close`.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        retention: Retention | None = None,
        asynchronous: bool = False,
        timeout: timedelta | None = None,
    ) -> None:
        """Args:
            directory: the run's `checkpoints` folder; made with the first save. Rank 0 removes
                what a killed process left half written there, so the caller must hold the run
                directory.
            retention: which checkpoints to keep; the default keeps the last three.
            asynchronous: write in the background.
            timeout: how long a rank waits for another; None takes torch's.

        Collective when torch.distributed is initialised: makes a gloo group of all ranks.
        """
        self.directory = Path(directory)
        self.retention = retention or Retention()
        self.asynchronous = asynchronous
        self._group: dist.ProcessGroup | None = None
        self._rank, self._world_size = 0, 1
        if dist.is_initialized():
            group: Any = dist.new_group(backend="gloo", timeout=timeout)
            self._group = group
            self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        if self._rank == 0:
            clean_leftovers(self.directory)
        if self._group is not None:
            dist.barrier(self._group)
        self._verified: set[str] = set()
        self._buffers: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._outcome: SaveResult | BaseException | None = None

    def trust(self, path: Path) -> None:
        """Tell the retention policy that `path` was verified, after loading it."""
        self._verified.add(path.name)

    def save(
        self,
        *,
        step: int,
        tokens: int,
        chunks: Iterable[TensorChunk],
        state: Mapping[str, Any],
        rank_state: Mapping[str, Any] | None = None,
    ) -> SaveResult | None:
        """Write the checkpoint after `step` finished steps and `tokens` consumed tokens.

        Collective. A checkpoint of that name that already exists stays if it is sound and holds
        the same tensors, and is set aside otherwise.

        Args:
            step: finished steps.
            tokens: consumed tokens.
            chunks: every tensor of the training state, as this rank's boxes of global tensors;
                boxes that several ranks hold are written once.
            state: everything else, as JSON-able data; rank 0's counts.
            rank_state: what differs from rank to rank (RNG states); in a file of each rank.

        Returns:
            The result, or None when the save goes on in the background.

        Raises:
            RunError: disk full, no permission, read-only; on every rank. The unfinished folder
                is gone, older checkpoints and the training state are untouched.
            CheckpointError: the chunks of some tensor overlap or leave gaps.
            ValueError: `state` uses a key of `OWN_KEYS`.
        """
        started = time.monotonic()
        taken = [key for key in OWN_KEYS if key in state]
        if taken:
            raise ValueError(f"state keys {', '.join(taken)} are the checkpointer's own")
        self.collect()
        if not self.asynchronous:
            result = self._write(started, None, step, tokens, list(chunks), state, rank_state)
            self._verified.add(result.path.name)
            return result
        staged = self._stage(chunks)
        frozen = json_bytes(dict(state))  # fail here, and keep what the loop changes from now on
        blocked = time.monotonic() - started

        def background() -> None:
            try:
                self._outcome = self._write(
                    started, blocked, step, tokens, staged, frozen, rank_state
                )
            except BaseException as failure:
                self._outcome = failure

        self._thread = threading.Thread(target=background, name="checkpoint")
        self._thread.start()
        return None

    @property
    def in_flight(self) -> bool:
        """Whether a background save has been started and not collected."""
        return self._thread is not None

    @property
    def finished(self) -> bool:
        """Whether the save in flight is done on this rank.

        Ranks finish at slightly different times: agree on it (a minimum over the ranks) before
        calling `collect` in the middle of training.
        """
        return self._thread is not None and not self._thread.is_alive()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait at most so long for the save in flight; whether none is left running here."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        return self._thread is None or not self._thread.is_alive()

    def collect(self) -> SaveResult | None:
        """Wait for the save in flight and return its result; None if there is none.

        Raises:
            RunError, CheckpointError: what went wrong in it; on every rank.
        """
        if self._thread is None:
            return None
        self._thread.join()
        outcome, self._thread, self._outcome = self._outcome, None, None
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None
        self._verified.add(outcome.path.name)
        return outcome

    def give_up_oldest(self) -> str | None:
        """Delete the oldest checkpoint that is not the newest sound one, pinned or kept for ever.

        Collective, with no save in flight.

        Returns:
            Its name; None where there is none to give up.
        """
        box: list[str | None] = [None]
        if self._rank == 0:
            least = Retention(1, self.retention.keep_every_tokens)
            saved = list_checkpoints(self.directory)
            pinned = pinned_names(self.directory)
            for victim in least.superfluous(saved, verified=self._verified, pinned=pinned)[:1]:
                delete_checkpoint(victim.path)
                box = [victim.path.name]
        if self._group is not None:
            dist.broadcast_object_list(box, group=self._group, group_src=0)
        return box[0]

    def close(self) -> SaveResult | None:
        """Finish the save in flight, as `collect`, and free the staging memory."""
        try:
            return self.collect()
        finally:
            self._buffers.clear()

    def _stage(self, chunks: Iterable[TensorChunk]) -> list[TensorChunk]:
        """Copies in host memory (pinned for CUDA), reused from save to save."""
        staged: list[TensorChunk] = []
        on_cuda = False
        for chunk in chunks:
            local = chunk.local.detach()
            key = (chunk.fqn, tuple(chunk.offsets))
            buffer = self._buffers.get(key)
            if buffer is None or buffer.shape != local.shape or buffer.dtype != local.dtype:
                buffer = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
                self._buffers[key] = buffer
            buffer.copy_(local, non_blocking=local.is_cuda)
            on_cuda = on_cuda or local.is_cuda
            staged.append(
                _StagedChunk(chunk.fqn, tuple(chunk.global_shape), tuple(chunk.offsets), buffer)
            )
        if on_cuda:
            torch.cuda.synchronize()
        return staged

    def _write(
        self,
        started: float,
        blocked: float | None,
        step: int,
        tokens: int,
        chunks: list[TensorChunk],
        state: Mapping[str, Any] | bytes,
        rank_state: Mapping[str, Any] | None,
    ) -> SaveResult:
        final = self.directory / checkpoint_name(step, tokens)
        folder = self.directory / (TEMPORARY_PREFIX + final.name)
        total_bytes = 0

        def finished(index: dict[str, Any], files: dict[str, tuple[int, str]]) -> None:
            nonlocal total_bytes
            whole = _with_own_keys(state, step, tokens, self._world_size)
            for name, data in ((INDEX_FILE, json_bytes(index)), (STATE_FILE, json_bytes(whole))):
                _write_file(folder / name, data)
                files[name] = (len(data), file_sha256(folder / name))
            manifest = manifest_bytes(files)
            _write_file(folder / MANIFEST_FILE, manifest)
            total_bytes = len(manifest) + sum(size for size, _ in files.values())
            sync_directory(folder)
            if final.exists() and _same_tensors(final, files):
                shutil.rmtree(folder)
            else:
                if final.exists():
                    set_aside([final])
                os.rename(folder, final)
            sync_directory(self.directory)

        try:
            dcp.save(
                group_chunks(chunks),
                storage_writer=SafetensorsWriter(
                    folder, finished, None if rank_state is None else json_bytes(dict(rank_state))
                ),
                planner=ChunkSavePlanner(),
                process_group=self._group,
                no_dist=self._group is None,
            )
        except CheckpointException as failure:
            if self._rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
            raise user_error(failure, self.directory) from failure
        deleted, troubles = self._delete_superfluous(final) if self._rank == 0 else ([], [])
        seconds = time.monotonic() - started
        return SaveResult(
            path=final,
            step=step,
            tokens=tokens,
            seconds=seconds,
            blocked_seconds=seconds if blocked is None else blocked,
            bytes=total_bytes,
            deleted=deleted,
            warnings=troubles,
        )

    def _delete_superfluous(self, newest: Path) -> tuple[list[str], list[str]]:
        deleted, troubles = [], []
        try:
            victims = self.retention.superfluous(
                list_checkpoints(self.directory),
                verified={*self._verified, newest.name},
                pinned=pinned_names(self.directory),
            )
            for victim in victims:
                delete_checkpoint(victim.path)
                deleted.append(victim.path.name)
        except OSError as failure:
            troubles.append(f"old checkpoint not deleted: {failure}")
        return deleted, troubles


def user_error(failure: CheckpointException, path: Path) -> UserError:
    """What the user reads instead of the library's report of every rank's traceback."""
    causes = [cause for _, (cause, _) in sorted(failure.failures.items())]
    for cause in causes:
        if isinstance(cause, UserError):
            return cause
    for cause in causes:
        if isinstance(cause, OSError):
            return disk_error("checkpoint", Path(cause.filename or path), cause)
    return CheckpointError.of("checkpoint", str(path), f"{causes[0]}")


def _with_own_keys(
    state: Mapping[str, Any] | bytes,
    step: int,
    tokens: int,
    world_size: int,
) -> dict[str, Any]:
    given = json.loads(state) if isinstance(state, bytes) else dict(state)
    return {
        "format": FORMAT,
        "step": step,
        "consumed_tokens": tokens,
        "saved_at": timestamp(),
        "torch": torch.__version__,
        "world_size": world_size,
        **given,
    }


def _same_tensors(path: Path, files: dict[str, tuple[int, str]]) -> bool:
    tensors = {name: entry for name, entry in files.items() if name.endswith(".safetensors")}
    if damage(path):
        return False
    there = read_manifest(path)
    return tensors == {name: there[name] for name in there if name.endswith(".safetensors")}


def _write_file(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
