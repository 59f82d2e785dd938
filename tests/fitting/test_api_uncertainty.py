"""Covariance, derived errors and intervals against the bootstrap and against the truth."""

from __future__ import annotations

import numpy as np
import pytest

from megascale import fitting
from tests.fitting.synthetic import twelve_batches, wsd_points


def test_covariance_matches_parametric_bootstrap() -> None:
    s, e, *_ = twelve_batches(20, 3)
    result = fitting.fit("classic", s, e, bootstrap="parametric", replicates=2000)
    for name in ("S_min", "E_min", "B_crit"):
        spread = result.replicates(name).std(axis=1)
        # The size of the noise is drawn too: the deviation of Student's t with 10 degrees.
        assert spread == pytest.approx(result.errors[name] * np.sqrt(10 / 8), rel=0.1)


def test_power_law_bootstrap_matches_theory() -> None:
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform([[18], [22]], [[22], [25]], (2, 129)))
    y = 1.8 * x[0] ** -0.7 * x[1] ** 0.3 * np.exp(0.1 * rng.standard_normal(129))
    for kind in ("parametric", "pairs"):
        result = fitting.fit("power_law", x, y, bootstrap=kind, replicates=4000)
        for name in ("exponent_1", "exponent_2"):
            spread = result.replicates(name).std()
            assert spread == pytest.approx(result.errors[name][0], rel=0.2)


def test_intervals_cover_the_truth() -> None:
    s, e, s_min, e_min = twelve_batches(400, 9)
    boot = fitting.fit("classic", s, e, bootstrap="parametric", replicates=200)
    wald = fitting.fit("classic", s, e)
    for result in (boot, wald):
        for name, truth in (("S_min", s_min), ("E_min", e_min)):
            low, high = result.interval(name)
            assert 0.82 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


def test_wsd_intervals_cover_like_the_reference() -> None:
    s, e, truth = wsd_points(200, 24, 0.01, 12)
    result = fitting.fit("wsd", s, e, bootstrap="parametric", replicates=100)
    b_opt = (truth["E_min"] / truth["S_opt"])[:, 0]
    low, high = result.interval("B_opt")
    assert 0.75 <= ((low <= b_opt) & (b_opt <= high)).mean() <= 0.98


def test_warm_bootstrap_is_as_good_as_cold() -> None:
    """Objectives of warm replicates are distributed like those of a full search on such data."""
    s, e, _ = wsd_points(40, 16, 0.01, 4)
    warm = fitting.fit("wsd", s, e, residual="relative", bootstrap="parametric", replicates=100)
    assert np.isfinite(warm.bootstrap_objective).mean() > 0.99
    sigma = np.sqrt(warm.objective / (16 - 6))[:, None, None]
    fitted = np.stack([warm.predict(s[p], problem=p) for p in range(40)])[:, None, :]
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((40, 100, 16)) * np.sqrt(10 / rng.chisquare(10, (40, 100, 1)))
    fresh = (fitted * (1 + sigma * draws)).reshape(-1, 16)
    cold = fitting.fit("wsd", np.repeat(s, 100, axis=0), fresh, residual="relative")
    ratio_warm = (warm.bootstrap_objective / warm.objective[:, None]).ravel()
    ratio_cold = (cold.objective.reshape(40, 100) / warm.objective[:, None]).ravel()
    for level in (25, 50, 75, 95):
        cold_level = np.nanpercentile(ratio_cold, level)
        assert np.nanpercentile(ratio_warm, level) == pytest.approx(cold_level, rel=0.06)


def test_runs_bootstrap_keeps_runs_together() -> None:
    rng = np.random.default_rng(5)
    runs = np.repeat(np.arange(8), 20)
    d = np.tile(np.geomspace(1e8, 1e10, 20), 8)
    shift = 0.02 * rng.standard_normal(8)[runs]
    y = (2 + 30 * d**-0.2) * np.exp(shift + 1e-3 * rng.standard_normal(160))
    whole = fitting.fit("loss_curve", d, y, bootstrap="runs", runs=runs, replicates=300)
    points = fitting.fit("loss_curve", d, y, bootstrap="pairs", replicates=300)
    spread = [
        np.nanstd([r[0] + r[1] * 1e10 ** -r[2] for r in result.bootstrap[0]])
        for result in (whole, points)
    ]
    assert spread[0] > 1.5 * spread[1]


def test_seed_and_problem_decide_the_draws() -> None:
    s, e, *_ = twelve_batches(10, 3)
    options = {"bootstrap": "parametric", "replicates": 50}
    one = fitting.fit("classic", s, e, seed=1, **options)
    same = fitting.fit("classic", s, e, seed=1, **options)
    other = fitting.fit("classic", s, e, seed=2, **options)
    assert np.array_equal(one.bootstrap, same.bootstrap)
    assert not np.array_equal(one.bootstrap, other.bootstrap)


def test_flags_mark_what_the_points_cannot_tell() -> None:
    s, e, _ = wsd_points(1, 40, 0.005, 2)
    full = fitting.fit("wsd", s[0], e[0])
    right_only = s[0] > 1.05 * full["S_opt"][0]
    cut = fitting.fit("wsd", s[0][right_only], e[0][right_only])
    assert "S_1" in cut.weak() or "S_min" in cut.weak()
    assert cut.flags[0] & (fitting.Flag.EMPTY_BRANCH | fitting.Flag.FEW_BRANCH_POINTS)
    six = fitting.fit("wsd", s[0][::7][:6], e[0][::7][:6])
    assert six.flags[0] & fitting.Flag.NO_FREEDOM
    assert np.isnan(six.errors["S_min"][0])
    eta = np.geomspace(1e-4, 1e-2, 9)
    bowl = fitting.fit("log_quadratic", eta, 3 - 0.1 * np.log(eta / 1e-3) ** 2)
    assert bowl.status[0] == fitting.Status.NO_FIT
    assert bowl.flags[0] & fitting.Flag.NOT_CONVEX


def test_own_law_has_the_same_result() -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 25)
    y = 3 * x**-0.5 * np.exp(0.05 * rng.standard_normal(25))

    def mine(x, scale, power):
        return scale * x**power

    own = fitting.fit(mine, x, y, residual="log", bootstrap="parametric", replicates=40)
    engine = fitting.fit("power_law", x, y)
    assert own["scale"][0] == pytest.approx(engine["coefficient"][0], rel=1e-6)
    assert own["power"][0] == pytest.approx(engine["exponent_1"][0], rel=1e-6)
    assert own.errors["power"][0] == pytest.approx(engine.errors["exponent_1"][0], rel=1e-4)
    assert own.rms == pytest.approx(engine.rms)
    assert own.to_dict()["problems"][0]["params"]["power"]["low"] < own["power"][0]
    assert own.predict(x) == pytest.approx(engine.predict(x), rel=1e-6)
