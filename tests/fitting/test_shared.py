"""Parameters in common against ordinary least squares, scipy, and the truth they should cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from megascale import fitting
from megascale.errors import FitError
from megascale.fitting.shared_refits import drawn_points, shared_problem
from megascale.formats.tokens_to_loss import tokens_at_batch


def floors(
    targets: int, batches: int, seed: int, noise: float = 0.01, studies: int = 1
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(S, E, truth) of noise floors with p and q in common, (studies, targets, batches)."""
    rng = np.random.default_rng(seed)
    batch = np.geomspace(3e5, 2e7, batches)
    grow = np.exp(0.3 * np.arange(targets))[:, None]
    truth = {"S_min": 1e4 * grow, "B_min": 1e5 * grow**0.5, "p": np.array(0.6), "q": np.array(0.9)}
    clean = tokens_at_batch("noise_floor", truth, batch[None, :])
    tokens = clean * np.exp(noise * rng.standard_normal((studies, targets, batches)))
    return tokens / batch, tokens, truth


def test_a_common_exponent_is_ordinary_least_squares() -> None:
    """Power laws of one exponent are a linear regression with an intercept a group."""
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform(0, 4, (5, 6)))
    y = np.arange(1, 6)[:, None] * x**-0.4 * np.exp(0.05 * rng.standard_normal((5, 6)))
    result = fitting.fit("power_law", x, y, shared=["exponent_1"])
    design = np.zeros((30, 6))
    design[np.arange(30), np.repeat(np.arange(5), 6)] = 1
    design[:, 5] = np.log(x).ravel()
    solution, left, *_ = np.linalg.lstsq(design, np.log(y).ravel(), rcond=None)
    covariance = np.linalg.inv(design.T @ design) * left[0] / 24
    assert result["exponent_1"] == pytest.approx(np.full(5, solution[5]), rel=1e-7)
    assert result["coefficient"] == pytest.approx(np.exp(solution[:5]), rel=1e-7)
    assert result.objective.sum() == pytest.approx(left[0], rel=1e-9)
    assert (result.freedom == 24).all()
    assert result.errors["exponent_1"] == pytest.approx(np.sqrt(covariance[5, 5]), rel=1e-5)
    own = np.sqrt(np.diag(covariance)[:5]) * result["coefficient"]
    assert result.errors["coefficient"] == pytest.approx(own, rel=1e-5)
    reach = stats.t.ppf(0.95, 24) * np.sqrt(covariance[5, 5])
    low, high = result.interval("exponent_1")
    assert (low[0], high[0]) == pytest.approx((solution[5] - reach, solution[5] + reach), rel=1e-6)
    cross = result.covariance[:, 0, 1]
    assert cross == pytest.approx(covariance[:5, 5] * result["coefficient"], rel=1e-4)


