"""Model selection among laws of one table."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from megascale import fitting
from megascale.errors import FitError
from megascale.laws.choice import compare_laws, verdict_table

TOKENS = np.geomspace(1e8, 1e11, 24)


def noisy(values: np.ndarray, seed: int = 0, noise: float = 2e-3) -> np.ndarray:
    return values * np.exp(noise * np.random.default_rng(seed).standard_normal(len(values)))


def test_a_floor_is_found_and_none_is_invented() -> None:
    floor = compare_laws([TOKENS], noisy(2.0 + 300 * TOKENS**-0.3))
    assert [verdict.law for verdict in floor] == ["loss_curve", "power_law"]
    assert floor[0].held_out < floor[1].held_out / 2
    assert floor[0].beyond < floor[1].beyond / 2
    # AICc takes one parameter too many in about a sixth of all studies.
    chosen = [compare_laws([TOKENS], noisy(30 * TOKENS**-0.1, s))[0].law for s in range(60)]
    assert chosen.count("power_law") >= 42


def test_size_and_tokens() -> None:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6)))
    verdicts = compare_laws([n, d], noisy(1.8 + 480 * n**-0.35 + 2100 * d**-0.37))
    assert verdicts[0].law == "chinchilla"
    assert verdicts[0].rms == pytest.approx(2e-3, rel=0.4)
    power = compare_laws([n, d], noisy(5 * n**-0.2 * d**0.1, noise=0.05))
    assert power[0].law == "power_law"


def test_aicc_is_that_of_the_result() -> None:
    loss = noisy(2.0 + 300 * TOKENS**-0.3)
    result = fitting.fit("loss_curve", TOKENS, loss, residual="log")
    (verdict,) = compare_laws([TOKENS], loss, laws=["loss_curve"])
    assert verdict.aicc == pytest.approx(result.aicc[0], rel=1e-6)
    assert verdict.rms == pytest.approx(result.rms[0], rel=1e-6)


def test_problems_side_by_side() -> None:
    loss = np.concatenate([noisy(2 + 300 * TOKENS**-0.3, 1), noisy(1.5 + 200 * TOKENS**-0.25, 2)])
    owner = np.repeat([7, 3], len(TOKENS))
    verdicts = compare_laws([np.tile(TOKENS, 2)], loss, owner)
    assert verdicts[0].law == "loss_curve"
    assert verdicts[0].parameters == 6
    table = verdict_table(verdicts)
    assert isinstance(table, pl.DataFrame)
    assert table["law"].to_list() == ["loss_curve", "power_law"]


def test_points_as_few_as_parameters_say_nothing() -> None:
    few = compare_laws([TOKENS[:3]], noisy(2 + 300 * TOKENS[:3] ** -0.3), laws=["loss_curve"])
    assert np.isinf(few[0].aicc)
    assert np.isnan(few[0].held_out)
    with pytest.raises(FitError, match="inputs = 3"):
        compare_laws([TOKENS, TOKENS, TOKENS], TOKENS)


def test_one_problem_that_cannot_be_fitted_decides_nothing() -> None:
    """A group of two points, too few for the floor, made its law lose in all groups."""
    loss = np.concatenate([noisy(2 + 300 * TOKENS**-0.3, 1), [2.5, 2.4]])
    tokens = np.concatenate([TOKENS, [1e9, 1e10]])
    owner = np.repeat([0, 1], [len(TOKENS), 2])
    verdicts = compare_laws([tokens], loss, owner)
    assert verdicts[0].law == "loss_curve"
    assert np.isfinite(verdicts[0].aicc)
    assert verdicts[0].failed == 1
    (alone,) = compare_laws([TOKENS], loss[:-2], laws=["loss_curve"])
    assert verdicts[0].aicc == pytest.approx(alone.aicc)


def test_points_that_a_law_meets_exactly_choose_it() -> None:
    assert compare_laws([TOKENS], 30 * TOKENS**-0.1)[0].law == "power_law"
