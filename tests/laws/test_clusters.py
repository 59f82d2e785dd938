"""Covariance by clusters against textbook cases and against simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from megascale.laws.clusters import clustered_covariance


def line(rng: np.random.Generator, groups: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(groups), points)
    x = np.repeat(rng.uniform(-1, 1, groups), points) + 0.05 * rng.standard_normal(len(labels))
    return np.stack([np.ones_like(x), x], axis=1), labels


def test_a_mean_of_equal_clusters_has_the_variance_of_their_means() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 5)
    y = rng.standard_normal(6)[labels] + 0.1 * rng.standard_normal(30)
    covariance, groups = clustered_covariance(np.ones((30, 1)), y - y.mean(), None, labels)
    means = y.reshape(6, 5).mean(axis=1)
    assert groups == 6
    assert covariance[0, 0] == pytest.approx(means.var(ddof=1) / 6)


def test_shared_errors_are_covered_and_independent_ones_are_not_assumed() -> None:
    rng = np.random.default_rng(1)
    held, naive = [], []
    for _ in range(600):
        design, labels = line(rng, 10, 6)
        y = 0.3 * rng.standard_normal(10)[labels] + 0.1 * rng.standard_normal(60)
        theta = np.linalg.lstsq(design, y, rcond=None)[0]
        residual = y - design @ theta
        covariance, groups = clustered_covariance(design, residual, None, labels)
        reach = stats.t.ppf(0.95, groups - 2)
        held.append(abs(theta[1]) < reach * np.sqrt(covariance[1, 1]))
        plain = residual @ residual / 58 * np.linalg.inv(design.T @ design)[1, 1]
        naive.append(abs(theta[1]) < 1.67 * np.sqrt(plain))
    assert 0.86 < np.mean(held) < 0.95
    assert np.mean(naive) < 0.7


def test_weights_are_those_of_the_fit() -> None:
    rng = np.random.default_rng(2)
    design, labels = line(rng, 8, 3)
    y = rng.standard_normal(24)
    twice = np.ones(24)
    twice[labels == 0] = 2.0
    theta = np.linalg.lstsq(design * np.sqrt(twice)[:, None], y * np.sqrt(twice), rcond=None)[0]
    found, _ = clustered_covariance(design, y - design @ theta, twice, labels)
    more = np.concatenate([np.arange(24), np.flatnonzero(labels == 0)])
    doubled, _ = clustered_covariance(design[more], (y - design @ theta)[more], None, labels[more])
    assert found == pytest.approx(doubled)


def test_what_cannot_be_told_is_nan() -> None:
    design = np.stack([np.ones(6), np.arange(6.0)], axis=1)
    assert np.isnan(clustered_covariance(design, np.zeros(6), None, np.zeros(6))[0]).all()
    flat = np.ones((6, 2))
    assert np.isnan(clustered_covariance(flat, np.zeros(6), None, np.arange(6))[0]).all()
