"""How far a law file's own intervals let its output move.

For `power`, ln f = ln coef + a ln N + b ln D, and the parameters' half-widths in log are h_c, h_a,
h_b. A covariance in `diagnostics` (`{"parameters": ["log_coef", "a", "b"], "matrix": [[...]]}`, of
the parameters in the law's own units) is used where there is one. Without it the errors of
intercept and exponents are taken as those of a least-squares line: independent at the middle (x_N,
x_D) of the fitted range, where

    h_m^2 = max(0, h_c^2 - (x_N h_a)^2 - (x_D h_b)^2)
    h^2   = h_m^2 + ((ln N - x_N) h_a)^2 + ((ln D - x_D) h_b)^2

Where the range is unknown, the middle is N = D = 1, which gives an upper bound.
"""

from __future__ import annotations

import math
from typing import Any

from megascale.formats.law_file import SCALES, LawFile, interpolate

_Z95 = 2.13


def law_band(law: LawFile, n_params: float, d_tokens: float) -> tuple[float, float] | None:
    """Low and high end of f(N, D), or None where the file gives no interval.

    Args:
        law: the law.
        n_params: parameters, as the law's `n_kind` counts them.
        d_tokens: tokens.
    """
    n, d = n_params / SCALES[law.n_unit], d_tokens / SCALES[law.d_unit]
    if law.table is not None:
        if law.table.low is None or law.table.high is None:
            return None
        knots = law.table.d
        return interpolate(knots, law.table.low, d), interpolate(knots, law.table.high, d)
    value = law.evaluate(n_params, d_tokens)
    covariance = _covariance(law.diagnostics)
    if covariance is not None:
        x = (1.0, math.log(n), math.log(d))
        variance = sum(x[i] * covariance[i][j] * x[j] for i in range(3) for j in range(3))
        factor = math.exp(_Z95 * math.sqrt(max(variance, 0.0)))
        return value / factor, value * factor
    half = {name: _half_width(law, name) for name in ("coef", "a", "b")}
    if not any(half.values()):
        return None
    slopes = (
        (half["a"], math.log(n), _middle(law.range.n, SCALES[law.n_unit])),
        (half["b"], math.log(d), _middle(law.range.d, SCALES[law.d_unit])),
    )
    at_middle = max(0.0, half["coef"] ** 2 - sum((h * x) ** 2 for h, _, x in slopes))
    factor = math.exp(math.sqrt(at_middle + sum((h * (at - x)) ** 2 for h, at, x in slopes)))
    return value / factor, value * factor


def _half_width(law: LawFile, name: str) -> float:
    parameter = law.parameters[name]
    if parameter.low is None or parameter.high is None:
        return 0.0
    if name == "coef":
        return math.log(parameter.high / parameter.low) / 2 if parameter.low > 0 else math.inf
    return (parameter.high - parameter.low) / 2


def _middle(limits: tuple[float, float] | None, scale: float) -> float:
    if limits is None or min(limits) <= 0:
        return 0.0
    return math.log(math.sqrt(limits[0] * limits[1]) / scale)


def _covariance(diagnostics: dict[str, Any]) -> list[list[float]] | None:
    found = diagnostics.get("covariance")
    if not isinstance(found, dict) or found.get("parameters") != ["log_coef", "a", "b"]:
        return None
    matrix = found.get("matrix")
    if not isinstance(matrix, list) or [len(row) for row in matrix] != [3, 3, 3]:
        return None
    return [[float(value) for value in row] for row in matrix]
