"""Micro-batches of a batch schedule, read ahead by a background thread.

The loader's whole state is one integer, the tokens consumed by finished steps. It is derived from
what the consumer has taken, not from what the thread has read ahead, so a checkpoint never counts
tokens that were not trained on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from numpy.typing import NDArray

from megascale.data.batches import (
    batch_hash,
    combine_hashes,
    micro_batch,
    micro_batch_start,
    valid_targets,
)
from megascale.data.stream import Stream
from megascale.errors import DataError

if TYPE_CHECKING:
    from megascale.schedule.batch import BatchSchedule


@dataclass(frozen=True, slots=True)
class LoadedMicroBatch:
    """One rank's micro-batch as tensors of shape [micro_batch_size, S].

    `first` is the stream position of its first token; its rows follow one another.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    doc_ids: torch.Tensor | None
    first: int


@dataclass(frozen=True, slots=True)
class LoadedStep:
    """All micro-batches that one rank runs in one step.

    Attributes:
        step: number of the step, from 0.
        start, stop: the window in tokens; `stop - start` falls short of a batch only at the end.
        valid_targets: targets that count over all ranks: what the loss is divided by.
        token_hash: `position_hash` of this rank's consumed tokens; summed over the data-parallel
            ranks and steps modulo 2**64 it identifies what the run has consumed.
        micro_batches: in order.
    """

    step: int
    start: int
    stop: int
    valid_targets: int
    token_hash: int
    micro_batches: tuple[LoadedMicroBatch, ...]


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


class Loader:
    """Iterator over the steps that are left, for one data-parallel rank.

    Use it as a context manager, or call `close`; the thread also ends by itself after the last
    step. Errors met while reading are raised in the consumer, at the step they belong to.

    Args:
        stream: the training data.
        schedule: the run's batch schedule.
        consumed_tokens: where to start; must be a step boundary of the schedule.
        data_parallel, dp_rank: number of data-parallel ranks, and which of them.
        mask_documents: also number the documents (`doc_ids`).
        ahead: steps to read ahead, at least 1.
        pin_memory: put tensors into page-locked memory, for asynchronous copies to a GPU.

    Raises:
        ScheduleError: `consumed_tokens` is not a step boundary.
        DataError: ranks out of range; later, whatever is wrong with the data.
    """

    def __init__(
        self,
        stream: Stream,
        schedule: BatchSchedule,
        *,
        consumed_tokens: int = 0,
        data_parallel: int = 1,
        dp_rank: int = 0,
        mask_documents: bool = False,
        ahead: int = 2,
        pin_memory: bool = False,
    ) -> None:
        if not 0 <= dp_rank < data_parallel:
            raise DataError.of("dp_rank", dp_rank, f"must lie in [0, {data_parallel})")
        if ahead < 1:
            raise DataError.of("ahead", ahead, "at least one step is read ahead", 1)
        self.consumed_tokens = consumed_tokens
        self._stream = stream
        self._schedule = schedule
        self._data_parallel = data_parallel
        self._dp_rank = dp_rank
        self._mask_documents = mask_documents
        self._pin_memory = pin_memory
        done = consumed_tokens >= schedule.total_tokens
        self._next_step = schedule.total_steps if done else schedule.step_at_tokens(consumed_tokens)
        self._ready: queue.Queue[LoadedStep | _Failure | None] = queue.Queue(maxsize=ahead)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, name="token-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[LoadedStep]:
        return self

    def __next__(self) -> LoadedStep:
        """The next step. The one before counts as consumed once `advance` was called."""
        if self._stopping.is_set():
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, LoadedStep):
            return item
        self.close()
        if isinstance(item, _Failure):
            raise item.error
        raise StopIteration

    def advance(self, step: LoadedStep) -> None:
        """Count a step as consumed, after its update (or its skip) is done.

        Raises:
            DataError: the step does not begin where the last one ended.
        """
        if step.start != self.consumed_tokens:
            rule = f"the next step to count begins at token {self.consumed_tokens}"
            raise DataError.of("step.start", step.start, rule)
        self.consumed_tokens = step.stop

    def close(self) -> None:
        """Stop the thread and drop what it has read ahead. May be called more than once."""
        self._stopping.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_ahead(self) -> None:
        try:
            for step in range(self._next_step, self._schedule.total_steps):
                if self._stopping.is_set():
                    return
                self._hand_over(self._load(step))
            self._hand_over(None)
        except BaseException as error:
            self._hand_over(_Failure(error))

    def _hand_over(self, item: LoadedStep | _Failure | None) -> None:
        while not self._stopping.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _load(self, step: int) -> LoadedStep:
        segment = self._schedule.segment_at_step(step)
        start, stop = self._schedule.window(step)
        loaded, hashes = [], []
        for index in range(segment.micro_batches):
            cut = {
                "sequence_length": segment.sequence_length,
                "micro_batch_size": segment.micro_batch_size,
                "data_parallel": self._data_parallel,
                "dp_rank": self._dp_rank,
                "index": index,
            }
            masked = self._mask_documents
            batch = micro_batch(self._stream, start, stop, mask_documents=masked, **cut)
            first = micro_batch_start(start, **cut)
            hashes.append(batch_hash(batch.inputs, first, stop))
            documents = None if batch.doc_ids is None else self._tensor(batch.doc_ids)
            loaded.append(
                LoadedMicroBatch(
                    self._tensor(batch.inputs), self._tensor(batch.targets), documents, first
                )
            )
        return LoadedStep(
            step=step,
            start=start,
            stop=stop,
            valid_targets=valid_targets(self._stream, start, stop),
            token_hash=combine_hashes(hashes),
            micro_batches=tuple(loaded),
        )

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._pin_memory else tensor
