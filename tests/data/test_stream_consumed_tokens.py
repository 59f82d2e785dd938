"""Invariant 1 through the loader and real batch schedules: what is consumed never depends on how.

Schedules grow and shrink by micro-batches or by sequence length, ranks and micro-batch sizes vary,
and the run is killed between any two steps and resumed on another layout.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megascale.data.batches import IGNORED_TARGET, combine_hashes, position_hash
from megascale.data.loader import Loader
from megascale.data.stream import PhaseSpec, Stream, StreamSpec
from megascale.schedule.batch import build_batch_schedule
from megascale.schedule.points import BatchPoint

TOTAL = 5_000
LEGAL = 256  # a multiple of every layout below


@pytest.fixture(scope="module")
def stream(make_source):
    sources = {
        "a": [make_source("consumed-a", 3_000, eos_every=41)],
        "b": [make_source("consumed-b", 1_500, first_id=100_000)],
    }
    phases = [PhaseSpec(0, {"a": 0.6, "b": 0.4}), PhaseSpec(3_333, {"b": 1.0})]
    spec = StreamSpec(sources, phases, seed=8, chunk_tokens=48, mixture_block_chunks=10)
    return Stream(spec)


@pytest.fixture(scope="module")
def truth(stream):
    valid = sum(
        (p + 1 - base) % 48 != 0 and p + 1 != 3_333
        for p, base in ((p, 3_333 if p + 1 >= 3_333 else 0) for p in range(TOTAL))
    )
    return position_hash(np.arange(TOTAL), stream.read(0, TOTAL)), valid


layouts = st.sampled_from(
    [(size, ranks) for size in (4, 2, 1) for ranks in (4, 2, 1) if size * ranks <= 8]
)


@st.composite
def plans(draw):
    """(batch table, layouts before and after the kill, growth, share of steps before it)."""
    factors = draw(st.lists(st.sampled_from([4, 2, 1, 3]), min_size=1, max_size=4))
    points = [BatchPoint(1_100 * number, LEGAL * f) for number, f in enumerate(factors)]
    growth = draw(st.sampled_from(["micro_batches", "sequence_length"]))
    return points, draw(layouts), draw(layouts), growth, draw(st.floats(0, 1))


def build(points, layout, growth, length, start=(0, 0)):
    size, ranks = layout
    return build_batch_schedule(
        points, total_tokens=TOTAL, sequence_length=length, micro_batch_size=size,
        data_parallel=ranks, growth=growth, start=start,
    )  # fmt: skip


def consume(stream, schedule, ranks, start, stop_step):
    """Hashes and valid targets of all ranks from `start` tokens up to a step, and where it ends."""
    hashes, valid, expected, reached = [], 0, 0, set()
    for rank in range(ranks):
        with Loader(
            stream, schedule, consumed_tokens=start, data_parallel=ranks, dp_rank=rank
        ) as loader:
            for loaded in loader:
                if loaded.step >= stop_step:
                    break
                hashes.append(loaded.token_hash)
                for batch in loaded.micro_batches:
                    valid += int((batch.targets != IGNORED_TARGET).sum())
                expected += loaded.valid_targets if rank == 0 else 0
                loader.advance(loaded)
            reached.add(loader.consumed_tokens)
    assert valid == expected
    (end,) = reached
    return combine_hashes(hashes), valid, end


@settings(max_examples=20, deadline=None)
@given(plans())
def test_batches_ranks_sequence_lengths_and_kills_change_nothing(stream, truth, plan):
    points, before, after, growth, part = plan
    schedule = build(points, before, growth, 32)
    killed = round(part * schedule.total_steps)
    first, valid, at = consume(stream, schedule, before[1], 0, killed)
    resumed = build(points, after, "micro_batches", 16, start=(at, killed))
    rest, more, end = consume(Stream(stream.spec), resumed, after[1], at, resumed.total_steps)
    assert end == TOTAL
    assert (combine_hashes([first, rest]), valid + more) == truth
