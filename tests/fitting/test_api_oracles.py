"""Every law against scipy on the same objective."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from megascale import fitting
from megascale.fitting.catalogue import predict
from megascale.formats.tokens_to_loss import steps_at_batch
from tests.fitting.synthetic import twelve_batches, wsd_points

RNG = np.random.default_rng(11)


def noisy(values: np.ndarray, size: float, seed: int) -> np.ndarray:
    return values * np.exp(size * np.random.default_rng(seed).standard_normal(values.shape))


def scipy_objective(law: str, result: fitting.FitResult, x: np.ndarray, y: np.ndarray) -> float:
    """Best sum of squares scipy finds from our optimum and from jittered copies of it."""
    names = result.names
    start = result.values[0]
    signs = np.sign(start)

    def residuals(t: np.ndarray) -> np.ndarray:
        params = dict(zip(names, signs * np.exp(t), strict=True))
        with np.errstate(all="ignore"):
            f = predict(law, params, list(np.atleast_2d(x)))
            r = {
                "relative": lambda: f / y - 1,
                "log": lambda: np.log(f / y),
                "absolute": lambda: f - y,
            }[result.residual]()
        wall = 1e3 * (np.abs(y).max() if result.residual == "absolute" else 1.0)
        return np.where(np.isfinite(r), r, wall)

    base = np.log(np.abs(start))
    rng = np.random.default_rng(0)
    best = np.inf
    for k in range(6):
        at = base + (0 if k == 0 else 0.1 * rng.standard_normal(len(base)))
        found = optimize.least_squares(residuals, at, xtol=1e-15, ftol=1e-15, gtol=1e-15)
        best = min(best, 2 * found.cost)
    return best


def two_inputs(points: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([np.exp(rng.uniform(16, 22, points)), np.exp(rng.uniform(20, 26, points))])


S = np.geomspace(1e3, 1e6, 60)
ETA = np.geomspace(2e-4, 5e-3, 11)
B = np.geomspace(1e4, 1e8, 15)
GRID = np.stack(
    [v.ravel() for v in np.meshgrid(np.geomspace(2e3, 2e5, 12), np.geomspace(3e4, 3e6, 8))]
)
PAIR = np.stack([v.ravel() for v in np.meshgrid(ETA, np.geomspace(1e5, 4e6, 9))])
ND = two_inputs(120, 3)

CASES = {
    "loss_curve": (S * 1e5, noisy(2.1 + 40 * (S * 1e5) ** -0.3, 0.003, 1)),
    "loss_surface": (GRID, noisy(1.9 + 30 * GRID[0] ** -0.5 + 20 * GRID[1] ** -0.4, 0.002, 2)),
    "chinchilla": (ND, noisy(1.8 + 480 * ND[0] ** -0.35 + 2100 * ND[1] ** -0.37, 0.004, 3)),
    "power_law": (ND, noisy(1.8 * ND[0] ** -0.7 * ND[1] ** 0.3, 0.1, 4)),
    "log_quadratic_1": (ETA, noisy(2.5 + 0.05 * np.log(ETA / 1e-3) ** 2, 0.001, 5)),
    "log_quadratic_2": (
        PAIR,
        noisy(
            2.5 + 0.05 * np.log(PAIR[0] / 1e-3) ** 2 + 0.03 * np.log(PAIR[1] / 7e5) ** 2
            + 0.02 * np.log(PAIR[0] / 1e-3) * np.log(PAIR[1] / 7e5), 0.001, 6,
        ),
    ),
    "noise_sgd": (B, noisy(0.1 / (1 + 1e6 / B), 0.02, 7)),
    "noise_sign": (B, noisy(2e-3 / (np.sqrt(1e6 / B) + np.sqrt(B / 1e6)), 0.02, 8)),
    "noise_muon": (B, noisy(0.02 / np.sqrt(1 + 1e6 / B), 0.02, 9)),
}  # fmt: skip


def residual_kinds(law: str) -> list[str]:
    """A quadratic's targets may have any sign, so it has no relative or logarithmic residual."""
    if law.startswith("log_quadratic"):
        return ["auto", "absolute"]
    return ["auto", "relative", "log", "absolute"]