@pytest.mark.parametrize(("batches", "weighted"), [(4, False), (3, False), (6, True)])
def test_noise_floors_of_few_batches_against_scipy(batches: int, weighted: bool) -> None:
    """Three batches cannot determine four parameters, but five targets of them two in common."""
    s, e, truth = floors(5, batches, 2)
    batch = (e / s)[0]
    weights = np.random.default_rng(3).uniform(0.5, 2, e[0].shape) if weighted else None
    result = fitting.fit("noise_floor", s[0], e[0], shared=["p", "q"], weights=weights)
    root = 1.0 if weights is None else np.sqrt(weights)

    def left(u: np.ndarray) -> np.ndarray:
        params = {"S_min": np.exp(u[:5, None]), "B_min": np.exp(u[5:10, None]),
                  "p": np.exp(u[10]), "q": np.exp(u[11])}  # fmt: skip
        found = np.log(tokens_at_batch("noise_floor", params, batch) / e[0]) * root
        return np.nan_to_num(found, posinf=10.0).ravel()

    start = np.log([*truth["S_min"][:, 0], *truth["B_min"][:, 0], 0.6, 0.9])
    theirs = optimize.least_squares(left, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert result.solved.all()
    assert result.objective.sum() <= 2 * theirs.cost * (1 + 1e-7)
    assert (result.freedom == 5 * batches - 12).all()
    assert result["p"] == pytest.approx(np.full(5, np.exp(theirs.x[10])), rel=1e-4)
    variance = 2 * theirs.cost / (5 * batches - 12)
    covariance = np.linalg.inv(theirs.jac.T @ theirs.jac) * variance
    assert result.errors["q"] / result["q"] == pytest.approx(np.sqrt(covariance[11, 11]), rel=1e-2)
    own = np.sqrt(np.diag(covariance)[5:10])
    assert result.errors["B_min"] / result["B_min"] == pytest.approx(own, rel=1e-2)


def test_limits_cover_where_the_problems_alone_say_nothing() -> None:
    """Four batches: each target's own fit has no freedom; six targets together have."""
    studies = 60
    s, e, truth = floors(6, 4, 4, studies=studies)
    best = fitting.fit("noise_floor", *(v[0] for v in floors(6, 60, 0, 0.0)[:2]))["B_opt"]
    held = {name: [] for name in ("p", "q", "B_min", "B_opt")}
    for i in range(studies):
        result = fitting.fit("noise_floor", s[i], e[i], shared=["p", "q"])
        wanted = {"p": 0.6, "q": 0.9, "B_min": truth["B_min"][:, 0], "B_opt": best}
        for name, value in wanted.items():
            low, high = result.interval(name)
            held[name].append(((low <= value) & (value <= high)).mean())
    alone = fitting.fit("noise_floor", s[0], e[0])
    assert np.isnan(alone.interval("B_opt")).all()
    for name, inside in held.items():
        assert 0.82 <= np.mean(inside) <= 0.97, (name, np.mean(inside))


def regression() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform(0, 4, (5, 4)))
    return x, np.arange(1, 6)[:, None] * x**-0.4 * np.exp(0.05 * rng.standard_normal((5, 4)))


def test_profiles_of_a_linear_model_are_students_t() -> None:
    x, y = regression()
    result = fitting.fit("power_law", x, y, shared=["exponent_1"])
    assert result.freedom[0] == 14
    for name in ("exponent_1", "coefficient"):
        wald, profile = result.interval(name), result.interval(name, kind="profile")
        for side in (0, 1):
            assert profile[side] == pytest.approx(wald[side], rel=1e-4), name


def test_replicates_of_a_linear_model_are_as_wide_as_students_t() -> None:
    x, y = regression()
    options: dict = {"shared": ["exponent_1"], "replicates": 2000, "seed": 4}
    result = fitting.fit("power_law", x, y, bootstrap="parametric", **options)
    again = fitting.fit("power_law", x, y, bootstrap="parametric", threads=1, **options)
    assert (result.bootstrap == again.bootstrap).all()
    values = result.replicates("exponent_1")
    assert values.shape == (5, 2000)
    assert (values == values[:1]).all()
    for name in ("exponent_1", "coefficient"):
        wald, found = result.interval(name, kind="wald"), result.interval(name, kind="percentile")
        width = wald[1] - wald[0]
        assert found[1] - found[0] == pytest.approx(width, rel=0.12), name


def test_replicates_are_least_squares_of_their_own_points() -> None:
    """Replicates that are searched one by one, from scratch, are hardly ever better."""
    s, e, _ = floors(4, 4, 10)
    ask: dict = {"shared": ["p", "q"], "bootstrap": "parametric", "replicates": 20}
    result = fitting.fit("noise_floor", s[0], e[0], **ask)
    problem = shared_problem(result)
    deviation = float(np.sqrt(result.residual_variance[0]))
    ratios = []
    x, y = drawn_points(problem, result.values, deviation, float(result.freedom[0]), 20, 0)
    for r in range(20):
        alone = fitting.fit(
            "noise_floor", x[0, r].reshape(4, 4), y[r].reshape(4, 4), shared=["p", "q"]
        )
        ratios.append(result.bootstrap_objective[:, r].sum() / alone.objective.sum())
    assert np.mean(np.array(ratios) <= 1 + 1e-6) >= 0.9
    assert max(ratios) < 1.01


