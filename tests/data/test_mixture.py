"""Mixtures hold their weights exactly, block by block, without ever drifting by a chunk."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from megascale.data.mixture import WEIGHT_UNIT, Mixture, weight_parts
from megascale.errors import DataError


@st.composite
def mixtures(draw):
    raw = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=6))
    assume(sum(raw))
    weights = {f"s{i}": part / sum(raw) for i, part in enumerate(raw)}
    smallest = min(w for w in weights.values() if w)
    block = draw(st.integers(math.ceil(1 / smallest) + 1, math.ceil(1 / smallest) + 50))
    return weights, Mixture(weights, block_chunks=block, key=draw(st.integers(0, 2**64 - 1)))


@given(mixtures(), st.integers(0, 10**9))
def test_counts_are_exact_and_never_drift(made, block):
    weights, mixture = made
    chunks = np.array([block, block + 1]) * mixture.block_chunks
    counts = mixture.chunks_before(chunks)
    assert counts.sum(axis=1).tolist() == chunks.tolist()
    parts = weight_parts(weights)
    for column, name in enumerate(mixture.names):
        for row, total in enumerate(chunks.tolist()):
            drift = int(counts[row, column]) * WEIGHT_UNIT - total * parts[name]
            assert abs(drift) < WEIGHT_UNIT
    assert (np.diff(counts, axis=0) >= 0).all()


@given(mixtures(), st.integers(0, 10**9), st.data())
def test_random_access_equals_counting_through_the_block(made, block, data):
    _, mixture = made
    first = block * mixture.block_chunks
    chunks = np.arange(first, first + 3 * mixture.block_chunks)
    source, ordinal = mixture.locate(chunks)
    low, high = mixture.chunks_before([chunks[0], chunks[-1] + 1])
    for column in range(len(mixture.names)):
        mine = ordinal[source == column]
        np.testing.assert_array_equal(mine, np.arange(low[column], high[column]))
    middle = first + mixture.block_chunks + data.draw(st.integers(0, mixture.block_chunks))
    begun = np.bincount(source[: middle - first], minlength=len(mixture.names))
    np.testing.assert_array_equal(mixture.delivered(middle), low + begun)
    alone = [mixture.locate([chunk]) for chunk in chunks[:: max(1, len(chunks) // 7)]]
    assert [int(s[0]) for s, _ in alone] == source[:: max(1, len(chunks) // 7)].tolist()
    assert [int(o[0]) for _, o in alone] == ordinal[:: max(1, len(chunks) // 7)].tolist()


def test_every_block_of_a_round_mixture_is_exact():
    mixture = Mixture({"web": 0.7, "code": 0.25, "books": 0.05}, block_chunks=100, key=3)
    source, _ = mixture.locate(np.arange(100 * 50))
    per_block = np.stack([np.bincount(row, minlength=3) for row in source.reshape(50, 100)])
    assert mixture.names == ("books", "code", "web")
    assert np.unique(per_block, axis=0).tolist() == [[5, 25, 70]]
    assert len({row.tobytes() for row in source.reshape(50, 100)}) == 50


def test_order_of_the_table_does_not_matter():
    one = Mixture({"a": 0.3, "b": 0.7}, block_chunks=10, key=9)
    other = Mixture({"b": 0.7, "a": 0.3, "unused": 0.0}, block_chunks=10, key=9)
    for left, right in zip(one.locate(np.arange(40)), other.locate(np.arange(40))):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0.5, "b": 0.4}, "sum to 0.9"),
        ({"a": 0.5, "b": 0.5 + 1e-8}, "sum to 1.00000001"),
        ({"a": 1.5, "b": -0.5}, r"mixture\.b = -0.5"),
        ({"a": float("nan")}, r"mixture\.a = nan"),
        ({"a": 0.0}, "sum to 0"),
        ({}, "at least one source"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        Mixture(weights, block_chunks=100, key=0)


def test_a_source_too_rare_for_the_block_is_refused_with_the_nearest_block():
    with pytest.raises(DataError, match=r"rare.*Nearest legal: 1000\."):
        Mixture({"main": 0.999, "rare": 0.001}, block_chunks=100, key=0)
    Mixture({"main": 0.999, "rare": 0.001}, block_chunks=1000, key=0)
    with pytest.raises(DataError, match=r"Nearest legal: 65536\."):
        Mixture({"main": 1.0}, block_chunks=65_537, key=0)
