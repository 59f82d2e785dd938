"""Acceptance: published optima, global success, bitwise reproducibility, honest failure."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megascale import fitting
from megascale.errors import FitError
from megascale.fitting.status import Status
from tests.fitting.synthetic import wsd_points


def chinchilla_rows(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """240 runs of the digitised table: N, D and loss, without the five highest losses."""
    with (folder / "chinchilla" / "svg_extracted_data.csv").open() as f:
        rows = list(csv.DictReader(f))
    n = np.array([float(r["Model Size"]) for r in rows])
    d = np.array([float(r["Training FLOP"]) for r in rows]) / 6 / n
    loss = np.array([float(r["loss"]) for r in rows])
    keep = np.sort(np.argsort(loss)[:-5])
    return np.stack([n, d])[:, keep], loss[keep]


def test_frozen_set_reaches_the_global_optimum(shared_data: Path) -> None:
    frozen = np.load(shared_data / "es_fits" / "frozen_m16.npz")
    result = fitting.fit("wsd", frozen["S"], frozen["E"], residual="relative")
    success = result.objective <= frozen["best_cost"] * (1 + 1e-6)
    assert success.mean() >= 0.99


def test_synthetic_twin_agrees_with_many_starts() -> None:
    s, e, _ = wsd_points(300, 16, 0.01, seed=7)
    default = fitting.fit("wsd", s, e, residual="relative")
    many = fitting.fit("wsd", s, e, residual="relative", starts=256)
    assert (default.objective <= many.objective * (1 + 1e-6)).mean() >= 0.96


def test_epoch_optimum(shared_data: Path) -> None:
    x, loss = chinchilla_rows(shared_data)
    result = fitting.fit("chinchilla", x, loss, loss="huber", delta=1e-3)
    assert result.objective[0] == pytest.approx(1.0182740178e-3, rel=1e-9)
    found = [result[name][0] for name in ("A", "B", "E", "alpha", "beta")]
    assert found == pytest.approx([477.83, 2143.4, 1.81722, 0.34731, 0.36717], rel=1e-4)


@pytest.mark.slow
def test_compatibility_grid_finds_the_same_optimum(shared_data: Path) -> None:
    x, loss = chinchilla_rows(shared_data)
    grid = fitting.fit("chinchilla", x, loss, loss="huber", starts="grid")
    assert grid.objective[0] == pytest.approx(1.0182740178e-3, rel=1e-8)
    assert grid.starts[0] == 4500
    assert grid.agreeing[0] > 450


def test_chinchilla_bootstrap_spread(shared_data: Path) -> None:
    x, loss = chinchilla_rows(shared_data)
    result = fitting.fit("chinchilla", x, loss, loss="huber", bootstrap="pairs", replicates=2000)
    spread = np.nanstd(result.bootstrap[0], axis=0)
    assert spread == pytest.approx([0.026, 124, 1390, 0.015, 0.020], rel=0.15)


def steplaw_rows(folder: Path) -> dict[str, np.ndarray]:
    with (folder / "steplaw" / "dense_lr_bs_loss.csv").open() as f:
        rows = list(csv.DictReader(f))
    names = {"N": "N", "D": "D", "lr": "lr", "bs": "bs", "loss": "smooth loss"}
    return {k: np.array([float(r[v]) for r in rows]) for k, v in names.items()}


def test_steplaw_refit_and_regret(shared_data: Path) -> None:
    t = steplaw_rows(shared_data)
    cells = sorted(set(zip(t["N"], t["D"], strict=True)))
    near = np.zeros(len(t["N"]), bool)
    for n, d in cells:
        cell = (t["N"] == n) & (t["D"] == d)
        near |= cell & (t["loss"] < 1.0025 * t["loss"][cell].min())
    assert near.sum() == 129
    x = np.stack([t["N"][near], t["D"][near]])
    rate = fitting.fit("power_law", x, t["lr"][near])
    assert rate["coefficient"][0] == pytest.approx(77.7, rel=5e-3)
    assert rate["exponent_1"][0] == pytest.approx(-0.766, abs=1e-3)
    assert rate["exponent_2"][0] == pytest.approx(0.197, abs=1e-3)
    batch = fitting.fit("power_law", t["D"][near], 2048 * t["bs"][near])
    assert batch["coefficient"][0] == pytest.approx(0.2085, rel=5e-3)
    assert batch["exponent_1"][0] == pytest.approx(0.6125, abs=1e-3)
    regret = []
    for n, d in cells:
        cell = (t["N"] == n) & (t["D"] == d)
        lr, bs = 1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571
        away = np.log(t["lr"][cell] / lr) ** 2 + np.log(2048 * t["bs"][cell] / bs) ** 2
        loss = t["loss"][cell]
        regret.append(loss[np.argmin(away)] / loss.min() - 1)
    assert np.mean(regret) == pytest.approx(0.00098, abs=5e-5)


def test_steplaw_tokens_steps_points(shared_data: Path) -> None:
    import polars

    frame = polars.read_csv(shared_data / "steplaw" / "steplaw_ES_points.csv")
    kind: dict[str, Any] = {"x": "S_steps", "y": "E_tokens", "group": ["N", "target_loss"]}
    assert len(frame) == 108
    wsd = fitting.fit_frame("wsd", frame, residual="log", **kind)
    classic = fitting.fit_frame("classic", frame, residual="log", **kind)
    assert len(wsd) == 12
    assert wsd.rms.max() <= 0.03
    smooth = fitting.fit_frame("noise_floor", frame, **kind)
    assert smooth.rms.max() <= 0.03

    def pooled(result: fitting.FitResult, k: int) -> float:
        n = int(result.points.sum())
        squares = float((result.points * result.rms**2).sum())
        return n * np.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)

    assert pooled(classic, 25) - pooled(wsd, 73) > 100


def test_bitwise_the_same_for_any_threads_chunks_and_lanes() -> None:
    s, e, _ = wsd_points(700, 16, 0.01, seed=3)
    options = {"bootstrap": "parametric", "replicates": 20, "seed": 5}
    one = fitting.fit("wsd", s, e, threads=1, **options)
    two = fitting.fit("wsd", s, e, threads=2, **options)
    three = fitting.fit("wsd", s, e, threads=3, **options)
    for other in (two, three):
        assert np.array_equal(one.values, other.values, equal_nan=True)
        assert np.array_equal(one.covariance, other.covariance, equal_nan=True)
        assert np.array_equal(one.bootstrap, other.bootstrap, equal_nan=True)
    # Other neighbours, another lane, another chunk: the same problem, the same bits.
    shuffled = np.random.default_rng(0).permutation(700)[:123]
    some = fitting.fit("wsd", s[shuffled], e[shuffled])
    assert np.array_equal(some.values, one.values[shuffled], equal_nan=True)
    assert np.array_equal(some.covariance, one.covariance[shuffled], equal_nan=True)
    alone = fitting.fit("wsd", s[11], e[11])
    assert np.array_equal(alone.values[0], one.values[11], equal_nan=True)


def test_ragged_neighbours_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    x, y = [], []
    for m in rng.integers(12, 40, 60):
        s, e, _ = wsd_points(1, int(m), 0.01, seed=int(m))
        x.append(s[0])
        y.append(e[0])
    whole = fitting.fit("wsd", x, y)
    for i in (0, 17, 59):
        alone = fitting.fit("wsd", x[i], y[i])
        assert np.array_equal(alone.values[0], whole.values[i], equal_nan=True)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda s, e: (s[:5], e[:5]), Status.TOO_FEW_POINTS),
        (lambda s, e: (s, np.full_like(e, 3e9)), Status.CONSTANT),
        (lambda s, e: (np.full_like(s, 3e4), e), Status.CONSTANT),
        (lambda s, e: (s, np.where(np.arange(16) == 4, np.nan, e)), Status.NON_FINITE),
        (lambda s, e: (np.where(np.arange(16) == 4, np.inf, s), e), Status.NON_FINITE),
        (lambda s, e: (np.where(np.arange(16) == 4, 0.0, s), e), Status.NON_POSITIVE),
        (lambda s, e: (s, np.where(np.arange(16) == 4, -1.0, e)), Status.NON_POSITIVE),
    ],
)
def test_bad_input_gives_a_status_never_numbers(change, status) -> None:
    s, e, _ = wsd_points(3, 16, 0.01, seed=1)
    x, y = [s[0], s[1], s[2]], [e[0], e[1], e[2]]
    x[1], y[1] = change(s[1], e[1])
    result = fitting.fit("wsd", x, y)
    assert result.status[1] == status
    assert np.isnan(result.values[1]).all()
    assert np.isnan(result.objective[1])
    clean = fitting.fit("wsd", s, e)
    assert np.array_equal(result.values[[0, 2]], clean.values[[0, 2]])
    with pytest.raises(FitError, match="problem 0"):
        fitting.fit("wsd", x[1], y[1])


def test_duplicated_points_are_points() -> None:
    s, e, _ = wsd_points(1, 16, 0.01, seed=4)
    once = fitting.fit("wsd", s[0], e[0], weights=np.full(16, 2.0))
    twice = fitting.fit("wsd", np.repeat(s[0], 2), np.repeat(e[0], 2))
    assert twice.objective[0] == pytest.approx(once.objective[0], rel=1e-9)
    assert twice["B_opt"][0] == pytest.approx(once["B_opt"][0], rel=1e-5)
