"""Value and half-width of a power law, once for numbers, arrays and law files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.formats.power_form import line_matrix, log_power, log_square

small = st.floats(-3, 3)


@given(st.lists(small, min_size=9, max_size=9), st.floats(0, 30), st.floats(0, 40))
def test_log_square_is_the_quadratic_form(values: list[float], log_n: float, log_d: float) -> None:
    root = np.array(values).reshape(3, 3)
    matrix = root @ root.T
    x = np.array([1.0, log_n, log_d])
    assert log_square(matrix.tolist(), log_n, log_d) == pytest.approx(
        float(x @ matrix @ x), rel=1e-9, abs=1e-6
    )


def test_arrays_give_arrays() -> None:
    log_d = np.array([1.0, 2.0, 3.0])
    assert log_power(0.5, 2.0, 3.0, 1.0, log_d) == pytest.approx(2.5 + 3 * log_d)
    assert log_square(np.eye(3).tolist(), 2.0, log_d) == pytest.approx(5 + log_d**2)


@given(st.floats(0, 2), st.floats(0, 0.2), st.floats(0, 0.2), st.floats(10, 25), st.floats(15, 30))
def test_half_widths_of_a_line_are_independent_in_its_middle(
    coef: float, a: float, b: float, middle_n: float, middle_d: float
) -> None:
    matrix = line_matrix(coef, a, b, middle_n, middle_d)
    rest = max(0.0, coef**2 - (a * middle_n) ** 2 - (b * middle_d) ** 2)
    for step_n, step_d in ((0.0, 0.0), (2.0, 0.0), (1.0, -3.0)):
        expected = rest + (a * step_n) ** 2 + (b * step_d) ** 2
        found = log_square(matrix, middle_n + step_n, middle_d + step_d)
        assert found == pytest.approx(expected, abs=1e-8)
