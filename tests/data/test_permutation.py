"""The keyed permutation: a bijection at every size, well mixed, in constant memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from megascale.data.permutation import derive_key, numbered_keys, permute, unpermute
from megascale.errors import DataError

keys = st.integers(0, 2**64 - 1)


@given(size=st.integers(1, 3000), key=keys)
def test_is_a_bijection_and_inverts(size, key):
    indices = np.arange(size)
    images = permute(indices, size, key)
    np.testing.assert_array_equal(np.sort(images), indices)
    np.testing.assert_array_equal(unpermute(images, size, key), indices)


@given(size=st.integers(1, 2**63), key=keys, fractions=st.lists(st.floats(0, 1), min_size=1))
def test_inverts_at_any_size(size, key, fractions):
    indices = np.array([min(int(part * size), size - 1) for part in fractions], dtype=np.int64)
    images = permute(indices, size, key)
    assert (images >= 0).all()
    assert int(images.max()) < size
    np.testing.assert_array_equal(unpermute(images, size, key), indices)


@given(size=st.integers(2, 500), data=st.data())
def test_a_key_per_element_equals_one_call_per_key(size, data):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, size - 1), keys), min_size=1, max_size=20))
    indices = np.array([index for index, _ in pairs])
    together = permute(indices, size, np.array([key for _, key in pairs], dtype=np.uint64))
    apart = [int(permute(index, size, key)) for index, key in pairs]
    assert together.tolist() == apart


@pytest.mark.parametrize("size", [2, 3, 5, 8, 16, 100, 129, 1000])
def test_every_image_is_equally_likely_over_keys(size):
    draws = max(20_000, 40 * size)
    many = numbered_keys(derive_key("uniformity"), np.arange(draws))
    for index in (0, 1, size - 1):
        images = permute(np.full(draws, index), size, many)
        counts = np.bincount(images, minlength=size)
        assert stats.chisquare(counts).pvalue > 1e-5


def test_neighbours_land_far_apart_without_a_pattern():
    size = 200_003
    images = permute(np.arange(size), size, derive_key("mixing")).astype(float)
    assert abs(np.corrcoef(np.arange(size), images)[0, 1]) < 0.02
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    gaps = np.mod(np.diff(images), size)
    assert stats.kstest(gaps / size, "uniform").pvalue > 1e-5


def test_epochs_are_unrelated():
    size = 10_000
    first, second = (permute(np.arange(size), size, numbered_keys(7, e)) for e in (0, 1))
    assert np.count_nonzero(first == second) < 10


def test_outside_the_domain_is_refused():
    with pytest.raises(DataError, match=r"\[0, 10\)"):
        permute([3, 10], 10, 1)
    with pytest.raises(DataError, match="between 1 and"):
        permute([0], 0, 1)
