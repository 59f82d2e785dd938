"""Kinds of intervals, what withholds them, influence, known noise and limits of curves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from megascale import fitting
from megascale.errors import FitError
from tests.fitting.synthetic import twelve_batches


def inside(share: float, studies: int, nominal: float = 0.9) -> bool:
    """Whether a share of covered studies may be the nominal one, to 3.3 standard deviations."""
    return abs(share - nominal) <= 3.3 * np.sqrt(nominal * (1 - nominal) / studies)


def power_law(studies: int, points: int, seed: int, noise: float = 0.05) -> tuple:
    rng = np.random.default_rng(seed)
    x = np.broadcast_to(np.geomspace(1, 100, points), (studies, points))
    return x, 3 * x**-0.5 * np.exp(noise * rng.standard_normal(x.shape))


@pytest.mark.parametrize(
    ("bootstrap", "points"), [("parametric", 4), ("studentised", 4), ("wild", 8)]
)
def test_bootstraps_cover_with_little_freedom(bootstrap: str, points: int) -> None:
    x, y = power_law(800, points, 1)
    result = fitting.fit("power_law", x, y, bootstrap=bootstrap, replicates=399)
    low, high = result.interval("exponent_1")
    share = ((low <= -0.5) & (high >= -0.5)).mean()
    assert 0.85 <= share <= 0.95
    assert inside(share, 800) or bootstrap == "wild"


def test_pairs_cover_or_are_refused() -> None:
    x, y = power_law(800, 8, 2)
    result = fitting.fit("power_law", x, y, bootstrap="pairs", replicates=399)
    low, high = result.interval("exponent_1")
    assert 0.85 <= ((low <= -0.5) & (high >= -0.5)).mean() <= 0.95
    with pytest.raises(FitError, match=r"pairs of 3 points.*2 parameters need 5 points at least"):
        fitting.fit("power_law", x[0, :3], y[0, :3], bootstrap="pairs", replicates=399)
    few = fitting.fit("power_law", x[:2, :3], y[:2, :3], bootstrap="pairs", replicates=399)
    assert np.isnan(few.interval("exponent_1")).all()


def test_noise_nobody_knows_gives_no_interval() -> None:
    x, y = power_law(2, 2, 3)
    for bootstrap in ("parametric", "studentised", "wild"):
        least = 5 if bootstrap == "wild" else 3
        with pytest.raises(FitError, match=f"2 parameters need {least} points at least"):
            fitting.fit("power_law", x[0], y[0], bootstrap=bootstrap)
        batch = fitting.fit("power_law", x, y, bootstrap=bootstrap, replicates=20)
        assert np.isnan(batch.bootstrap).all()
        assert np.isnan(batch.interval("exponent_1")).all()
    assert np.isnan(fitting.fit("power_law", x, y).interval("exponent_1")).all()


def test_parametric_percentiles_are_student_t() -> None:
    """For a law linear in its parameters the interval has a closed form."""
    x, y = power_law(1, 6, 4)
    result = fitting.fit("power_law", x, y, bootstrap="parametric", replicates=40_000)
    low, high = result.interval("exponent_1")
    reach = stats.t.ppf(0.95, 4) * result.errors["exponent_1"]
    assert high - low == pytest.approx(2 * reach, rel=0.03)
    studentised = fitting.fit("power_law", x, y, bootstrap="studentised", replicates=40_000)
    low, high = studentised.interval("exponent_1")
    assert studentised.interval_kind == "studentised"
    assert high - low == pytest.approx(2 * reach, rel=0.03)


def test_replicate_errors_are_those_of_a_fit() -> None:
    s, e, *_ = twelve_batches(3, 5)
    result = fitting.fit("classic", s, e, bootstrap="studentised", replicates=2000)
    for name in ("S_min", "E_min", "B_crit"):
        errors = result.replicate_errors(name)
        assert np.median(errors, axis=1) == pytest.approx(result.errors[name], rel=0.1)


def test_wild_follows_noise_of_unequal_size() -> None:
    """Errors of a slope whose noise grows towards its ends, against the sandwich in closed form."""
    rng = np.random.default_rng(6)
    t = np.linspace(-1, 1, 60)
    size = 0.02 + 0.2 * np.abs(t) ** 3
    y = np.exp(1 + 0.5 * t + size * rng.standard_normal(60))
    result = fitting.fit("power_law", np.exp(t), y, bootstrap="wild", replicates=4000)
    design = np.stack([np.ones(60), t], axis=1)
    bread = np.linalg.inv(design.T @ design)
    left = np.log(y) - design @ (bread @ design.T @ np.log(y))
    hat = np.einsum("ni,ij,nj->n", design, bread, design)
    meat = design.T @ (design * (left**2 / (1 - hat))[:, None])
    sandwich = np.sqrt((bread @ meat @ bread)[1, 1])
    spread = result.replicates("exponent_1").std()
    assert spread == pytest.approx(sandwich, rel=0.05)
    assert abs(spread / result.errors["exponent_1"][0] - 1) > 0.15


def test_wild_runs_follow_noise_that_runs_share() -> None:
    rng = np.random.default_rng(7)
    runs = np.repeat(np.arange(10), 12)
    x = np.exp(np.repeat(np.linspace(0, 3, 10), 12) + 0.01 * rng.standard_normal(120))
    shared = 0.05 * rng.standard_normal(10)[runs]
    y = 2 * x**0.5 * np.exp(shared + 0.005 * rng.standard_normal(120))
    options = {"replicates": 1000, "runs": runs}
    whole = fitting.fit("power_law", x, y, bootstrap="wild_runs", **options)
    points = fitting.fit("power_law", x, y, bootstrap="wild", **options)
    spread = [r.replicates("exponent_1").std() for r in (whole, points)]
    assert spread[0] > 2 * spread[1]
    with pytest.raises(FitError, match="needs runs"):
        fitting.fit("power_law", x, y, bootstrap="wild_runs")


@pytest.mark.parametrize("bootstrap", ["parametric", "studentised", "wild"])
@pytest.mark.parametrize("law", ["wsd", "noise_floor", "loss_curve", "log_quadratic"])
def test_draws_follow_the_seed_alone(law: str, bootstrap: str) -> None:
    from benchmarks.fitting_coverage import CASES, studies

    case = next(c for c in CASES if c.law == law)
    x, y = studies(case, 12, 5)
    options = {"bootstrap": bootstrap, "replicates": 30, "seed": 3}
    if bootstrap == "studentised" and law in ("wsd", "noise_floor"):
        with pytest.raises(FitError, match="less often than it states"):
            fitting.fit(law, x[0], y, **options)
        return
    many = fitting.fit(law, x[0], y, threads=1, **options)
    again = fitting.fit(law, x[0], y, threads=3, **options)
    assert np.array_equal(many.bootstrap, again.bootstrap, equal_nan=True)
    first = fitting.fit(law, x[0][:1], y[:1], **options)
    assert np.array_equal(first.bootstrap[0], many.bootstrap[0], equal_nan=True)
    if bootstrap != "parametric":
        assert np.array_equal(many.boot_triangle, again.boot_triangle, equal_nan=True)


def test_a_held_coefficient_of_a_power_law() -> None:
    x, y = power_law(2, 9, 20)
    free = fitting.fit("power_law", x, y)
    low, high = free.interval("coefficient", kind="profile")
    error = free.errors["coefficient"] / free["coefficient"]
    reach = np.exp(stats.t.ppf(0.95, 7) * error)
    assert high == pytest.approx(free["coefficient"] * reach, rel=1e-5)
    assert low == pytest.approx(free["coefficient"] / reach, rel=1e-5)


def test_profile_is_the_f_region() -> None:
    """On a linear law the profile is Student's t, and its limits lie where the F-test says."""
    x, y = power_law(3, 9, 8)
    result = fitting.fit("power_law", x, y)
    low, high = result.interval("exponent_1", kind="profile")
    reach = stats.t.ppf(0.95, 7) * result.errors["exponent_1"]
    assert high - result["exponent_1"] == pytest.approx(reach, rel=1e-5)
    assert result["exponent_1"] - low == pytest.approx(reach, rel=1e-5)


