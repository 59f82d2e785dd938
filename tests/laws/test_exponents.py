"""Which exponents the spread of N and D can give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.laws.exponents import EXPONENT_SIZE, choose_exponents
from megascale.laws.power import fit_power
from megascale.laws.published.registry import LAWS

NEAR = np.repeat([2.150e9, 2.152e9, 2.154e9, 2.156e9], 4)
TOKENS = np.tile([2e9, 4e9, 8e9, 2e10], 4)


def values(n: Any, d: Any, scatter: float = 0.05, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    noise = np.exp(scatter * rng.standard_normal(len(n)))
    return 1e-3 * (n / 2e9) ** -0.4 * (d / 8e9) ** 0.2 * noise


def test_published_exponents_are_as_large_as_the_rule_says() -> None:
    known = [
        law.constants[symbol].value
        for law in LAWS
        if law.quantity in ("lr", "batch")
        for symbol in ("n", "d")
        if symbol in law.constants
    ]
    assert len(known) > 10
    assert np.sqrt(np.mean(np.square(known))) == pytest.approx(EXPONENT_SIZE, abs=0.05)


def test_four_sizes_within_a_third_of_a_per_cent_give_no_exponent_of_n() -> None:
    law = fit_power(values(NEAR, TOKENS), TOKENS, NEAR)
    assert (law.a, law.with_n) == (0.0, False)
    assert law.b == pytest.approx(0.2, abs=0.05)
    assert law.left_out.keys() == {"a"}
    assert "N from 2.15e+09 to 2.156e+09 would give its exponent to ±" in law.left_out["a"]
    assert law.covariance[1].tolist() == [0, 0, 0]
    assert law.n_range == (2.150e9, 2.156e9)
    wide = np.repeat([1e8, 4e8, 1e9, 4e9], 4)
    kept = fit_power(values(wide, TOKENS), TOKENS, wide)
    assert kept.left_out == {}
    assert kept.a == pytest.approx(-0.4, abs=0.05)


def test_the_same_for_tokens() -> None:
    sizes = np.repeat([1e8, 4e8, 1e9, 4e9], 4)
    tokens = np.tile([1.000e10, 1.001e10, 1.002e10, 1.003e10], 4)
    law = fit_power(values(sizes, tokens), tokens, sizes)
    assert law.left_out.keys() == {"b"}
    assert law.with_n
    assert law.b == 0
    assert law.a == pytest.approx(-0.4, abs=0.05)
    with pytest.raises(FitError, match="needs an N or a D that varies"):
        fit_power(values(NEAR, tokens), tokens, NEAR)
    with pytest.raises(FitError, match="every point has D = 1e"):
        fit_power([1.0, 2.0, 3.0], [1e9, 1e9, 1e9])


@pytest.mark.parametrize("scatter", [0.0, 1e-6])
def test_points_without_scatter_do_not_make_an_exponent_certain(scatter: float) -> None:
    """Two or three points that happen to lie on a line do not prove one."""
    n = np.array([2.150e9, 2.156e9, 2.150e9])
    d = np.array([2e9, 4e9, 8e9])
    chosen, left_out = choose_exponents({"a": n, "b": d}, values(n, d, scatter))
    assert chosen == ["b"]
    assert set(left_out) == {"a"}


def test_sizes_that_grow_with_the_tokens_are_not_told_apart() -> None:
    n = np.array([1e8, 2e8, 4e8, 8e8, 16e8])
    law = fit_power(values(n, 20 * n), 20 * n, n)
    assert law.left_out["a"].endswith("varies only together with D")
    assert law.b == pytest.approx(-0.2, abs=0.08)


def test_the_rule_is_the_expected_error_of_least_squares() -> None:
    """With much freedom the error that is named is that of the regression."""
    rng = np.random.default_rng(1)
    d = np.exp(rng.uniform(22, 22.5, 200))
    n = np.exp(rng.uniform(18, 18.02, 200))
    f = np.exp(0.5 * np.log(d) + 0.3 * rng.standard_normal(200))
    _, left_out = choose_exponents({"a": n, "b": d}, f)
    x = np.stack([np.ones(200), np.log(n), np.log(d)], axis=1)
    residual = np.log(f) - x @ np.linalg.lstsq(x, np.log(f), rcond=None)[0]
    error = np.sqrt(residual @ residual / 197 * np.linalg.inv(x.T @ x)[1, 1])
    assert f"±{error:.2g} only" in left_out["a"]


def test_too_few_points() -> None:
    with pytest.raises(FitError, match="every point has D"):
        fit_power([1.0], [1e9])
    assert fit_power([1.0, 2.0], [1e9, 2e9], [1e8, 4e8]).left_out.keys() == {"a"}
