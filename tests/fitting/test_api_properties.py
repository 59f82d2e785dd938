"""Properties over scales, duplicates and orderings, and over what a user may get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megascale import fitting
from megascale.errors import FitError
from tests.fitting.synthetic import twelve_batches, wsd_points

SCALES = st.floats(-12, 15).map(lambda v: 10.0**v)
FEW = settings(max_examples=25, deadline=None)


@FEW
@given(SCALES, SCALES, st.integers(0, 50))
def test_wsd_is_equivariant_under_units(steps: float, tokens: float, seed: int) -> None:
    s, e, _ = wsd_points(1, 16, 0.01, seed)
    one = fitting.fit("wsd", s[0], e[0])
    other = fitting.fit("wsd", s[0] * steps, e[0] * tokens)
    assert other.status[0] == one.status[0]
    assert other.objective[0] == pytest.approx(one.objective[0], rel=1e-4)
    assert other["E_min"][0] == pytest.approx(one["E_min"][0] * tokens, rel=1e-3)


@FEW
@given(SCALES, SCALES)
def test_other_laws_are_equivariant_under_units(unit_x: float, unit_y: float) -> None:
    rng = np.random.default_rng(1)
    d = np.geomspace(1, 100, 30)
    y = (2 + 3 * d**-0.4) * np.exp(0.002 * rng.standard_normal(30))
    one = fitting.fit("loss_curve", d, y)
    other = fitting.fit("loss_curve", d * unit_x, y * unit_y)
    assert other.objective[0] == pytest.approx(one.objective[0], rel=1e-6)
    assert other["gamma"][0] == pytest.approx(one["gamma"][0], rel=1e-3)
    assert other["L0"][0] == pytest.approx(one["L0"][0] * unit_y, rel=1e-3)
    power = fitting.fit("power_law", d * unit_x, y * unit_y)
    assert power.residuals == pytest.approx(fitting.fit("power_law", d, y).residuals, abs=1e-9)
    s, e, *_ = twelve_batches(1, 1)
    classic = fitting.fit("classic", s * unit_x, e * unit_y)
    plain = fitting.fit("classic", s, e)
    assert classic["S_min"][0] == pytest.approx(plain["S_min"][0] * unit_x, rel=1e-9)


@FEW
@given(st.permutations(range(16)), st.integers(0, 20))
def test_order_of_points_does_not_matter(order: list[int], seed: int) -> None:
    s, e, _ = wsd_points(1, 16, 0.01, seed)
    one = fitting.fit("wsd", s[0], e[0])
    other = fitting.fit("wsd", s[0][order], e[0][order])
    assert np.array_equal(one.values, other.values, equal_nan=True)


@FEW
@given(st.lists(st.integers(0, 15), min_size=8, max_size=40), st.integers(0, 9))
def test_duplicates_equal_weights(extra: list[int], seed: int) -> None:
    s, e, *_ = twelve_batches(1, seed)
    index = np.concatenate([np.arange(12), [i % 12 for i in extra]])
    counts = np.bincount(index, minlength=12).astype(float)
    repeated = fitting.fit("classic", s[0][index], e[0][index])
    weighted = fitting.fit("classic", s[0], e[0], weights=counts)
    assert repeated["S_min"][0] == pytest.approx(weighted["S_min"][0], rel=1e-8)
    assert repeated.objective[0] == pytest.approx(weighted.objective[0], rel=1e-6, abs=1e-18)


@FEW
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=12),
    st.sampled_from(["wsd", "classic", "noise_floor", "two_power", "loss_curve", "noise_sign"]),
)
def test_any_floats_give_a_status_and_never_a_crash(values: list[float], law: str) -> None:
    y = np.array(values)
    x = np.roll(y, 1)
    result = fitting.fit(law, x, y, errors="status")
    assert int(result.status[0]) in {int(v) for v in fitting.Status}
    if not np.isfinite(result.objective[0]):
        assert result.status[0] != fitting.Status.CONVERGED
        assert np.isnan(result.values).all()


def test_zero_weight_is_absence() -> None:
    s, e, _ = wsd_points(1, 20, 0.01, 3)
    weights = np.ones(20)
    weights[[2, 9]] = 0
    kept = fitting.fit("wsd", s[0][weights > 0], e[0][weights > 0])
    masked = fitting.fit("wsd", s[0], e[0], weights=weights)
    assert np.array_equal(kept.values, masked.values)
    assert masked.points[0] == 18


def test_fixed_and_bounds() -> None:
    s, e, _ = wsd_points(1, 24, 0.01, 6)
    free = fitting.fit("wsd", s[0], e[0])
    held = fitting.fit("wsd", s[0], e[0], fixed={"E_min": free["E_min"][0] * 1.01})
    assert held["E_min"][0] == free["E_min"][0] * 1.01
    assert held.objective[0] > free.objective[0]
    assert held.free_params[0] == 5
    assert held.errors["E_min"][0] == 0
    high = free["S_opt"][0] * 0.9
    capped = fitting.fit("wsd", s[0], e[0], bounds={"S_opt": (None, high)})
    assert capped["S_opt"][0] <= high * (1 + 1e-9)
    assert capped.objective[0] > free.objective[0]
    assert fitting.Flag.AT_BOUND & capped.flags[0]
    loose = fitting.fit("wsd", s[0], e[0], bounds={"E_min": (1.0, 1e30)})
    assert loose.objective[0] == pytest.approx(free.objective[0], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"law": "wsdd"}, "wsd"),
        ({"residual": "rel"}, "relative"),
        ({"fixed": {"S_mim": 1.0}}, "S_mim"),
        ({"bounds": {"S_min": 3}}, "pair"),
        ({"weights": np.ones(3)}, "weights"),
        ({"weights": -np.ones(16)}, "negative weight"),
        ({"bounds": {"S_min": (3.0, 1.0)}}, "lower bound"),
        ({"starts": 0}, "starts"),
        ({"starts": "grid"}, "chinchilla"),
        ({"threads": 0}, "threads"),
        ({"device": "tpu"}, "device"),
        ({"bootstrap": "jackknife"}, "parametric"),
        ({"bootstrap": "runs"}, "runs"),
        ({"confidence": 1.5}, "confidence"),
        ({"offsets": [0, 9, 4, 16]}, "offsets"),
        ({"initial": {"S_min": 1.0}}, "every parameter"),
    ],
)
def test_wrong_arguments_name_themselves(options: dict, words: str) -> None:
    s, e, _ = wsd_points(1, 16, 0.01, 1)
    law = options.pop("law", "wsd")
    with pytest.raises(FitError, match=words):
        fitting.fit(law, s[0], e[0], **options)


def test_error_names_problem_and_row() -> None:
    s, e, _ = wsd_points(2, 16, 0.01, 1)
    e[1, 5] = -2.0
    with pytest.raises(FitError, match=r"problem 1, row 21.*E = .*-2\.0"):
        fitting.fit("wsd", s, e, errors="raise")
    groups = ["b"] * 16 + ["a"] * 16
    with pytest.raises(FitError, match=r"problem 1, row 21"):
        fitting.fit("wsd", s.ravel(), e.ravel(), groups=groups, errors="raise")


def test_cuda_without_a_device_says_so() -> None:
    from megascale.fitting import _engine

    if _engine.cuda_devices():
        pytest.skip("a device is present")
    s, e, _ = wsd_points(1, 16, 0.01, 1)
    with pytest.raises(FitError, match="CUDA"):
        fitting.fit("wsd", s[0], e[0], device="cuda")
