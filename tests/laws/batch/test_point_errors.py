"""Expected errors of points: their stated shape, and the size that residuals say."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from megascale.laws.batch.point_errors import FIRST_SPREAD, draw_point_errors, expect_errors
from megascale.laws.batch.tokens_steps import fit_tokens_steps
from tests.laws.batch.simulated import family_points


def with_errors(points: pl.DataFrame, own: float, first: float) -> pl.DataFrame:
    """The smallest batch states `first`, the others `own`."""
    least = pl.col("batch_tokens").min()
    stated = pl.when(pl.col("batch_tokens") == least).then(first).otherwise(own)
    return points.with_columns(log_error=stated)


def test_points_that_state_nothing_are_alike() -> None:
    fits = fit_tokens_steps(family_points("two_power", 0, 9), "two_power")
    found = expect_errors(fits)
    residual = fits.log_residuals()
    assert found.left == pytest.approx(np.diff(fits.offsets) - 4)
    assert found.unit == pytest.approx(
        np.full(len(residual), np.sqrt((residual**2).sum() / found.left.sum()))
    )


def test_runs_differ_by_more_than_their_curves_know() -> None:
    points = with_errors(family_points("two_power", 1, 11, delay=0.03), 0.002, 0.05)
    fits = fit_tokens_steps(points, "two_power")
    found = expect_errors(fits)
    others = found.unit[fits.points["log_error"].to_numpy() == 0.002]
    assert 0.015 < others.min() < 0.06
    assert found.unit.max() ** 2 - others.min() ** 2 == pytest.approx(0.05**2 - 0.002**2)


def test_overstated_errors_are_scaled_down() -> None:
    points = with_errors(family_points("two_power", 1, 11, delay=0.005), 0.3, 0.9)
    found = expect_errors(fit_tokens_steps(points, "two_power"))
    assert found.unit.max() == pytest.approx(3 * found.unit.min())
    assert found.unit.min() < 0.02


def test_what_the_fit_leaves_is_what_refits_leave() -> None:
    """The linearised residual-maker against refits to points with such errors."""
    points = with_errors(family_points("two_power", 2, 9, delay=0.004), 0.004, 0.04)
    fits = fit_tokens_steps(points, "two_power")
    found = expect_errors(fits)
    rng = np.random.default_rng(0)
    points = fits.points
    exact = np.log(points["tokens"].to_numpy()) - fits.log_residuals()
    squares = []
    for _ in range(200):
        tokens = np.exp(exact + 0.1 * found.unit * rng.standard_normal(len(exact)))
        again = fit_tokens_steps(points.with_columns(tokens=tokens), "two_power")
        squares.append((again.log_residuals() / (0.1 * found.unit)) ** 2)
    per_group = np.add.reduceat(np.mean(squares, axis=0), fits.offsets[:-1])
    assert found.left == pytest.approx(per_group, rel=0.2)


def test_as_many_points_as_parameters_have_errors_that_are_taken_for_granted() -> None:
    points = family_points("two_power", 0, 4, delay=0.0)
    fits = fit_tokens_steps(points, "two_power")
    errors = draw_point_errors(fits, 2000, 0)
    assert errors.draws.std() == pytest.approx(FIRST_SPREAD, rel=0.05)
    assert set(errors.freedom) == {1.0}
