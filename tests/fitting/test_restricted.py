"""Priors and linear constraints against scipy, lmfit, closed forms, and the truth they cover."""

from __future__ import annotations

from typing import Any

import lmfit
import numpy as np
import pytest
from scipy import optimize, stats

from megascale import fitting
from megascale.errors import FitError
from megascale.formats.tokens_to_loss import tokens_at_batch


def floor_points(seed: int, batches: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Batches and tokens of one noise floor with 1 % noise."""
    rng = np.random.default_rng(seed)
    batch = np.geomspace(1.2e5, 2e7, batches)
    truth = {"S_min": 1e4, "B_min": 1e5, "p": 0.6, "q": 0.9}
    clean = tokens_at_batch("noise_floor", {k: np.array(v) for k, v in truth.items()}, batch)
    return batch, clean * np.exp(0.01 * rng.standard_normal(batches))


def decay(x: np.ndarray, high: float, rate: float, low: float) -> np.ndarray:
    return high * np.exp(-rate * x) + low


def decay_points(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(0, 3, 15)
    return x, decay(x, 2, 1, 0.5) + 0.01 * np.random.default_rng(seed).standard_normal(15)


def test_priors_with_known_noise_are_rows_of_least_squares() -> None:
    batch, tokens = floor_points(0)
    priors = {"p": (0.6, 0.05), "q": (0.9, 0.1, "log")}
    result = fitting.fit(
        "noise_floor", tokens / batch, tokens, priors=priors,
        sigma=0.01 * tokens, absolute_sigma=True,
    )  # fmt: skip

    def rows(u: np.ndarray) -> np.ndarray:
        params = dict(zip(("S_min", "B_min", "p", "q"), np.exp(u), strict=True))
        left = np.log(tokens_at_batch("noise_floor", params, batch) / tokens) / 0.01
        left = np.nan_to_num(left, nan=1e3, posinf=1e3)
        return np.append(left, [(params["p"] - 0.6) / 0.05, np.log(params["q"] / 0.9) / 0.1])

    theirs = optimize.least_squares(
        rows, np.log([1e4, 1e5, 0.6, 0.9]), xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    assert result.solved.all()
    assert result.values[0] == pytest.approx(np.exp(theirs.x), rel=1e-6)
    errors = np.sqrt(np.diag(np.linalg.inv(theirs.jac.T @ theirs.jac))) * np.exp(theirs.x)
    assert [result.errors[n][0] for n in result.names] == pytest.approx(errors, rel=1e-4)
    assert result.chi_squared[0] == pytest.approx(2 * theirs.cost, rel=1e-9)
    assert result.p_value[0] == pytest.approx(stats.chi2.sf(2 * theirs.cost, 4), rel=1e-9)


def test_a_linear_law_with_a_prior_is_ridge_regression() -> None:
    """log y = log c + e log x: the noise's variance solves s^2 = r'r / (n - k(s^2))."""
    rng = np.random.default_rng(3)
    x = np.geomspace(1, 50, 9)
    y = 3 * x**-0.5 * np.exp(0.1 * rng.standard_normal(9))
    result = fitting.fit("power_law", x, y, priors={"exponent_1": (-0.4, 0.03)})
    design = np.stack([np.ones(9), np.log(x)], axis=1)
    pull = np.diag([0.0, 1 / 0.03**2])

    def at(variance: float) -> tuple[np.ndarray, float, float]:
        matrix = design.T @ design + variance * pull
        right = design.T @ np.log(y) + variance * pull @ [0, -0.4]
        theta = np.linalg.solve(matrix, right)
        used = np.trace(np.linalg.solve(matrix, design.T @ design))
        return theta, float(((np.log(y) - design @ theta) ** 2).sum()), float(9 - used)

    variance = optimize.brentq(lambda v: at(v)[1] / at(v)[2] - v, 1e-6, 1.0, xtol=1e-15)
    theta, squares, freedom = at(variance)
    assert np.log(result["coefficient"][0]) == pytest.approx(theta[0], rel=1e-6)
    assert result["exponent_1"][0] == pytest.approx(theta[1], rel=1e-6)
    assert result.freedom[0] == pytest.approx(freedom, rel=1e-6)
    assert 7 < freedom < 8
    assert result.objective[0] == pytest.approx(squares, rel=1e-7)
    covariance = np.linalg.inv(design.T @ design / variance + pull)
    assert result.errors["exponent_1"][0] == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-5)


def test_a_vague_prior_changes_nothing_and_a_sharp_one_holds() -> None:
    batch, tokens = floor_points(1)
    ask: dict[str, Any] = {"law": "noise_floor", "x": tokens / batch, "y": tokens}
    free = fitting.fit(**ask)
    vague = fitting.fit(**ask, priors={"p": (1.0, 1e6)})
    assert vague.values == pytest.approx(free.values, rel=1e-5)
    assert vague.errors["p"] == pytest.approx(free.errors["p"], rel=1e-3)
    sharp, held = (
        fitting.fit(**ask, priors={"p": (0.5, 1e-7)}),
        fitting.fit(**ask, fixed={"p": 0.5}),
    )
    assert sharp.values == pytest.approx(held.values, rel=1e-5)
    assert sharp.freedom == pytest.approx(held.freedom, rel=1e-5)
    assert sharp.errors["q"] == pytest.approx(held.errors["q"], rel=1e-3)


@pytest.mark.parametrize("by_element", [True, False])
def test_constraints_of_a_callable_against_lmfit(by_element: bool) -> None:
    x, y = decay_points()

    def law(x: np.ndarray, high: float, rate: float, low: float) -> np.ndarray:
        return decay(x, high, rate, low) if by_element else decay(x, float(high), rate, low)

    result = fitting.fit(law, x, y, residual="absolute", constraints=["high + 2 low = 3.1"])
    params = lmfit.Parameters()
    params.add("low", 0.5)
    params.add("rate", 1.0)
    params.add("high", expr="3.1 - 2*low")
    theirs = lmfit.Minimizer(
        lambda p: decay(x, p["high"], p["rate"], p["low"]) - y, params
    ).leastsq(xtol=1e-14, ftol=1e-14)
    for name in result.names:
        assert result[name][0] == pytest.approx(theirs.params[name].value, rel=1e-6)
        assert result.errors[name][0] == pytest.approx(theirs.params[name].stderr, rel=1e-3)
    assert result.freedom[0] == theirs.nfree
    assert result["high"] + 2 * result["low"] == pytest.approx(3.1, rel=1e-12)


@pytest.mark.parametrize(
    ("law", "equation", "given", "of"),
    [
        ("noise_floor", "p = q", ("S_min", "B_min", "p"), {"q": "p"}),
        ("two_power", "w - 1.5u = 0", ("a", "c", "u"), {"w": "1.5*u"}),
    ],
)
def test_ties_of_engine_laws_against_lmfit(
    law: str, equation: str, given: tuple[str, ...], of: dict[str, str]
) -> None:
    batch, tokens = floor_points(2, batches=8)
    tied = fitting.fit(law, tokens / batch, tokens, constraints=[equation])
    assert tied.solved.all()
    params = lmfit.Parameters()
    # Theirs begins at ours, moved: what is compared is where it ends.
    for name in given:
        params.add(name, tied[name][0] * 1.02, min=1e-9)
    for name, text in of.items():
        params.add(name, expr=text)

    def left(p: Any) -> np.ndarray:
        values = {name: np.array(p[name].value) for name in tied.names}
        found = np.log(tokens_at_batch(law, values, batch) / tokens)
        return np.nan_to_num(found, nan=1e2, posinf=1e2)

    theirs = lmfit.minimize(
        left, params, method="least_squares", xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    assert tied.objective[0] <= theirs.chisqr * (1 + 1e-9)
    assert tied.freedom[0] == theirs.nfree
    for name in tied.names:
        assert tied[name][0] == pytest.approx(theirs.params[name].value, rel=1e-3)


def test_constraints_that_hold_one_value_are_a_fixed_parameter() -> None:
    rng = np.random.default_rng(5)
    n, d = np.exp(rng.uniform([[17], [20]], [[22], [24]], (2, 30)))
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(0.005 * rng.standard_normal(30))
    x = np.stack([n, d])
    one = fitting.fit("chinchilla", x, loss, constraints=["alpha = 0.34"])
    fixed = fitting.fit("chinchilla", x, loss, fixed={"alpha": 0.34})
    assert one.values == pytest.approx(fixed.values, rel=1e-5)
    assert one.errors["beta"] == pytest.approx(fixed.errors["beta"], rel=1e-3)
    assert one.errors["G"] == pytest.approx(fixed.errors["G"], rel=1e-2)
    two = fitting.fit("chinchilla", x, loss, constraints=["alpha = beta", "A = B"])
    assert two["alpha"] == pytest.approx(two["beta"], rel=1e-12)
    assert two.free_params[0] == 3
    assert two.objective > fitting.fit("chinchilla", x, loss).objective


def test_bounds_of_a_tied_parameter_bound_the_other() -> None:
    batch, tokens = floor_points(2, batches=8)
    ask: dict[str, Any] = {"law": "noise_floor", "x": tokens / batch, "y": tokens}
    free = fitting.fit(**ask, constraints=["p = q"])
    high = float(free["p"][0]) * 0.9
    for name in ("p", "q"):
        tied = fitting.fit(**ask, constraints=["p = q"], bounds={name: (None, high)})
        assert tied["p"] == pytest.approx(high)
        assert tied["q"] == pytest.approx(high)
        assert fitting.Flag.AT_BOUND & int(tied.flags[0])
        assert np.isnan(tied.errors["q"]).all()
    with pytest.raises(FitError, match="bound the others"):
        fitting.fit(**ask, constraints=["p + q = 2 S_min"], bounds={"S_min": (1, 2), "p": (0, 1)})


def test_limits_with_a_prior_cover() -> None:
    """The truth is drawn from the prior, as a prior says."""
    studies = 200
    rng = np.random.default_rng(8)
    x = np.geomspace(1, 50, 6)
    exponent = -0.5 + 0.1 * rng.standard_normal(studies)
    clean = 3 * x ** exponent[:, None]
    y = clean * np.exp(0.25 * rng.standard_normal((studies, 6)))
    result = fitting.fit("power_law", x, y, priors={"exponent_1": (-0.5, 0.1)})
    assert result.converged.all()
    for name, truth in (("exponent_1", exponent), ("coefficient", 3.0)):
        low, high = result.interval(name)
        assert 0.85 <= ((low <= truth) & (truth <= high)).mean() <= 0.96, name
    alone = fitting.fit("power_law", x, y)
    assert np.median(result.errors["exponent_1"] / alone.errors["exponent_1"]) < 0.9


def test_a_batch_is_its_problems_and_says_what_was_asked() -> None:
    batch, tokens = floor_points(3, batches=7)
    other, more = floor_points(4, batches=9)
    priors = {"p": ([0.6, 0.7], 0.1)}
    both = fitting.fit("noise_floor", [tokens / batch, more / other], [tokens, more], priors=priors)
    one = fitting.fit("noise_floor", more / other, more, priors={"p": (0.7, 0.1)})
    assert both.values[1] == pytest.approx(one.values[0], rel=1e-7)
    shown = one.to_dict()["priors"]
    assert shown == {"p": {"mean": 0.7, "deviation": 0.1, "of_log": False}}
    assert "prior: p ~ 0.7 (0.1)" in one.summary()
    assert "prior: p ~ one a problem (0.1)" in both.summary()
    tied = fitting.fit("noise_floor", more / other, more, constraints=["p = q"])
    assert tied.to_dict()["constraints"] == ["p = q"]
    assert "constraint: p = q" in tied.summary()
    bad = tokens.copy()
    bad[2] = np.nan
    marked = fitting.fit("noise_floor", [bad / batch, more / other], [bad, more], priors=priors)
    assert marked.status.tolist() == [int(fitting.Status.NON_FINITE), both.status[1]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priors": {"r": (1, 1)}}, "no such parameter"),
        ({"priors": {"p": 1.0}}, "must be"),
        ({"priors": {"p": (1.0, 0.0)}}, "positive"),
        ({"priors": {"p": (1.0, 1j)}}, "real"),
        ({"priors": {"p": (-1.0, 0.1, "log")}}, "median must be positive"),
        ({"priors": {"p": (1.0, 0.1, "ln")}}, "log"),
        ({"priors": {"p": (1.0, 0.1)}, "fixed": {"p": 0.5}}, "is fixed"),
        ({"priors": {"p": (1.0, 0.1)}, "loss": "huber"}, "squared loss"),
        ({"priors": {"p": (1.0, 0.1)}, "bootstrap": "parametric"}, "no bootstrap"),
        ({"constraints": "p = q"}, "list of equations"),
        ({"constraints": ["p"]}, "linear equation"),
        ({"constraints": ["p = q^2"]}, "linear equation"),
        ({"constraints": ["p q = 1"]}, "linear equation"),
        ({"constraints": ["p = r"]}, "no parameter r"),
        ({"constraints": ["p = p"]}, "no parameter is left"),
        ({"constraints": ["p = q", "2p = 2q + 1"]}, "contradicts"),
        ({"constraints": ["p = 0.5"], "fixed": {"p": 0.6}}, "contradicts"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], words: str) -> None:
    batch, tokens = floor_points(0)
    with pytest.raises(FitError, match=words):
        fitting.fit("noise_floor", tokens / batch, tokens, **options)


def test_points_that_cannot_weigh_a_prior_are_refused() -> None:
    batch, tokens = floor_points(0, batches=4)
    ask: dict[str, Any] = {"law": "noise_floor", "x": tokens / batch, "y": tokens}
    priors = {"p": (0.6, 0.1), "q": (0.9, 0.1)}
    with pytest.raises(FitError, match="absolute_sigma"):
        fitting.fit(**ask, priors=priors)
    known = fitting.fit(**ask, priors=priors, sigma=0.01 * tokens, absolute_sigma=True)
    assert known.solved.all()
    assert np.isfinite(known.interval("S_min")).all()
    few = {"law": "noise_floor", "x": (tokens / batch)[:2], "y": tokens[:2]}
    three = fitting.fit(**few, priors=priors, sigma=0.01 * tokens[:2], absolute_sigma=True)
    assert np.isfinite(three.errors["S_min"]).all()
    for act in (lambda: known.interval("p", kind="profile"), lambda: known.influence(0)):
        with pytest.raises(FitError, match="without them"):
            act()