@pytest.mark.parametrize(
    ("law", "residual"), [(law, kind) for law in CASES for kind in residual_kinds(law)]
)
def test_smooth_laws_against_scipy(law: str, residual: str) -> None:
    x, y = CASES[law]
    public = law.rsplit("_", 1)[0] if law.startswith("log_quadratic") else law
    result = fitting.fit(public, x, y, residual=residual, tolerance=1e-13)
    assert result.status[0] == fitting.Status.CONVERGED
    name = f"{law}_2" if law == "power_law" else law
    assert result.objective[0] <= scipy_objective(name, result, x, y) * (1 + 1e-7)
    assert result.objective[0] == pytest.approx(float((result.residuals**2).sum()), rel=1e-6)


@pytest.mark.parametrize("law", ["wsd", "classic"])
@pytest.mark.parametrize("residual", ["relative", "log", "absolute"])
def test_tokens_steps_laws_against_scipy(law: str, residual: str) -> None:
    s, e, _ = wsd_points(1, 24, 0.01, seed=21)
    if law == "classic":
        s, e, *_ = twelve_batches(1, seed=2)
    result = fitting.fit(law, s[0], e[0], residual=residual, tolerance=1e-12)
    assert result.objective[0] <= scipy_objective(law, result, s[0], e[0]) * (1 + 1e-6)
    assert result.objective[0] == pytest.approx(float((result.residuals**2).sum()), rel=1e-6)


def test_classic_law_is_the_weighted_line() -> None:
    s, e, s_min, e_min = twelve_batches(64, seed=5)
    result = fitting.fit("classic", s, e)
    for p in range(64):
        batch = e[p] / s[p]
        design = np.stack([batch, np.ones(12)], 1) / e[p][:, None]
        line, squares, *_ = np.linalg.lstsq(design, np.ones(12), rcond=None)
        assert [result["S_min"][p], result["E_min"][p]] == pytest.approx(line, rel=1e-9)
        assert result.objective[p] == pytest.approx(squares[0], rel=1e-8)
        covariance = np.linalg.inv(design.T @ design) * squares[0] / 10
        assert result.covariance[p] == pytest.approx(covariance, rel=1e-7)
    assert result["B_crit"] == pytest.approx(result["E_min"] / result["S_min"])
    assert np.median(np.abs(result["S_min"] / s_min - 1)) < 0.01
    assert np.median(np.abs(result["E_min"] / e_min - 1)) < 0.01


@pytest.mark.parametrize("law", ["noise_floor", "two_power"])
def test_batch_laws_recover_their_truth(law: str) -> None:
    batch = np.geomspace(4e4, 4e6, 14)
    if law == "noise_floor":
        truth = {"S_min": 8e3, "B_min": 2.5e4, "p": 0.6, "q": 0.8}
        e = truth["S_min"] * batch * (1 - (2.5e4 / batch) ** 0.8) ** (-1 / 0.6)
    else:
        truth = {"a": 3e12, "c": 4e5, "u": 0.5, "w": 0.75}
        e = truth["a"] * batch**-0.5 + truth["c"] * batch**0.75
    result = fitting.fit(law, e / batch, e, tolerance=1e-14)
    for name, value in truth.items():
        assert result[name][0] == pytest.approx(value, rel=1e-4)
    fine = np.geomspace(4e4, 4e6, 200_001)
    curve = (
        truth["S_min"] * fine * (1 - (2.5e4 / fine) ** 0.8) ** (-1 / 0.6)
        if law == "noise_floor"
        else truth["a"] * fine**-0.5 + truth["c"] * fine**0.75
    )
    assert result["B_opt"][0] == pytest.approx(fine[np.argmin(curve)], rel=1e-3)
    assert result["E_min"][0] == pytest.approx(curve.min(), rel=1e-6)
    assert result.predict(e / batch) == pytest.approx(e, rel=1e-4)