def test_profile_of_a_bent_law_against_scipy() -> None:
    rng = np.random.default_rng(9)
    d = np.geomspace(1e8, 1e11, 9)
    y = (2 + 1500 * d**-0.35) * np.exp(0.003 * rng.standard_normal(9))
    result = fitting.fit("loss_curve", d, y, residual="relative")
    low, high = result.interval("gamma", kind="profile")

    def least(gamma: float) -> float:
        design = np.stack([np.ones(9), d**-gamma], axis=1) / y[:, None]
        _, left, *_ = np.linalg.lstsq(design, np.ones(9), rcond=None)
        return float(left[0])

    best = optimize.minimize_scalar(least, bounds=(0.2, 0.6), method="bounded").fun
    limit = best * (1 + stats.t.ppf(0.95, 6) ** 2 / 6)
    want_low = optimize.brentq(lambda g: least(g) - limit, 0.1, result["gamma"][0])
    want_high = optimize.brentq(lambda g: least(g) - limit, result["gamma"][0], 0.9)
    assert (low[0], high[0]) == pytest.approx((want_low, want_high), rel=1e-4)


def test_profile_says_where_a_side_is_open() -> None:
    """Points far from the floor of a loss curve cannot say that there is one."""
    rng = np.random.default_rng(10)
    d = np.geomspace(1e8, 1e9, 8)
    y = 1500 * d**-0.35 * np.exp(0.003 * rng.standard_normal(8))
    result = fitting.fit("loss_curve", d, y)
    low, high = result.interval("L0", kind="profile")
    assert low[0] <= 1e-6
    assert 0 < high[0] < y.min()
    with pytest.raises(FitError, match="a profile is of a parameter"):
        fitting.fit("classic", *twelve_batches(1, 1)[:2]).interval("B_crit", kind="profile")


