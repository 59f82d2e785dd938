"""The power law ln f = ln coef + a ln N + b ln D: its value and what its errors let it move.

Plain arithmetic on whatever is given: numbers, arrays of them, or the report's tracer, which
writes the page's JavaScript from these same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Matrix = Sequence[Sequence[Any]]
"""3 x 3, of (ln coef, a, b)."""


def log_power(log_coef: Any, a: Any, b: Any, log_n: Any, log_d: Any) -> Any:
    """ln f(N, D)."""
    return log_coef + a * log_n + b * log_d


def log_square(matrix: Matrix, log_n: Any, log_d: Any) -> Any:
    """x' M x with x = (1, ln N, ln D).

    The variance of ln f where M is the covariance; the square of its half-width where M is that
    times the square of the reach.
    """
    return (
        matrix[0][0]
        + log_n * (2 * matrix[0][1] + matrix[1][1] * log_n)
        + log_d * (2 * matrix[0][2] + matrix[2][2] * log_d + 2 * matrix[1][2] * log_n)
    )


def line_matrix(
    log_coef: float, a: float, b: float, middle_n: float, middle_d: float
) -> list[list[float]]:
    """The matrix of `log_square` where only the parameters' own half-widths are known.

    They are taken as those of a least-squares line, whose errors of intercept and exponents are
    independent at the middle of the points: the half-width there is what is left of that of
    ln coef, h^2 - (x_N a)^2 - (x_D b)^2, or 0.

    Args:
        log_coef, a, b: half-widths of ln coef, a and b.
        middle_n, middle_d: ln N and ln D in the middle of the fitted range; 0 where it is unknown,
            which gives an upper bound.
    """
    slopes = (a * middle_n) ** 2 + (b * middle_d) ** 2
    corner = max(0.0, log_coef**2 - slopes) + slopes
    return [
        [corner, -middle_n * a**2, -middle_d * b**2],
        [-middle_n * a**2, a**2, 0.0],
        [-middle_d * b**2, 0.0, b**2],
    ]
