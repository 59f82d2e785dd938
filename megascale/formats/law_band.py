"""How far a law file's own errors let its output move: the one band of a law at (N, D).

`schedule`, `recommend`, the report and its calculator and the audits all take it from here, and
each shows the confidence beside it.

For `power`, the half-width of ln f is `reach` times the root of x' C x, x = (1, ln N, ln D) in the
law's units: C the file's covariance, `reach` Student's t with the file's degrees of freedom at the
file's confidence, or at another that is asked for. A file that gives intervals of its parameters
and no covariance is read as a least-squares line (`power_form.line_matrix`). For `loglog_table` the
band is that of its knots. Intervals that state no confidence are carried through as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megascale.errors import ConfigError
from megascale.formats.law_file import SCALES, LawFile, interpolate
from megascale.formats.power_form import line_matrix, log_square
from megascale.formats.student_t import student_reach

DEFAULT_CONFIDENCE = 0.9
"""Of a band whose file has a covariance and states no confidence."""


@dataclass(frozen=True, slots=True)
class Band:
    """An interval of f(N, D).

    Attributes:
        low, high: its ends, in the law's output.
        confidence: of the interval; None where the file does not state it.
    """

    low: float
    high: float
    confidence: float | None


def law_band(
    law: LawFile, n_params: float, d_tokens: float, confidence: float | None = None
) -> Band | None:
    """The band of f(N, D), or None where the file gives no interval.

    Args:
        law: the law.
        n_params: parameters, as the law's `n_kind` counts them.
        d_tokens: tokens.
        confidence: of the band; None takes the file's own.

    Raises:
        ConfigError: an illegal confidence, or one asked of intervals that state none.
    """
    shown, factor = shown_confidence(law, confidence)
    value = law.evaluate(n_params, d_tokens)
    n, d = n_params / SCALES[law.n_unit], d_tokens / SCALES[law.d_unit]
    if law.table is not None:
        if law.table.low is None or law.table.high is None:
            return None
        ends = (interpolate(law.table.d, side, d) for side in (law.table.low, law.table.high))
        low, high = (value * (end / value) ** factor for end in ends)
        return Band(low, high, shown)
    matrix = half_width_matrix(law, confidence)
    if matrix is None:
        return None
    square = log_square(matrix, math.log(n), math.log(d))
    try:
        ratio = math.exp(math.sqrt(max(square, 0.0)))
    except OverflowError:
        ratio = math.inf
    return Band(value / ratio, value * ratio, shown)


def shown_confidence(law: LawFile, confidence: float | None) -> tuple[float | None, float]:
    """The confidence that a law's band has, and the factor on its stated intervals in log.

    Raises:
        ConfigError: as `law_band`.
    """
    if confidence is None:
        if law.confidence is None and law.covariance is not None:
            return DEFAULT_CONFIDENCE, 1.0
        return law.confidence, 1.0
    if not 0 < confidence < 1:
        rule = "must lie between 0 and 1"
        raise ConfigError.of("--confidence", confidence, rule, DEFAULT_CONFIDENCE)
    if law.confidence is None:
        if law.covariance is None and _has_intervals(law):
            rule = f"law {law.name} does not say what confidence its intervals have"
            raise ConfigError.of("--confidence", confidence, rule)
        return confidence, 1.0
    freedom = law.degrees_of_freedom
    return confidence, student_reach(confidence, freedom) / student_reach(law.confidence, freedom)


def half_width_matrix(law: LawFile, confidence: float | None = None) -> list[list[float]] | None:
    """Matrix of `power_form.log_square` that gives the squared half-width of ln f.

    None where the law has no intervals, or is a table.

    Raises:
        ConfigError: as `law_band`.
    """
    shown, factor = shown_confidence(law, confidence)
    if law.form != "power":
        return None
    if law.covariance is not None:
        assert shown is not None
        scale = student_reach(shown, law.degrees_of_freedom) ** 2
        return [[scale * value for value in row] for row in law.covariance.matrix]
    coef, a, b = (factor * _half_width(law, name) for name in ("coef", "a", "b"))
    if not (coef or a or b):
        return None
    middle_n = _middle(law.range.n, SCALES[law.n_unit])
    middle_d = _middle(law.range.d, SCALES[law.d_unit])
    return line_matrix(coef, a, b, middle_n, middle_d)


def _has_intervals(law: LawFile) -> bool:
    if law.table is not None:
        return law.table.low is not None and law.table.high is not None
    return any(_half_width(law, name) for name in ("coef", "a", "b"))


def _half_width(law: LawFile, name: str) -> float:
    parameter = law.parameters[name]
    if parameter.low is None or parameter.high is None:
        return 0.0
    if name == "coef":
        return math.log(parameter.high / parameter.low) / 2
    return (parameter.high - parameter.low) / 2


def _middle(limits: tuple[float, float] | None, scale: float) -> float:
    if limits is None or min(limits) <= 0:
        return 0.0
    return math.log(math.sqrt(limits[0] * limits[1]) / scale)
