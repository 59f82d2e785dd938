"""Which exponents of N and D the spread of the points can give.

An exponent is kept where it is worth its error. At a point that lies x away in log N (or log D)
from the middle of the fitted ones, an exponent of standard error e costs (e x)^2 of squared error
in log f, and leaving it out costs (t x)^2 with t the exponent's true size. Over the published laws
of batch and learning rate the exponents' root mean square is 0.47 (`laws.published`), so an
exponent whose expected error exceeds `EXPONENT_SIZE` = 0.5 makes predictions worse on average,
wherever they are made. Four model sizes within 0.3 % and a scatter of 5 % give e = 13.

The expected error is that of least squares, s sqrt((X' W X)^-1), which the spread of N and D and
their correlation decide. The scatter s of so few points is itself uncertain: s^2 = (r' W r +
PRIOR_SCATTER^2) / (m - k + 1), the residuals with one degree of freedom of a 10 % scatter added.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from megascale.arrays import Array
from megascale.errors import FitError

EXPONENT_SIZE = 0.5
"""What an exponent of N or D is worth knowing to; see above."""
PRIOR_SCATTER = 0.1
"""Scatter of log f that one degree of freedom vouches for beforehand."""
NAMES = {"a": "N", "b": "D"}
COLUMNS = {"a": "n_params", "b": "tokens"}


def choose_exponents(
    columns: Mapping[str, Array], values: Array, weights: npt.ArrayLike | None = None
) -> tuple[list[str], dict[str, str]]:
    """The exponents to fit, and why the others are left out.

    The least certain one goes first, until all that are left are certain enough. Where N and D
    vary only together, and neither exponent can be told from the other, D's is kept.

    Args:
        columns: "a" and "b" to N and D, in that order, as far as they are wanted; positive.
        values: f, positive.
        weights: of the squared log residuals.

    Raises:
        FitError: none is left, or there are fewer points than parameters.
    """
    kept = list(columns)
    left_out: dict[str, str] = {}
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(values) or not all((np.asarray(c) > 0).all() for c in (values, *columns.values())):
        return kept, left_out  # the fit itself names the point at fault
    root = np.sqrt(weight / max(weight.max(), 1e-300))
    logs = {name: np.log(column) for name, column in columns.items()}
    while kept:
        errors = _errors([logs[name] for name in kept], np.log(values), root)
        worst = int(np.argmax(errors))
        if errors[worst] <= EXPONENT_SIZE:
            if len(values) <= len(kept):
                break
            return kept, left_out
        if np.isinf(errors).all():
            worst = 0
        name = kept.pop(worst)
        left_out[name] = _reason(name, columns[name], errors[worst], bool(kept))
    if not left_out:
        rule = f"a power law of {' and '.join(NAMES[name] for name in columns)} needs more"
        raise FitError.of("points", len(values), rule, len(columns) + 1)
    name = "b" if "b" in left_out else "a"
    rule = "a power law needs an N or a D that varies: " + "; ".join(left_out.values())
    raise FitError.of(COLUMNS[name], _span(columns[name]), rule)


def _errors(logs: list[Array], log_values: Array, root: Array) -> Array:
    """Expected standard errors of the exponents; infinite where they are not determined."""
    x = np.stack([np.ones_like(log_values), *logs], axis=1)
    weighted_mean = (root**2 @ x[:, 1:]) / max(float(root @ root), 1e-300)
    x[:, 1:] -= weighted_mean
    x *= root[:, None]
    y = log_values * root
    size = np.sqrt((x**2).sum(axis=0))
    if not (size > 1e-9 * np.sqrt(len(y))).all():
        return np.where(size[1:] > 1e-9 * np.sqrt(len(y)), 0.0, np.inf)
    unit = x / size
    if np.linalg.matrix_rank(unit, tol=1e-6) < unit.shape[1]:
        return np.full(len(logs), np.inf)
    inverse = np.linalg.inv(unit.T @ unit)
    residual = y - unit @ (inverse @ (unit.T @ y))
    freedom = max(int((root > 0).sum()) - x.shape[1], 0)
    scatter = np.sqrt((float(residual @ residual) + PRIOR_SCATTER**2) / (freedom + 1))
    return scatter * np.sqrt(np.diag(inverse))[1:] / size[1:]


def _span(column: Array) -> str | float:
    low, high = float(column.min()), float(column.max())
    return low if low == high else f"{low:.6g} to {high:.6g}"


def _reason(name: str, column: Array, error: float, others: bool) -> str:
    symbol = NAMES[name]
    low, high = float(column.min()), float(column.max())
    if low == high:
        return f"every point has {symbol} = {low:.6g}"
    where = f"{symbol} from {low:.6g} to {high:.6g}"
    if np.isinf(error):
        return f"{where} varies only together with " + ("D" if name == "a" and others else "N")
    return (
        f"{where} would give its exponent to ±{error:.2g} only; published exponents are about "
        f"{EXPONENT_SIZE}"
    )
