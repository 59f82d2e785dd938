"""Laws that are written down, and those that cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.laws.law_files import Naming, power_law_file
from megascale.laws.power import fit_power


def test_a_law_without_freedom_states_no_band() -> None:
    law = fit_power([1.0, 2.0], [1e9, 1e10])
    file = power_law_file(law, "batch_tokens", Naming("two"), d_kind="consumed")
    assert file.covariance is None
    assert (file.confidence, file.degrees_of_freedom) == (None, None)
    assert file.parameters["b"].low is None
    assert file.evaluate(1.0, 1e9) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "change", [{"a": float("nan")}, {"b": float("inf")}, {"coef": float("inf")}]
)
def test_a_number_that_is_not_finite_is_an_error_before_writing(change: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    law = fit_power(np.exp(rng.standard_normal(5)), [1e9, 2e9, 4e9, 8e9, 9e9])
    (name,) = change
    with pytest.raises(FitError, match=f"^{name} = .* is no finite number"):
        power_law_file(replace(law, **change), "peak_lr", Naming("bad"), d_kind="horizon")


def test_numbers_beside_the_law_are_checked_too() -> None:
    law = fit_power(np.exp(np.arange(5.0)), [1e9, 2e9, 4e9, 8e9, 9e9])
    wrong = replace(law, d_range=(1e9, float("inf")))
    with pytest.raises(FitError, match=r"makes no law file: range|d: Input should be a finite"):
        power_law_file(wrong, "peak_lr", Naming("bad"), d_kind="horizon")


def test_an_interval_beyond_what_numbers_hold_is_left_open() -> None:
    rng = np.random.default_rng(1)
    law = fit_power(np.exp(rng.standard_normal(5)), [1e9, 2e9, 4e9, 8e9, 9e9])
    wild = replace(law, covariance=np.diag([1e8, 0.0, 1e-4]))
    file = power_law_file(wild, "peak_lr", Naming("wild"), d_kind="horizon")
    assert (file.parameters["coef"].low, file.parameters["coef"].high) == (None, None)
    assert file.parameters["b"].low is not None
    assert file.covariance is not None
