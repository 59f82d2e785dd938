"""Kinds of intervals, how often they hold the truth, and what withholds them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from megascale import fitting
from megascale.errors import FitError
from megascale.fitting.percentiles import stretch, stretched_percentiles
from tests.fitting.synthetic import power_law_studies, twelve_batches, within_nominal, wsd_points


@pytest.mark.parametrize(
    ("bootstrap", "points"), [("parametric", 4), ("studentised", 4), ("wild", 8)]
)
def test_bootstraps_cover_with_little_freedom(bootstrap: str, points: int) -> None:
    x, y = power_law_studies(800, points, 1)
    result = fitting.fit("power_law", x, y, bootstrap=bootstrap, replicates=399)
    low, high = result.interval("exponent_1")
    share = ((low <= -0.5) & (high >= -0.5)).mean()
    assert 0.85 <= share <= 0.95
    assert within_nominal(share, 800) or bootstrap == "wild"


def test_pairs_cover_or_are_refused() -> None:
    x, y = power_law_studies(800, 8, 2)
    result = fitting.fit("power_law", x, y, bootstrap="pairs", replicates=399)
    low, high = result.interval("exponent_1")
    assert 0.85 <= ((low <= -0.5) & (high >= -0.5)).mean() <= 0.95
    with pytest.raises(FitError, match=r"pairs of 3 points.*2 parameters need 4 points at least"):
        fitting.fit("power_law", x[0, :3], y[0, :3], bootstrap="pairs", replicates=399)
    few = fitting.fit("power_law", x[:2, :3], y[:2, :3], bootstrap="pairs", replicates=399)
    assert np.isnan(few.interval("exponent_1")).all()


def test_noise_nobody_knows_gives_no_interval() -> None:
    x, y = power_law_studies(2, 2, 3)
    for bootstrap in ("parametric", "studentised", "wild"):
        least = 4 if bootstrap == "wild" else 3
        with pytest.raises(FitError, match=f"2 parameters need {least} points at least"):
            fitting.fit("power_law", x[0], y[0], bootstrap=bootstrap)
        batch = fitting.fit("power_law", x, y, bootstrap=bootstrap, replicates=20)
        assert np.isnan(batch.bootstrap).all()
        assert np.isnan(batch.interval("exponent_1")).all()
    assert np.isnan(fitting.fit("power_law", x, y).interval("exponent_1")).all()


def test_parametric_percentiles_are_student_t() -> None:
    """For a law linear in its parameters the interval has a closed form."""
    x, y = power_law_studies(1, 6, 4)
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
        assert np.array_equal(many.boot_errors, again.boot_errors, equal_nan=True)


def test_kinds_are_named_and_checked() -> None:
    x, y = power_law_studies(1, 8, 11)
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


def test_callables_draw_the_scale_too() -> None:
    x, y = power_law_studies(1, 5, 19)

    def mine(x, scale, power):
        return scale * x**power

    own = fitting.fit(mine, x[0], y[0], residual="log", bootstrap="parametric", replicates=3000)
    low, high = own.interval("power")
    reach = stats.t.ppf(0.95, 3) * own.errors["power"]
    assert high - low == pytest.approx(2 * reach, rel=0.15)
    with pytest.raises(FitError, match="is for laws of the engine"):
        fitting.fit(mine, x[0], y[0], bootstrap="wild")


def test_a_power_laws_bootstrap_is_its_least_squares_interval() -> None:
    rng = np.random.default_rng(4)
    x = np.geomspace(1e8, 1e11, 6)
    y = 3 * x**0.4 * np.exp(0.1 * rng.standard_normal(6))
    boot = fitting.fit("power_law", x, y, bootstrap="parametric", replicates=20_000)
    exact = fitting.fit("power_law", x, y)
    for name in ("coefficient", "exponent_1"):
        low, high = boot.interval(name)
        expected = exact.interval(name)
        assert np.log(high / low) == pytest.approx(np.log(expected[1] / expected[0]), rel=0.03)


def test_runs_are_the_units_of_a_bootstrap_over_runs() -> None:
    rng = np.random.default_rng(5)
    runs = np.repeat(np.arange(8), 20)
    d = np.tile(np.geomspace(1e8, 1e10, 20), 8)
    y = (2 + 30 * d**-0.2) * np.exp(0.01 * rng.standard_normal(8)[runs])
    result = fitting.fit("loss_curve", d, y, bootstrap="runs", runs=runs, replicates=50)
    assert result.resample == "runs"
    assert result.drawn.tolist() == [8]
    factor, _ = stretch("runs", 0.9, 8, 3)
    expected = stretched_percentiles(result.replicates("L0"), 0.9, factor)
    assert np.array(result.interval("L0")) == pytest.approx(expected)


def test_change_points_get_the_wider_of_both_intervals() -> None:
    s, e, _ = wsd_points(5, 12, 0.01, 3)
    boot = fitting.fit("wsd", s, e, bootstrap="parametric", replicates=100)
    exact = fitting.fit("wsd", s, e)
    for name in ("S_2", "S_opt"):
        low, high = boot.interval(name)
        assert (low <= exact.interval(name)[0]).all()
        assert (high >= exact.interval(name)[1]).all()