@pytest.mark.parametrize("kind", ["percentile", "profile"])
def test_other_limits_cover_too(kind: str) -> None:
    studies = 40 if kind == "percentile" else 12
    s, e, truth = floors(6, 4, 5, studies=studies)
    names = ("p", "q", "B_min") if kind == "profile" else ("p", "q", "B_min", "B_opt")
    best = fitting.fit("noise_floor", *(v[0] for v in floors(6, 60, 0, 0.0)[:2]))["B_opt"]
    held: dict[str, list[float]] = {name: [] for name in names}
    how: dict = {"bootstrap": "parametric", "replicates": 100} if kind == "percentile" else {}
    for i in range(studies):
        result = fitting.fit("noise_floor", s[i], e[i], shared=["p", "q"], **how)
        wanted = {"p": 0.6, "q": 0.9, "B_min": truth["B_min"][:, 0], "B_opt": best}
        for name in names:
            low, high = result.interval(name, kind=kind)
            held[name].append(float(((low <= wanted[name]) & (wanted[name] <= high)).mean()))
    for name, inside in held.items():
        assert np.mean(inside) >= 0.75, (name, np.mean(inside))


def test_profile_limits_are_where_the_sum_of_squares_has_grown() -> None:
    s, e, _ = floors(4, 5, 11)
    result = fitting.fit("noise_floor", s[0], e[0], shared=["p", "q"])
    least, freedom = result.objective.sum(), result.freedom[0]
    grown = least * (1 + stats.t.ppf(0.95, freedom) ** 2 / freedom)
    for name, problem in (("p", 0), ("S_min", 2)):
        for side in (0, 1):
            limit = result.interval(name, kind="profile")[side][problem]
            if name == "p":
                held = fitting.fit("noise_floor", s[0], e[0], shared=["q"], fixed={"p": limit})
            else:
                value = np.full(4, np.nan)
                value[problem] = limit
                held = fitting.fit(
                    "noise_floor", s[0], e[0], shared=["p", "q"], fixed={name: value}
                )
            assert held.objective.sum() == pytest.approx(grown, rel=2e-3), (name, side)


def test_what_shared_parameters_cannot_do_is_refused() -> None:
    s, e, _ = floors(3, 5, 6)
    ask = {"law": "noise_floor", "x": s[0], "y": e[0]}
    for options, words in (
        ({"shared": ["r"]}, "no such parameter"),
        ({"shared": "p"}, "must be a list"),
        ({"shared": ["p"], "fixed": {"p": 1.0}}, "is fixed"),
        ({"shared": ["S_min", "B_min", "p", "q"]}, "fit them as one"),
        ({"shared": ["p"], "bootstrap": "pairs"}, "parametric"),
        ({"shared": ["p"], "loss": "huber"}, "squared loss"),
        ({"shared": ["p"], "starts": 4}, "own search"),
    ):
        with pytest.raises(FitError, match=words):
            fitting.fit(**ask, **options)
    result = fitting.fit(**ask, shared=["p", "q"])
    with pytest.raises(FitError, match="without parameters in common"):
        result.influence(0)
    bad = e[0].copy()
    bad[1, 2] = np.nan
    with pytest.raises(FitError, match="problem 1: the fit holds NaN"):
        fitting.fit("noise_floor", s[0], bad, shared=["p", "q"])


def test_shared_results_say_so() -> None:
    s, e, _ = floors(3, 5, 7)
    result = fitting.fit("noise_floor", s[0], e[0], shared=["p", "q"], bounds={"q": (0.1, 0.5)})
    assert (result["q"] <= 0.5).all()
    free = fitting.fit("noise_floor", s[0], e[0], shared=["p", "q"])
    assert free.to_dict()["shared"] == ["p", "q"]
    assert "common to all, 7 degrees of freedom together" in free.summary()
    assert np.ptp(free.aicc) == 0
    assert (free.predict_interval(2e4)[0] < free.predict(2e4)).all()
    known = fitting.fit(
        "noise_floor", s[0], e[0], shared=["p", "q"], sigma=0.01 * e[0], absolute_sigma=True
    )
    ratio = known.errors["p"] / free.errors["p"]
    assert ratio == pytest.approx(0.01 / np.sqrt(free.residual_variance), rel=1e-3)
    assert (known.p_value == stats.chi2.sf(known.chi_squared, 7)).all()