@pytest.mark.parametrize("law", ["power_law", "loss_curve", "chinchilla", "noise_sgd"])
def test_exact_data_converges(law: str) -> None:
    x = {"power_law": ND, "loss_curve": S * 1e5, "chinchilla": ND, "noise_sgd": B}[law]
    y = {
        "power_law": lambda: 1.8 * ND[0] ** -0.7 * ND[1] ** 0.3,
        "loss_curve": lambda: 2.1 + 40 * (S * 1e5) ** -0.3,
        "chinchilla": lambda: 1.8 + 480 * ND[0] ** -0.35 + 2100 * ND[1] ** -0.37,
        "noise_sgd": lambda: 0.1 / (1 + 1e6 / B),
    }[law]()
    result = fitting.fit(law, x, y)
    assert result.status[0] == fitting.Status.CONVERGED
    assert result.rms[0] < 1e-8


def test_wsd_derived_quantities() -> None:
    s, e, truth = wsd_points(50, 40, 0.0, seed=8)
    result = fitting.fit("wsd", s, e, tolerance=1e-14)
    good = result.rms < 1e-7
    assert good.mean() > 0.9
    slope = 2 * truth["C"] * (truth["S_2"] - truth["S_opt"])
    assert result["B_min"][good] == pytest.approx(slope[good, 0], rel=1e-3)
    b_opt = (truth["E_min"] / truth["S_opt"])[:, 0]
    assert result["B_opt"][good] == pytest.approx(b_opt[good], rel=1e-3)
    assert result["A_1"] == pytest.approx(result["B_min"])
    right = result["A_1"] * 2 * result["S_2"] + result["A_0"]
    far = np.array([result.predict(2 * v, problem=i) for i, v in enumerate(result["S_2"])])
    assert far == pytest.approx(right, rel=1e-9)
    left = result["B_m1"] / (result["S_1"] - result["S_min"]) + result["B_0"]
    joint = np.array([result.predict(v, problem=i) for i, v in enumerate(result["S_1"])])
    assert joint == pytest.approx(left, rel=1e-6)


def test_ray_residual_of_wsd_against_scipy() -> None:
    s, e, _ = wsd_points(1, 24, 0.01, seed=31)
    result = fitting.fit("wsd", s[0], e[0], tolerance=1e-12)
    assert result.residual == "ray"

    def residuals(t: np.ndarray) -> np.ndarray:
        widths = np.exp(t[:4])
        p = dict(zip(("S_min", "S_1", "S_opt", "S_2"), np.cumsum(widths), strict=True))
        p |= {"C": np.exp(t[4]), "E_min": np.exp(t[5])}
        r = np.log(steps_at_batch("wsd", p, e[0] / s[0]) / s[0])
        return np.where(np.isfinite(r), r, 10.0)

    v = result.values[0]
    start = np.log([v[0], v[1] - v[0], v[2] - v[1], v[3] - v[2], v[4], v[5]])
    best = optimize.least_squares(residuals, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert result.objective[0] <= 2 * best.cost * (1 + 1e-6)
    assert result.objective[0] == pytest.approx(float((result.residuals**2).sum()), rel=1e-6)


def test_huber_against_scipy() -> None:
    x, y = CASES["power_law"]
    y = y.copy()
    y[::9] *= 3
    result = fitting.fit("power_law", x, y, loss="huber", delta=0.05, tolerance=1e-12)
    design = np.stack([np.ones(len(y)), *np.log(x)], 1)
    center = design[:, 1:].mean(0)
    design[:, 1:] -= center

    def residuals(c: np.ndarray) -> np.ndarray:
        return design @ c - np.log(y)

    start = np.linalg.lstsq(design, np.log(y), rcond=None)[0]
    best = optimize.least_squares(
        residuals, start, loss="huber", f_scale=0.05, xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    assert result.objective[0] == pytest.approx(best.cost, rel=1e-6)
    assert result["exponent_1"][0] == pytest.approx(best.x[1], abs=1e-4)
