"""Two sizes of mixture-of-experts runs: which one the law is of, and what may not vary unseen."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest

from megascale.errors import FitError
from megascale.laws.grid.fit import fit_grid
from megascale.laws.grid.sizes import choose_size

RATES = np.geomspace(1e-4, 6.4e-3, 7)


def runs(sizes: list[tuple[float, float]]) -> pl.DataFrame:
    """Final losses whose best rate is 20 N_active^-0.3 D^-0.2, at every (total, active)."""
    rows = []
    for (total, active), tokens, lr in itertools.product(sizes, (2e9, 8e9, 2e10), RATES):
        best = 20 * active**-0.3 * tokens**-0.2
        loss = 2 + 1e3 * active**-0.4 + 0.05 * np.log(lr / best) ** 2
        rows.append((total, active, tokens, lr, loss))
    names = ["n_params", "active_params", "tokens", "lr", "loss"]
    return pl.DataFrame(rows, schema=names, orient="row")


MOE = runs([(2e9, 2e8), (2e9, 4e8), (2e9, 8e8)])
"""One total size, three active ones."""


def test_the_law_is_of_the_size_that_is_named() -> None:
    sized = choose_size(MOE, "active")
    assert sized.kind == "active"
    assert sized.table.columns == ["n_params", "tokens", "lr", "loss"]
    assert sized.other == {"n_params": (2e9, 2e9)}
    assert "total ones are 2e+09" in sized.notes[0]
    law = fit_grid(sized.table, replicates=0).law("lr", "search_factor").law
    assert (law.coef, law.a, law.b) == (
        pytest.approx(20, rel=1e-4),
        pytest.approx(-0.3, abs=1e-6),
        pytest.approx(-0.2, abs=1e-6),
    )


def test_two_sizes_are_not_guessed_between() -> None:
    with pytest.raises(FitError, match="say which N the law is of"):
        choose_size(MOE, None)


def test_a_size_that_varies_beneath_the_other_is_refused() -> None:
    with pytest.raises(FitError, match=r"total size, 2e\+09.*active sizes from 2e\+08 to 8e\+08"):
        choose_size(MOE, "total")
    # Total sizes that differ by a tenth of a per cent, as published grids have them, are one.
    near = runs([(2.000e9, 2e8), (2.002e9, 4e8)])
    with pytest.raises(FitError, match="active sizes"):
        choose_size(near, "total")
    # Where both grow together, either will do.
    both = choose_size(runs([(2e9, 2e8), (4e9, 4e8)]), "total")
    assert both.other == {"active_params": (2e8, 4e8)}
    assert sorted(both.table["n_params"].unique()) == [2e9, 4e9]


def test_a_size_that_is_held_fixed() -> None:
    sized = choose_size(MOE, "total", {"active_params": 4e8})
    assert sized.held == {"active_params": 4e8}
    fit = fit_grid(sized.table, replicates=0)
    law = fit.law("lr", "search_factor").law
    assert not law.with_n
    assert law.n_range == (2e9, 2e9)
    assert law.b == pytest.approx(-0.2, abs=1e-6)
    assert any("every run has N = 2e+09" in doubt for doubt in fit.doubts)
    with pytest.raises(FitError, match=r"active_params=2.5e\+08.*Nearest legal: 2e\+08"):
        choose_size(MOE, "total", {"active_params": 2.5e8})
    with pytest.raises(FitError, match="is not a column of the grid"):
        choose_size(MOE, "total", {"width": 512})


def test_one_size_is_taken_as_it_is() -> None:
    total = MOE.filter(pl.col("active_params") == 2e8).drop("active_params")
    assert choose_size(total, None).kind == "non_embedding"
    assert choose_size(total, "active").kind == "active"
    active = MOE.drop("n_params")
    assert choose_size(active, None).kind == "active"
    assert "n_params" in choose_size(active, None).table.columns
    with pytest.raises(FitError, match="active parameters alone"):
        choose_size(active, "total")
