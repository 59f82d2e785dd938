"""Callable laws: the same minimum however they are searched, and honest errors."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import optimize

from megascale import fitting
from megascale.errors import FitError
from megascale.fitting.batch_lm import minimise
from megascale.fitting.forked import forked


def decay(x, floor, scale, rate):
    return floor + scale * np.exp(-rate * x)


def decay_by_point(x, floor, scale, rate):
    return np.array([floor + scale * np.exp(-rate * v) for v in x])


def decay_of_the_row(x, floor, scale, rate):
    """Not element by element: the clock starts at the row's own first x."""
    return floor + scale * np.exp(-rate * (x - x[0]))


def problems(count: int, seed: int = 0, noise: float = 0.01):
    rng = np.random.default_rng(seed)
    x = np.linspace(0.2, 5, 20)
    truth = rng.uniform([1, 2, 0.4], [2, 5, 1.5], (count, 3))
    y = np.stack([decay(x, *row) for row in truth])
    return x, y * (1 + noise * rng.standard_normal(y.shape)), truth


def test_all_at_once_reaches_the_minimum_of_scipy() -> None:
    x, y, truth = problems(60)
    found = fitting.fit(decay, x, y, residual="absolute")
    assert found.converged.all()
    for row, target, cost in zip(truth, y, found.objective, strict=True):
        best = optimize.least_squares(lambda t, y=target: decay(x, *t) - y, row, xtol=1e-12)
        assert cost <= 2 * best.cost * (1 + 1e-9)


def test_elementwise_or_not_gives_the_same_minimum() -> None:
    x, y, _ = problems(10)
    together = fitting.fit(decay, x, y)
    apart = fitting.fit(decay_by_point, x, y)
    assert together.objective == pytest.approx(apart.objective, rel=1e-8)
    assert together.values == pytest.approx(apart.values, rel=1e-4)


def test_a_callable_that_mixes_points_is_seen() -> None:
    x, y, truth = problems(12, noise=1e-6)
    shifts = np.linspace(0, 1, 12)
    mixed = fitting.fit(decay_of_the_row, [x + s for s in shifts], list(y))
    alone = [fitting.fit(decay_of_the_row, x + s, row) for s, row in zip(shifts, y, strict=True)]
    assert mixed["rate"] == pytest.approx([one["rate"][0] for one in alone], rel=1e-6)
    assert mixed["rate"] == pytest.approx(truth[:, 2], rel=1e-3)


@pytest.mark.parametrize("law", [decay, decay_by_point])
def test_threads_do_not_change_a_digit(law) -> None:
    x, y, _ = problems(20)
    options = {"bootstrap": "pairs", "replicates": 3}
    one, two = (fitting.fit(law, x, y, threads=n, **options) for n in (1, 2))
    assert np.array_equal(one.values, two.values)
    assert np.array_equal(one.bootstrap, two.bootstrap)


