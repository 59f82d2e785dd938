"""The prefetching loader: the same steps as direct cuts, one integer of state, clean ends."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest

from megascale.data.batches import combine_hashes, micro_batch, position_hash
from megascale.data.loader import Loader
from megascale.data.stream import PhaseSpec, Stream, StreamSpec
from megascale.errors import DataError


@dataclass(frozen=True)
class FixedSegment:
    sequence_length: int
    micro_batch_size: int
    micro_batches: int


class FixedSchedule:
    """Steps of two sizes, written out by hand; stands in for a BatchSchedule."""

    def __init__(self, data_parallel, total_tokens=1_500):
        small, large = FixedSegment(16, 1, 4 // data_parallel), FixedSegment(16, 2, 4)
        self.steps, start = [], 0
        while start < total_tokens:
            segment = small if start < 512 else large
            size = segment.sequence_length * segment.micro_batch_size * segment.micro_batches
            stop = min(start + size * data_parallel, total_tokens)
            self.steps.append((start, stop, segment))
            start = stop
        self.total_tokens, self.total_steps = total_tokens, len(self.steps)

    def segment_at_step(self, step):
        return self.steps[step][2]

    def window(self, step):
        return self.steps[step][:2]

    def step_at_tokens(self, tokens):
        return [start for start, _, _ in self.steps].index(tokens)


@pytest.fixture(scope="module")
def stream(make_source):
    sources = {"a": [make_source("loader", 1_000, eos_every=19)]}
    return Stream(StreamSpec(sources, [PhaseSpec(0, {"a": 1.0})], seed=4, chunk_tokens=20))


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "token-loader"]


@pytest.mark.parametrize("data_parallel", [1, 2, 4])
def test_all_ranks_together_consume_the_stream(stream, data_parallel):
    hashes = []
    for rank in range(data_parallel):
        schedule = FixedSchedule(data_parallel)
        with Loader(
            stream, schedule, data_parallel=data_parallel, dp_rank=rank, mask_documents=True
        ) as loader:
            for loaded in loader:
                start, stop, segment = schedule.steps[loaded.step]
                assert (loaded.start, loaded.stop) == (start, stop)
                assert loaded.valid_targets == stop - start - stream.joins(start, stop)
                assert len(loaded.micro_batches) == segment.micro_batches
                direct = micro_batch(
                    stream, start, stop, sequence_length=16,
                    micro_batch_size=segment.micro_batch_size, data_parallel=data_parallel,
                    dp_rank=rank, index=1 % segment.micro_batches, mask_documents=True,
                )  # fmt: skip
                ours = loaded.micro_batches[1 % segment.micro_batches]
                for tensor, array in zip((ours.inputs, ours.targets, ours.doc_ids), direct):
                    assert tensor is not None
                    np.testing.assert_array_equal(tensor.numpy(), array)
                hashes.append(loaded.token_hash)
                loader.advance(loaded)
            assert loader.consumed_tokens == 1_500
    assert combine_hashes(hashes) == position_hash(np.arange(1_500), stream.read(0, 1_500))
    assert not threads()


def test_state_counts_finished_steps_only_and_resumes_there(stream):
    schedule = FixedSchedule(1)
    with Loader(stream, schedule, ahead=4) as loader:
        first = [next(loader) for _ in range(5)]
        for step in first[:3]:
            loader.advance(step)
        state = loader.consumed_tokens
        with pytest.raises(DataError, match="begins at token 192"):
            loader.advance(first[4])
    assert state == 192
    with Loader(stream, schedule, consumed_tokens=state) as resumed:
        again = next(resumed)
    assert again.token_hash == first[3].token_hash
    assert not threads()


def test_nothing_is_left_at_the_end_of_the_run(stream):
    schedule = FixedSchedule(1)
    with Loader(stream, schedule, consumed_tokens=schedule.total_tokens) as loader:
        assert list(loader) == []


class Failing(Stream):
    def read(self, start, count):
        if start + count > 300:
            raise DataError("the disk went away")
        return super().read(start, count)


def test_errors_reach_the_consumer_at_their_step(stream):
    loader = Loader(Failing(stream.spec), FixedSchedule(1))
    taken = [next(loader) for _ in range(4)]
    assert [step.step for step in taken] == [0, 1, 2, 3]
    with pytest.raises(DataError, match="the disk went away"):
        next(loader)
    assert not threads()
    with pytest.raises(StopIteration):
        next(loader)


def test_closing_early_ends_the_thread(stream):
    loader = Loader(stream, FixedSchedule(1), ahead=1)
    next(loader)
    loader.close()
    loader.close()
    assert not threads()
    assert list(loader) == []


def test_arguments_are_checked(stream):
    with pytest.raises(DataError, match=r"must lie in \[0, 2\)"):
        Loader(stream, FixedSchedule(2), data_parallel=2, dp_rank=2)
    with pytest.raises(DataError, match="at least one step"):
        Loader(stream, FixedSchedule(1), ahead=0)
