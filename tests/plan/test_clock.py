"""Time from assumptions: closed forms and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megascale.errors import ConfigError
from megascale.plan.clock import ClockAssumptions, collective_seconds

CLOCK = ClockAssumptions(1e15, 0.25, 0.5, 450e9, 50e9, 10e9)


def test_time_is_work_over_rate():
    assert CLOCK.run_seconds(1e20, 100) == pytest.approx((2000, 4000))


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather():
    gather = collective_seconds("all-gather", 8 * 10**9, 4, 1e9)
    assert gather == pytest.approx(6)
    scatter = collective_seconds("reduce-scatter", 8 * 10**9, 4, 1e9)
    assert collective_seconds("all-reduce", 8 * 10**9, 4, 1e9) == gather + scatter


@pytest.mark.parametrize("share", [(0, 0.5), (0.5, 0.4), (0.5, 1.1), (float("nan"), 0.5)])
def test_a_utilisation_is_a_fraction(share):
    with pytest.raises(ConfigError, match="--mfu"):
        replace(CLOCK, mfu_low=share[0], mfu_high=share[1])


@pytest.mark.parametrize("value", [0, -1e9, float("inf"), float("nan")])
def test_a_rate_is_positive_and_finite(value):
    with pytest.raises(ConfigError, match="--network-gbytes"):
        replace(CLOCK, network_bandwidth=value)
    with pytest.raises(ConfigError, match="--storage-gbytes"):
        replace(CLOCK, storage_bandwidth=value)