def test_forked_keeps_the_order_and_passes_errors_on() -> None:
    assert forked(lambda n: n * n, range(20), 2) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        forked(lambda n: 1 // n, range(20), 2)


def test_batches_of_minima_are_those_of_scipy_within_bounds_and_by_huber() -> None:
    rng = np.random.default_rng(3)
    x = np.linspace(0, 3, 15)
    y = 2 * np.exp(-0.7 * x) + 0.02 * rng.standard_normal((30, 15))
    y[:, 4] += 1.0

    def residuals(rows, theta):
        return theta[:, :1] * np.exp(-theta[:, 1:] * x) - y[rows]

    start, ones = np.tile([1.0, 1.0], (30, 1)), np.ones((30, 2))
    lower, upper = np.tile([0.0, 0.0], (30, 1)), np.tile([1.9, 5.0], (30, 1))
    for delta in (np.inf, 0.05):
        found = minimise(
            residuals, start, lower, upper, unit=1e-3 * ones, tolerance=1e-14,
            evaluations=500, central=True, delta=delta,
        )  # fmt: skip
        assert found.success.all()
        for row in range(30):
            best = optimize.least_squares(
                lambda t, row=row: residuals(np.array([row]), t[None])[0],
                [1.0, 1.0],
                bounds=([0, 0], [1.9, 5]),
                loss="linear" if np.isinf(delta) else "huber",
                f_scale=1.0 if np.isinf(delta) else delta,
                xtol=1e-14, ftol=1e-14, gtol=1e-14,
            )  # fmt: skip
            assert found.cost[row] == pytest.approx(best.cost, rel=1e-8)


def test_a_parameter_on_a_bound_or_without_effect_has_no_error() -> None:
    x, y, _ = problems(1)
    bounded = fitting.fit(decay, x, y, bounds={"floor": (None, 0.5)}, residual="absolute")
    assert bounded["floor"][0] == 0.5
    assert np.isnan(bounded.errors["floor"][0])
    assert bounded.flags[0] & fitting.Flag.AT_BOUND
    assert "floor" in bounded.weak()
    assert bounded.errors["rate"][0] > 0

    def idle(x, scale, nothing):
        return scale * x + 0 * nothing

    free = fitting.fit(idle, x, 3 * x + 0.01 * np.sin(9 * x))
    assert np.isnan(free.errors["nothing"][0])
    assert "nothing" in free.weak()
    assert 0 < free.errors["scale"][0] < 0.1

    def twins(x, a, b):
        return (a + b) * x

    pair = fitting.fit(twins, x, 3 * x + 0.01 * np.sin(9 * x))
    assert np.isnan(pair.errors["a"][0])
    assert pair.flags[0] & fitting.Flag.ILL_CONDITIONED
    held = fitting.fit(decay, x, y, fixed={"rate": 1.0})
    assert held.errors["rate"][0] == 0
    assert not held.weak()


def test_signs_are_searched_where_nobody_gave_a_start() -> None:
    x = np.geomspace(1, 50, 20)

    def power(x, scale, exponent):
        return scale * x**exponent

    rng = np.random.default_rng(1)
    found = fitting.fit(
        power, x, -2 * x**-0.6 * (1 + 0.01 * rng.standard_normal(20)), residual="absolute"
    )
    assert found["scale"][0] == pytest.approx(-2, rel=0.05)
    assert found["exponent"][0] == pytest.approx(-0.6, abs=0.05)


def test_results_of_callables_can_be_pickled() -> None:
    x, y, _ = problems(3)
    result = fitting.fit(decay, x, y)
    again = pickle.loads(pickle.dumps(result))
    assert again.predict(x) == pytest.approx(result.predict(x))
    local = fitting.fit(lambda x, a: a * x, x, 2 * x)
    loaded = pickle.loads(pickle.dumps(local))
    assert loaded["a"] == pytest.approx([2])
    with pytest.raises(FitError, match="cannot be pickled"):
        loaded.predict(x)
    engine = pickle.loads(pickle.dumps(fitting.fit("power_law", x, y[0])))
    assert engine.predict(x).shape == (20,)


def test_words_of_scipy_are_taken() -> None:
    x, y, _ = problems(1)
    ours = fitting.fit(decay, x, y[0], bounds={"floor": (0, 3), "scale": (0, 9), "rate": (0, 2)})
    theirs = fitting.fit(decay, x, y[0], bounds=([0, 0, 0], [3, 9, 2]))
    assert np.array_equal(ours.values, theirs.values)
    named = fitting.fit(decay, x, y[0], initial={"floor": 1, "scale": 3, "rate": 1})
    listed = fitting.fit(decay, x, y[0], p0=np.array([1, 3, 1]))
    assert np.array_equal(named.values, listed.values)
    power = fitting.fit("power_law", x, y[0], bounds=(0.1, np.inf))
    assert power["exponent_1"][0] == pytest.approx(0.1)
    for options, key in (
        ({"bounds": ([0, 0], [1, 1])}, "bounds"),
        ({"bounds": 3}, "bounds"),
        ({"p0": [1, 2]}, "p0"),
        ({"p0": [1, 3, 1], "initial": {"floor": 1}}, "p0"),
    ):
        with pytest.raises(FitError, match=key):
            fitting.fit(decay, x, y[0], **options)


def test_numbers_of_numpy_are_numbers() -> None:
    x, y, _ = problems(2)
    whole = np.int64(2)
    options = {"starts": whole, "threads": whole, "seed": whole, "replicates": whole}
    assert fitting.fit("loss_curve", x, y, bootstrap="pairs", **options).bootstrap.shape[1] == 2
    with pytest.raises(FitError, match=r"threads = 0: "):
        fitting.fit("loss_curve", x, y, threads=np.int64(0))
    with pytest.raises(FitError, match=r"replicates = 2\.5"):
        fitting.fit("loss_curve", x, y, bootstrap="pairs", replicates=2.5)
    with pytest.raises(FitError, match=r"confidence = 2\.0: "):
        fitting.fit("loss_curve", x, y, confidence=np.float64(2))
    with pytest.raises(FitError, match="complex128"):
        fitting.fit("loss_curve", x, y[0] + 1j)
    with pytest.raises(FitError, match=r"x1 = 0\.0, y = 1\.0"):
        fitting.fit("power_law", np.r_[0.0, x], np.r_[1.0, y[0]])


def test_a_table_for_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    x, y, _ = problems(3)
    table = fitting.fit("loss_curve", x, y).to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["points"]) == [20, 20, 20]
