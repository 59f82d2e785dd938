"""How far a batch can grow: windows, intervals that cover, verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.sweep.batch_growth import batch_growth, mean_interval, windowed_losses


def test_windows_add_up_whole_steps_and_leave_skipped_ones_out():
    records = [
        {
            "tokens": 100 + 10 * n,
            "interval_tokens": 10,
            "loss_sum": 10.0 * n,
            "loss_tokens": 10,
            "loss": 1.0 * n,
            "skipped": 0,
        }
        for n in range(1, 7)
    ]
    assert windowed_losses(records, start=100, window=20, count=3) == pytest.approx([1.5, 3.5, 5.5])
    records[2] |= {"skipped": 1, "loss": None, "loss_sum": 0.0, "loss_tokens": 0}
    found = windowed_losses(records, start=100, window=20, count=3)
    assert np.isnan(found).tolist() == [False, True, False]


def series(generator: np.random.Generator, count: int, correlation: float) -> np.ndarray:
    values = np.empty(count)
    values[0] = generator.standard_normal()
    for index in range(1, count):
        fresh = generator.standard_normal() * (1 - correlation**2) ** 0.5
        values[index] = correlation * values[index - 1] + fresh
    return values


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("count", [32, 128])
def test_intervals_of_correlated_means_cover(correlation, count):
    generator = np.random.default_rng(0)
    hits = trials = 0
    for _ in range(400):
        low, high = mean_interval(series(generator, count, correlation), 0.95)
        if low is not None:
            trials += 1
            hits += low <= 0 <= high
    assert trials > 300
    assert hits / trials > 0.90


def losses(generator: np.random.Generator, offsets: dict[int, float], noise: float, count: int):
    common = 3 + 0.3 * generator.standard_normal(count)  # the data's own, which the pairs lose
    return {
        batch: common + offset + noise * generator.standard_normal(count)
        for batch, offset in offsets.items()
    }


def test_verdicts():
    generator = np.random.default_rng(1)
    found = batch_growth(
        losses(generator, {10: 0.0, 20: -0.002, 40: 0.003, 80: 0.1}, 0.002, 64),
        tolerance=0.01,
        confidence=0.95,
    )
    assert [row.verdict for row in found.rows] == ["reference", "no worse", "no worse", "worse"]
    assert (found.grows_to, found.worse_from) == (40, 80)
    assert "2-fold now, to 40" in found.sentence(20)
    assert "80 is too large" in found.sentence(20)


def test_cannot_tell():
    generator = np.random.default_rng(2)
    noisy = losses(generator, {10: 0.0, 20: 0.01}, 0.5, 64)
    found = batch_growth(noisy, tolerance=0.01, confidence=0.95)
    assert found.rows[1].verdict == "cannot tell"
    assert found.sentence(10).startswith("cannot tell")
    few = {batch: values[:8] for batch, values in noisy.items()}
    assert batch_growth(few, tolerance=0.01, confidence=0.95).rows[1].low is None


def test_a_batch_beyond_one_that_cannot_be_told_is_no_growth():
    generator = np.random.default_rng(3)
    found = losses(generator, {10: 0.0, 40: 0.0}, 0.001, 64)
    found[20] = found[10] + 0.5 * generator.standard_normal(64)
    answer = batch_growth(found, tolerance=0.01, confidence=0.95)
    assert answer.rows[1].verdict == "cannot tell"
    assert answer.grows_to is None
