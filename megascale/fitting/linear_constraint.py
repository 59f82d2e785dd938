"""Linear equations between parameters of one law, as text: ties (`p = q`) and sums.

The parameters that the equations determine are written as linear functions of the others, so that
what is fitted has no constraint left (elimination, Nocedal and Wright 2006, section 15.3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megascale.errors import FitError

Array = np.ndarray

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TERM = re.compile(rf"\s*([+-]?)\s*(?:({_NUMBER})\s*\*?\s*)?([A-Za-z_]\w*)?\s*", re.ASCII)
EXAMPLE = "alpha + 2 beta = 1"


def parse_constraint(text: str, names: Sequence[str]) -> tuple[Array, float]:
    """Coefficients and right side of one equation: `p = q`, `alpha + 2 beta = 1`.

    Args:
        text: sums of terms on both sides of one `=`; a term is a number, a parameter, or a
            number times a parameter.
        names: the law's parameters.

    Returns:
        ((parameters,) coefficients, right side).

    Raises:
        FitError: not such an equation, or of no parameter of the law.
    """
    rule = "must be a linear equation between parameters"
    sides = text.split("=") if isinstance(text, str) else []
    if len(sides) != 2:
        raise FitError.of("constraints", text, rule, EXAMPLE)
    row, right = np.zeros(len(names)), 0.0
    for side, sign in zip(sides, (1.0, -1.0), strict=True):
        at, first = 0, True
        while at < len(side):
            found = _TERM.match(side, at)
            if found is None or found.end() == at or not (found[2] or found[3]):
                raise FitError.of("constraints", text, rule, EXAMPLE)
            if not (first or found[1]):
                raise FitError.of("constraints", text, rule, EXAMPLE)
            factor = sign * (-1 if found[1] == "-" else 1) * float(found[2] or 1)
            if found[3] is None:
                right -= factor
            elif found[3] not in names:
                rule = f"the law has no parameter {found[3]}"
                raise FitError.of("constraints", text, rule, list(names))
            else:
                row[list(names).index(found[3])] += factor
            at, first = found.end(), False
        if first:
            raise FitError.of("constraints", text, rule, EXAMPLE)
    if not row.any():
        raise FitError.of("constraints", text, "no parameter is left in it", EXAMPLE)
    if not np.isfinite([*row, right]).all():
        raise FitError.of("constraints", text, "its numbers must be finite", EXAMPLE)
    return row, right


@dataclass(frozen=True)
class Elimination:
    """Some parameters as linear functions of the free ones.

    Attributes:
        dependent: numbers of the parameters that the equations determine.
        free: numbers of the parameters that are left to be fitted.
        factors: (dependent, free).
        constant: (problems, dependent): dependent = factors free + constant.
        texts: the equations as they were given.
    """

    dependent: Array
    free: Array
    factors: Array
    constant: Array
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str], names: Sequence[str], fixed: Array) -> Elimination:
        """Solve equations for as many parameters.

        Args:
            texts: the equations.
            names: the law's parameters.
            fixed: (problems, parameters), NaN where free.

        Raises:
            FitError: an equation that is none, that follows from or contradicts the others, or
                parameters that are fixed in some of the problems alone.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise FitError.of("constraints", texts, "must be a list of equations", f'["{EXAMPLE}"]')
        held = ~np.isnan(fixed)
        if (held.any(axis=0) != held.all(axis=0)).any():
            rule = "must hold a parameter in all problems where there are constraints"
            raise FitError.of("fixed", "in some problems", rule, "a call for each kind of problem")
        held = held.all(axis=0) if len(held) else np.zeros(len(names), bool)
        count = len(texts)
        matrix, right = np.zeros((count, len(names))), np.zeros((len(fixed), count))
        for i, text in enumerate(texts):
            matrix[i], value = parse_constraint(text, names)
            right[:, i] = value - np.where(held, fixed, 0.0) @ np.where(held, matrix[i], 0.0)
        open_ = np.where(held, 0.0, matrix)
        dependent: list[int] = []
        # Gauss-Jordan: each equation is solved for its largest coefficient.
        for i, text in enumerate(texts):
            size = np.abs(open_[i])
            if not size.max(initial=0.0) > 1e-12 * max(np.abs(matrix[i]).max(), 1e-300):
                rule = "follows from, or contradicts, the other constraints and fixed values"
                raise FitError.of("constraints", text, rule, "leave it out")
            at = int(np.argmax(size))
            dependent.append(at)
            right[:, i] /= open_[i, at]
            open_[i] /= open_[i, at]
            for j in range(count):
                if j != i:
                    right[:, j] -= open_[j, at] * right[:, i]
                    open_[j] -= open_[j, at] * open_[i]
                    open_[j, at] = 0.0
        free = np.array([k for k in range(len(names)) if not held[k] and k not in dependent], int)
        return cls(np.array(dependent, int), free, -open_[:, free], right, tuple(texts))

    def filled(self, values: Array, rows: Array) -> Array:
        """Rows of all parameters with the dependent ones set from the free ones."""
        out = values.copy()
        out[:, self.dependent] = values[:, self.free] @ self.factors.T + self.constant[rows]
        return out

    @property
    def involved(self) -> Array:
        """Numbers of the free parameters that the equations name."""
        return self.free[(self.factors != 0).any(axis=0)]
