"""Gaussian priors: what is known of a parameter before the points, its value or its logarithm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megascale.errors import FitError

Array = np.ndarray

_TEXT = re.compile(r"\s*(log\s+)?([A-Za-z_]\w*)\s*~\s*([^()\s]+)\s*\(([^()]+)\)\s*")
EXAMPLE = "p~0.6(0.1)"


@dataclass(frozen=True)
class Priors:
    """Gaussian priors of some parameters of every problem.

    Attributes:
        mean: (problems, parameters), NaN where there is none; of priors of a logarithm the median
            of the parameter itself.
        deviation: (problems, parameters) standard deviation of the parameter, or of its logarithm.
        of_logs: (parameters,) whether a prior is of the logarithm.
    """

    mean: Array
    deviation: Array
    of_logs: Array

    @classmethod
    def of(
        cls, given: Mapping[str, Any], names: Sequence[str], problems: int, fixed: Any = None
    ) -> Priors:
        """From {parameter: (mean, deviation)} or {parameter: (median, deviation, "log")}.

        Args:
            given: numbers, or one a problem.
            names: the law's parameters.
            problems: how many.
            fixed: names of parameters that are held, which have nothing to learn from a prior.

        Raises:
            FitError: an unknown or fixed parameter, or no such pair of numbers.
        """
        if not isinstance(given, Mapping):
            raise FitError.of("priors", given, "must be {parameter: (mean, deviation)}")
        mean = np.full((problems, len(names)), np.nan)
        deviation = np.full((problems, len(names)), np.nan)
        of_logs = np.zeros(len(names), bool)
        for name, said in given.items():
            if name not in names:
                raise FitError.of("priors", name, "the law has no such parameter", list(names))
            if name in (fixed or ()):
                raise FitError.of(
                    "priors", name, "is fixed: nothing is left to learn", "one of both"
                )
            key, at = f"priors[{name}]", list(names).index(name)
            rule = 'must be (mean, deviation), or (median, deviation, "log")'
            if not isinstance(said, (tuple, list)) or len(said) not in (2, 3):
                raise FitError.of(key, said, rule, "(0.6, 0.1)")
            if len(said) == 3 and said[2] != "log":
                raise FitError.of(key, said[2], rule, "log")
            of_logs[at] = len(said) == 3
            for table, value in ((mean, said[0]), (deviation, said[1])):
                table[:, at] = _numbers(key, value, problems)
            if not (deviation[:, at] > 0).all():
                least = float(deviation[:, at].min())
                raise FitError.of(key, least, "the deviation must be positive", 0.1)
            if of_logs[at] and not (mean[:, at] > 0).all():
                least = float(mean[:, at].min())
                raise FitError.of(
                    key, least, "the median must be positive for a prior of the log", 1.0
                )
        return cls(mean, deviation, of_logs)

    @property
    def there(self) -> Array:
        """(parameters,) which have a prior."""
        return ~np.isnan(self.mean).all(axis=0)

    def pulls(self, values: Array, rows: Array) -> Array:
        """(rows, priors): how many deviations parameters lie above their priors.

        Args:
            values: (rows, parameters).
            rows: the problem of each row.
        """
        some = np.flatnonzero(self.there)
        mean, deviation = self.mean[rows][:, some], self.deviation[rows][:, some]
        value = values[:, some]
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.where(self.of_logs[some], np.log(value / mean), value - mean)
        return away / deviation

    def plain(self, names: Sequence[str]) -> dict[str, Any]:
        """As JSON shows them: one number where all problems have the same."""
        out = {}
        for at in np.flatnonzero(self.there).tolist():
            columns = [self.mean[:, at], self.deviation[:, at]]
            mean, deviation = (
                float(c[0]) if np.ptp(c) == 0 else [float(v) for v in c] for c in columns
            )
            out[names[at]] = {
                "mean": mean,
                "deviation": deviation,
                "of_log": bool(self.of_logs[at]),
            }
        return out


def _numbers(key: str, value: Any, problems: int) -> Array:
    """A number, or one a problem.

    Raises:
        FitError: anything else, or not finite.
    """
    try:
        found = np.asarray(value)
        if np.iscomplexobj(found):
            raise FitError.of(key, str(value), "must be real numbers", 0.6)
        out = np.broadcast_to(found.astype(np.float64), (problems,))
    except (TypeError, ValueError):
        rule = f"must be a number, or {problems} numbers"
        raise FitError.of(key, str(value), rule, 0.6) from None
    if not np.isfinite(out).all():
        raise FitError.of(key, "NaN or infinity", "must be finite", 0.6)
    return out


def parse_priors(values: Sequence[str] | None, option: str = "--prior") -> dict[str, Any]:
    """`NAME~MEAN(DEVIATION)` and `log NAME~MEDIAN(DEVIATION)` as `fit` takes priors.

    Raises:
        FitError: an entry is neither, or a parameter is named twice.
    """
    out: dict[str, Any] = {}
    for entry in values or ():
        found = _TEXT.fullmatch(entry)
        try:
            if found is None:
                raise ValueError
            numbers = (float(found[3]), float(found[4]))
        except ValueError:
            rule = "must be NAME~MEAN(DEVIATION), or log NAME~MEDIAN(DEVIATION)"
            raise FitError.of(option, entry, rule, EXAMPLE) from None
        if found[2] in out:
            raise FitError.of(option, entry, "a parameter has one prior", EXAMPLE)
        out[found[2]] = (*numbers, "log") if found[1] else numbers
    return out
