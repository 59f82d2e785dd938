"""Certified values of the NIST StRD: all 27 nonlinear problems from both starts, and the engine's.

Digits are those of the worst parameter.
"""

from __future__ import annotations

import numpy as np
import pytest

from megascale import fitting
from megascale.errors import FitError
from tests.fitting.nist import MODELS, PROBLEMS, digits


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", PROBLEMS)
def test_callables_reach_the_certified_values(name: str, start: int) -> None:
    problem = PROBLEMS[name]
    initial = {f"b{i + 1}": value for i, value in enumerate(problem.starts[start])}
    result = fitting.fit(MODELS[name], problem.x, problem.y, residual="absolute", initial=initial)
    assert result.converged.all()
    assert digits(result.values[0], problem.certified) >= 6
    if name == "Lanczos1":  # exact to the last digit given: what is left is rounding
        assert result.objective[0] < 1e-23
        return
    assert digits(result.objective[0], problem.rss) >= 9
    errors = [result.errors[key][0] for key in result.names]
    assert digits(errors, problem.deviations) >= 6


def test_a_budget_that_runs_out_is_told() -> None:
    problem = PROBLEMS["Bennett5"]
    initial = {f"b{i + 1}": value for i, value in enumerate(problem.starts[0])}
    options = {"residual": "absolute", "initial": initial}
    result = fitting.fit(MODELS["Bennett5"], problem.x, problem.y, max_iterations=50, **options)
    assert result.status[0] == int(fitting.Status.MAX_ITERATIONS)


def test_callables_stay_on_the_cpu() -> None:
    with pytest.raises(FitError, match="a callable is fitted on the CPU"):
        fitting.fit(lambda x, a: a * x, [1.0, 2.0], [2.0, 4.0], device="cuda")


def test_power_law_is_danwood() -> None:
    """y = b1 x^b2."""
    problem = PROBLEMS["DanWood"]
    options = {"residual": "absolute", "tolerance": 1e-15}
    result = fitting.fit("power_law", problem.x, problem.y, **options)
    assert digits(result.values[0], problem.certified) >= 8
    assert digits(result.objective[0], problem.rss) >= 9
    errors = [result.errors["coefficient"][0], result.errors["exponent_1"][0]]
    assert digits(errors, problem.deviations) >= 6


def test_noise_sgd_is_misra1d() -> None:
    """y = b1 b2 x / (1 + b2 x), a saturating law: eta_max = b1, B_noise = 1/b2."""
    problem = PROBLEMS["Misra1d"]
    options = {"residual": "absolute", "tolerance": 1e-15}
    result = fitting.fit("noise_sgd", problem.x, problem.y, **options)
    found = [result["eta_max"][0], 1 / result["B_noise"][0]]
    assert digits(found, problem.certified) >= 7
    assert digits(result.objective[0], problem.rss) >= 9
    relative = result.errors["B_noise"][0] / result["B_noise"][0]
    errors = [result.errors["eta_max"][0], relative * found[1]]
    assert digits(errors, problem.deviations) >= 5


def test_small_parameters_are_no_harder_than_large_ones() -> None:
    """The same law in units a million times larger or smaller."""
    rng = np.random.default_rng(3)
    x = np.linspace(1, 9, 20)
    y = 2 * np.exp(-0.4 * x) * (1 + 0.01 * rng.standard_normal(20))
    for unit in (1e-9, 1e-6, 1.0, 1e6, 1e9):
        result = fitting.fit(
            lambda x, size, rate: size * np.exp(-rate * x),
            x / unit,
            y * unit,
            initial={"size": unit, "rate": unit},
        )
        found = [result["size"][0] / unit, result["rate"][0] / unit]
        errors = [result.errors[name][0] / unit for name in ("size", "rate")]
        if unit == 1e-9:
            first = found, errors
        assert digits(found, first[0]) >= 8
        assert digits(errors, first[1]) >= 7