def test_kinds_are_named_and_checked() -> None:
    x, y = power_law(1, 8, 11)
    plain = fitting.fit("power_law", x[0], y[0])
    assert plain.interval_kind == "wald"
    assert plain.to_dict()["interval_kind"] == "wald"
    assert "limits: wald" in plain.summary()
    with pytest.raises(FitError, match="needs a fit with bootstrap="):
        plain.interval("exponent_1", kind="percentile")
    with pytest.raises(FitError, match="must be one of wald"):
        plain.interval("exponent_1", kind="bayes")
    boot = fitting.fit("power_law", x[0], y[0], bootstrap="parametric", replicates=50)
    assert boot.interval_kind == "percentile"
    with pytest.raises(FitError, match="studentised, wild or wild_runs"):
        boot.interval("exponent_1", kind="studentised")


def test_influence_is_each_fit_without_a_point() -> None:
    x, y = power_law(1, 8, 12)
    y = y[0].copy()
    y[6] *= 1.5
    result = fitting.fit("power_law", x[0], y)
    found = result.influence()
    assert found.most("exponent_1") == 6
    for i in range(8):
        rest = np.arange(8) != i
        slope = np.polyfit(np.log(x[0][rest]), np.log(y[rest]), 1)[0]
        assert found.values["exponent_1"][i] == pytest.approx(slope, rel=1e-9)
    mean = found.values["exponent_1"].mean()
    wanted = np.sqrt(7 / 8 * ((found.values["exponent_1"] - mean) ** 2).sum())
    assert found.errors["exponent_1"] == pytest.approx(wanted)


def test_influence_of_runs_and_of_what_cannot_be_missed() -> None:
    s, e, *_ = twelve_batches(2, 13)
    runs = np.tile(np.repeat(["a", "b", "c"], 4), 2)
    result = fitting.fit("classic", s, e, runs=runs)
    found = result.influence(problem=1)
    assert found.left_out == ["a", "b", "c"]
    without_a = fitting.fit("classic", s[1, 4:], e[1, 4:])
    assert found.values["B_crit"][0] == pytest.approx(without_a["B_crit"][0], rel=1e-9)
    with pytest.raises(FitError, match="must name one of 2 problems"):
        result.influence()
    two = fitting.fit("classic", s[0, :2], e[0, :2]).influence()
    assert np.isnan(two.values["S_min"]).all()


