"""Best rates whose cells share runs, and the law through them."""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl
import pytest

from megascale.laws.learning_rate import search_factor
from tests.laws.test_learning_rate import rate_grid

BUDGETS = (2e9, 4e9, 8e9, 16e9)


def shared_table(seed: int, noise: float, rates: int = 7) -> pl.DataFrame:
    """One N: the error of a run is the same at every budget."""
    rng = np.random.default_rng(seed)
    tried = 1e-3 * 2 ** ((np.arange(rates) - (rates - 1) / 2) / 2)
    error = noise * rng.standard_normal(rates)
    rows = [
        (1e8, d, lr, 2.5 + 0.03 * np.log(lr / (1e-3 * (d / 6e9) ** -0.3)) ** 2 + e)
        for d in BUDGETS
        for lr, e in zip(tried, error, strict=True)
    ]
    return pl.DataFrame(rows, schema=["n_params", "tokens", "lr", "loss"], orient="row")


def test_more_looks_at_the_same_runs_are_no_more_evidence() -> None:
    """Errors that all budgets share leave the slope alone and the level as unsure as one look."""
    table = shared_table(3, 0.004)
    law = search_factor(table, shared_runs=True).law
    assert law.freedom == 4
    naive = search_factor(table).law
    assert law.log_error(None, 6e9) > 2 * naive.log_error(None, 6e9)
    once = search_factor(table.filter(pl.col("tokens").is_in(BUDGETS[:2])), shared_runs=True).law
    assert law.log_error(None, 4e9) == pytest.approx(once.log_error(None, 4e9), rel=0.6)


def test_three_rates_leave_no_band() -> None:
    law = search_factor(shared_table(0, 0.001, rates=3), shared_runs=True).law
    assert np.isnan(law.covariance).all()
    low, high = law.band(None, 4e9)
    assert np.isnan([low, high]).all()
    assert law.parameters("")["b"].low is None
    assert law.b == pytest.approx(-0.3, abs=0.1)


def test_noiseless_cells_have_a_law_and_hardly_an_error() -> None:
    found = search_factor(rate_grid(), shared_runs=True)
    assert found.shared is not None
    assert found.law.a == pytest.approx(-0.2219, abs=1e-3)
    assert found.law.log_error(1e9, 1e11) < 1e-3


def test_the_band_holds_where_least_squares_does_not() -> None:
    truth = partial(lambda d: 1e-3 * (d / 6e9) ** -0.3)
    held = {True: [], False: []}
    for seed in range(80):
        table = shared_table(seed, 0.004)
        for shared in held:
            low, high = search_factor(table, shared_runs=shared).law.band(None, 6e9)
            held[shared].append(low <= truth(6e9) <= high)
    assert np.mean(held[True]) > 0.82
    assert np.mean(held[False]) < 0.7
