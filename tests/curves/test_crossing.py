"""Crossings of curves that are known in closed form, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from megascale.curves.crossing import crossings, find_crossings
from megascale.curves.curve import Curve
from megascale.curves.table import curves_from_table
from tests.curves.simulated import Truth, run_table

TRUTH = Truth()


def lead_of_the_small_batch(log_tokens: float, small: float, large: float) -> float:
    tokens = np.exp(log_tokens)
    return float(TRUTH.loss(tokens / small, small) - TRUTH.loss(tokens / large, large))


def test_crossings_lie_where_the_curves_cross() -> None:
    curves = curves_from_table(run_table(TRUTH, seed=3)).curves
    crossings = find_crossings(curves)
    assert [c.batch_small for c in crossings] == [16384, 32768, 65536]
    for found in crossings:
        small, large = found.batch_small, found.batch_large
        place = brentq(lead_of_the_small_batch, np.log(1e6), np.log(1e12), (small, large))
        assert abs(np.log(found.tokens) - place) < 4 * found.log_error
        assert found.log_error < 0.1
        assert found.loss == pytest.approx(TRUTH.loss(np.exp(place) / small, small), abs=0.02)
    assert len(find_crossings(curves, all_pairs=True)) > len(crossings)


def test_curves_that_keep_their_order_do_not_cross() -> None:
    tokens = np.geomspace(1e6, 1e9, 60)
    error = np.full(60, 0.01)
    small = Curve("a", tokens, 3 + tokens**-0.1, error, 1e4)
    large = Curve("b", tokens, 3.2 + tokens**-0.1, error, 2e4)
    assert find_crossings([small, large]) == []


def noisy(loss: np.ndarray, seed: int, noise: float, common: float = 0.0) -> Curve:
    """Points at steps of 5 % with noise, of which a share is the same for every seed."""
    shared = np.random.default_rng(99).standard_normal(len(loss)) * np.sqrt(common)
    own = np.random.default_rng(seed).standard_normal(len(loss)) * np.sqrt(1 - common)
    tokens = 1e6 * 1.05 ** np.arange(len(loss))
    return Curve(str(seed), tokens, loss + noise * (shared + own), np.full(len(loss), noise))


def test_two_crossings_are_two_and_the_order_of_curves_is_none() -> None:
    x = np.linspace(-1, 1, 100)
    first, second = noisy(np.full(100, 3.0), 1, 0.005), noisy(3 + 0.2 * (x**2 - 0.25), 2, 0.005)
    found, mirrored = crossings(first, second), crossings(second, first)
    assert [one.second_leads for one in found] == [True, False]
    assert [one.second_leads for one in mirrored] == [False, True]
    for one, other, at in zip(found, mirrored, (-0.5, 0.5), strict=True):
        assert one.tokens == pytest.approx(other.tokens)
        assert one.log_error == pytest.approx(other.log_error)
        true = np.log(1.05) * 99 * (at + 1) / 2
        assert np.log(one.tokens / 1e6) == pytest.approx(true, abs=4 * one.log_error)


def test_equal_runs_seldom_cross() -> None:
    fall = 2 + 3 * np.exp(-np.linspace(0, 3, 100))
    found = [bool(crossings(noisy(fall, k, 0.02), noisy(fall, 500 + k, 0.02))) for k in range(200)]
    assert np.mean(found) < 0.12


@pytest.mark.parametrize("common", [0.0, 0.9])
def test_noise_that_runs_share_makes_crossings_no_less_sure(common: float) -> None:
    x = np.linspace(-1, 1, 100)
    misses, stated = [], []
    for seed in range(100):
        one = noisy(3 - 0.02 * x, seed, 0.01, common)
        other = noisy(3 + 0.02 * x - 0.01, 500 + seed, 0.01, common)
        for found in crossings(other, one):
            misses.append(np.log(found.tokens / 1e6) - np.log(1.05) * 99 * (0.25 + 1) / 2)
            stated.append(found.log_error)
    assert len(misses) > 80
    assert np.std(np.array(misses) / np.array(stated)) == pytest.approx(1.1, abs=0.25)
    assert np.median(stated) < (0.15 if common else 0.4)


def test_few_points_tell_no_error() -> None:
    tokens = np.geomspace(1e6, 1e7, 5)
    unknown = np.full(5, np.nan)
    falling = Curve("a", tokens, 4 - np.arange(5) * 0.2, unknown)
    level = Curve("b", tokens, np.full(5, 3.5), unknown)
    (found,) = crossings(level, falling)
    assert (found.log_error, found.significance, found.loss_error) == (None, None, None)
    assert np.log(found.tokens) == pytest.approx(np.log(1e6) + np.log(10) * 2.5 / 4)
    assert found.second_leads


def test_runs_that_share_their_beginning_cross_once_at_most() -> None:
    """Equal there without an error, which says nothing of who leads."""
    tokens = np.geomspace(1e6, 1e9, 60)
    error = np.where(tokens < 1e7, 0.0, 0.01)
    shared = 3 + tokens**-0.1
    later = np.where(tokens < 1e7, 0.0, np.log(tokens / 1e8))
    small = Curve("a", tokens, shared, error, 1e4)
    large = Curve("b", tokens, shared - 0.2 * later, error, 2e4)
    with np.errstate(all="raise"):
        found = find_crossings([small, large])
    assert len(found) == 1
    assert found[0].tokens == pytest.approx(1e8, rel=0.05)