@pytest.mark.parametrize("absolute", [True, False])
def test_sigma_is_that_of_curve_fit(absolute: bool) -> None:
    rng = np.random.default_rng(14)
    d = np.geomspace(1e8, 1e11, 12)
    sigma = np.linspace(0.01, 0.05, 12)
    y = 2 + 1500 * d**-0.35 + sigma * rng.standard_normal(12)
    mine = fitting.fit(
        "loss_curve", d, y, residual="absolute", sigma=sigma, absolute_sigma=absolute
    )
    theirs, covariance = optimize.curve_fit(
        lambda x, a, b, g: a + b * (x / 1e9) ** -g,
        d, y, [2, 1.0, 0.35], sigma=sigma, absolute_sigma=absolute, ftol=1e-14, xtol=1e-14,
    )  # fmt: skip
    assert mine["gamma"][0] == pytest.approx(theirs[2], rel=1e-5)
    errors = (mine.errors["L0"][0], mine.errors["gamma"][0])
    assert errors == pytest.approx(np.sqrt(covariance[[0, 2], [0, 2]]), rel=1e-3)
    left = (y - mine.predict(d)) / sigma
    if absolute:
        assert mine.chi_squared[0] == pytest.approx((left**2).sum())
        assert mine.p_value[0] == pytest.approx(stats.chi2.sf((left**2).sum(), 9))
    else:
        with pytest.raises(FitError, match="chi-squared needs sigma="):
            _ = mine.chi_squared


def test_known_noise_of_a_relative_residual() -> None:
    """p-values are uniform where the deviations are right, and the bootstrap draws just these."""
    x, y = power_law(400, 6, 15)
    result = fitting.fit(
        "power_law", x, y, sigma=0.05 * y, absolute_sigma=True, bootstrap="parametric",
        replicates=299,
    )  # fmt: skip
    assert stats.kstest(result.p_value, "uniform").pvalue > 0.01
    design = np.stack([np.ones(6), np.log(x[0])], axis=1)
    exact = 0.05 * np.sqrt(np.linalg.inv(design.T @ design)[1, 1])
    assert result.errors["exponent_1"] == pytest.approx(exact)
    assert result.replicates("exponent_1").std(axis=1).mean() == pytest.approx(exact, rel=0.02)
    for kind in ("wald", "percentile"):
        low, high = result.interval("exponent_1", kind=kind)
        assert inside(((low <= -0.5) & (high >= -0.5)).mean(), 400)
    for wrong in ({"absolute_sigma": True}, {"sigma": 1.0, "weights": y}, {"sigma": -1.0}):
        with pytest.raises(FitError):
            fitting.fit("power_law", x, y, **wrong)


@pytest.mark.parametrize("bootstrap", [None, "parametric"])
@pytest.mark.parametrize("new_points", [False, True])
def test_limits_of_a_curve_cover(bootstrap: str | None, new_points: bool) -> None:
    x, y = power_law(800, 6, 16)
    result = fitting.fit("power_law", x, y, bootstrap=bootstrap, replicates=299)
    at = np.array([3.0, 300.0])
    low, high = result.predict_interval(at, new_points=new_points)
    truth = np.broadcast_to(3 * at**-0.5, low.shape)
    if new_points:
        rng = np.random.default_rng(17)
        truth = truth * np.exp(0.05 * rng.standard_normal(low.shape))
    shares = ((low <= truth) & (truth <= high)).mean(axis=0)
    assert low.shape == (800, 2)
    assert all(inside(share, 800) for share in shares)


def test_limits_of_a_curve_refuse_what_they_cannot_say() -> None:
    s, e, *_ = twelve_batches(1, 18)
    result = fitting.fit("classic", s[0], e[0])
    assert result.predict_interval(2e4)[0] < result.predict(2e4)
    with pytest.raises(FitError, match="ray noise"):
        result.predict_interval(2e4, new_points=True)
    with pytest.raises(FitError, match="is of new points"):
        result.predict_interval(2e4, sigma=1.0)
    with pytest.raises(FitError, match="needs a fit with bootstrap="):
        result.predict_interval(2e4, kind="percentile")


def test_callables_draw_the_scale_too() -> None:
    x, y = power_law(1, 5, 19)

    def mine(x, scale, power):
        return scale * x**power

    own = fitting.fit(mine, x[0], y[0], residual="log", bootstrap="parametric", replicates=3000)
    low, high = own.interval("power")
    reach = stats.t.ppf(0.95, 3) * own.errors["power"]
    assert high - low == pytest.approx(2 * reach, rel=0.15)
    with pytest.raises(FitError, match="is for laws of the engine"):
        fitting.fit(mine, x[0], y[0], bootstrap="wild")
