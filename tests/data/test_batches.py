"""Invariant 1 at the level of data: every schedule of batches consumes the same tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megascale.data.batches import (
    IGNORED_TARGET,
    batch_hash,
    combine_hashes,
    micro_batch,
    micro_batch_start,
    position_hash,
    valid_targets,
)
from megascale.data.stream import PhaseSpec, Stream, StreamSpec

TOTAL = 6_000


@pytest.fixture(scope="module")
def stream(make_source):
    spec = StreamSpec(
        sources={
            "a": [make_source("batch-a", 4_000, eos_every=23)],
            "b": [make_source("batch-b", 2_000, first_id=100_000, eos_every=31)],
        },
        phases=[PhaseSpec(0, {"a": 0.8, "b": 0.2}), PhaseSpec(3_333, {"b": 1.0})],
        seed=2,
        chunk_tokens=50,
        mixture_block_chunks=5,
    )
    return Stream(spec)


@st.composite
def schedules(draw):
    """Steps as (start, sequence_length, micro_batch_size, data_parallel, micro_batches)."""
    start, steps = 0, []
    while start < TOTAL:
        shape = (
            draw(st.sampled_from([64, 32, 16, 8])),
            draw(st.sampled_from([4, 3, 2, 1])),
            draw(st.sampled_from([4, 2, 1])),
            draw(st.sampled_from([4, 3, 2, 1])),
        )
        for _ in range(draw(st.sampled_from([8, 4, 2, 1]))):
            if start < TOTAL:
                steps.append((start, *shape))
                start += int(np.prod(shape))
    return steps


def rank_batches(step):
    _, length, size, ranks, count = step
    for rank in range(ranks):
        for index in range(count):
            yield {
                "sequence_length": length,
                "micro_batch_size": size,
                "data_parallel": ranks,
                "dp_rank": rank,
                "index": index,
            }


def consume(stream, step):
    """What all ranks see in a step: hash of the consumed tokens, number of valid targets."""
    start, *shape = step
    stop = min(start + int(np.prod(shape)), TOTAL)
    hashes, valid = [], 0
    for cut in rank_batches(step):
        batch = micro_batch(stream, start, stop, **cut)
        hashes.append(batch_hash(batch.inputs, micro_batch_start(start, **cut), stop))
        valid += int((batch.targets != IGNORED_TARGET).sum())
    assert valid == valid_targets(stream, start, stop)
    return combine_hashes(hashes), valid


@settings(max_examples=12, deadline=None)
@given(schedules(), st.data())
def test_the_hash_of_consumed_tokens_is_the_same_for_every_schedule(stream, steps, data):
    truth = position_hash(np.arange(TOTAL), stream.read(0, TOTAL))
    seen = [consume(stream, step) for step in steps]
    assert combine_hashes(value for value, _ in seen) == truth
    assert sum(valid for _, valid in seen) == TOTAL - stream.joins(0, TOTAL)
    killed = data.draw(st.integers(0, len(steps)))
    resumed = Stream(stream.spec)
    rest = [consume(resumed, step)[0] for step in steps[killed:]]
    assert combine_hashes([value for value, _ in seen[:killed]] + rest) == truth


def test_the_hash_sees_order_and_every_token():
    tokens = np.arange(100) % 7
    places = np.arange(100)
    truth = position_hash(places, tokens)
    swapped = tokens.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    changed = tokens.copy()
    changed[99] += 1
    assert len({truth, position_hash(places, swapped), position_hash(places, changed)}) == 3
    assert position_hash(places + 1, tokens) != truth
    order = np.random.default_rng(0).permutation(100)
    assert position_hash(places[order], tokens[order]) == truth


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 5_000),
    cut=st.integers(0, 3),
    length=st.sampled_from([7, 16, 64]),
    size=st.integers(1, 4),
)
def test_targets_and_documents_agree_with_the_stream(stream, start, cut, length, size):
    count = length * size
    stop = start + count - min(cut * 5, count - 1)
    batch = micro_batch(
        stream, start, stop, sequence_length=length, micro_batch_size=size, data_parallel=1,
        dp_rank=0, index=0, mask_documents=True,
    )  # fmt: skip
    tokens = stream.read(start, count + 1)
    chunk_begins = set(stream.chunk_starts(start, start + count + 1).tolist())
    targets, documents, document = [], [], 0
    for place in range(count):
        position = start + place
        masked = position + 1 in chunk_begins or position >= stop
        targets.append(IGNORED_TARGET if masked else int(tokens[place + 1]))
        begins = position in chunk_begins or (place > 0 and tokens[place - 1] == stream.eos_id)
        document = 0 if place % length == 0 else document + begins
        documents.append(document)
    assert batch.inputs.reshape(-1).tolist() == tokens[:-1].tolist()
    assert batch.targets.reshape(-1).tolist() == targets
    assert batch.doc_ids is not None
    assert batch.doc_ids.reshape(-1).tolist() == documents
    assert batch.inputs.shape == batch.targets.shape == (size, length)
    assert batch.inputs.dtype == batch.targets.dtype == np.int64
