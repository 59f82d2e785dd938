"""Limits that are not shown because they hold the truth less, or more, often than they state.

Each rule is what docs/coverage.md measured: below so many points, or for such a law, the share of
stated 90 % limits that hold the truth leaves 85 to 95 %. Limits of a better kind take their place
where there is one: profile limits in tables, another `kind=` where it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray

WILD = ("wild", "wild_runs")
FLOOR = ("B_min", "p", "q", "B_opt", "S_opt")
"""Quantities of `noise_floor` that lie where the floor is hardly seen."""


@dataclass(frozen=True)
class Rule:
    """What is withheld.

    Attributes:
        kind: of limits.
        reason: in words.
        resample: kinds of bootstrap that the limits come from; empty for all.
        laws: empty for all.
        but: laws that it does not hold for.
        names: parameters and derived quantities; empty for all.
        below: points under which it holds; None for any number.
        spare: points beyond the parameters under which it holds, in place of `below`.
        lost: whether it holds where a free parameter has no error.
    """

    kind: str
    reason: str
    resample: tuple[str, ...] = ()
    laws: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    below: int | None = None
    spare: int | None = None
    lost: bool = False

    def problems(self, result: Any, name: str, kind: str) -> Array:
        """(problems,) that it withholds."""
        none = np.zeros(len(result), bool)
        if kind != self.kind or (self.resample and result.resample not in self.resample):
            return none
        if (self.laws and result.law not in self.laws) or result.law in self.but:
            return none
        if self.names and name not in self.names:
            return none
        if self.lost:
            return np.any([np.isnan(result.errors[name]) for name in result.names], axis=0)
        if self.spare is not None:
            return result.points < result.free_params + self.spare
        return ~none if self.below is None else result.points < self.below


BY_PROFILE = "profile limits of its parameters hold it"
PARAMETRIC = "take bootstrap='parametric'"


def _held(what: str, low: int, high: int, instead: str) -> str:
    return f"{what} hold the truth in {low} to {high} % for a stated 90; {instead}"


RULES = (
    Rule(
        "wald",
        _held("Wald limits of its floor and optimum, below 8 points,", 69, 83, BY_PROFILE),
        laws=("noise_floor",),
        names=FLOOR,
        below=8,
    ),
    Rule(
        "wald",
        _held("Wald limits, where a parameter has run to a bound,", 0, 75, BY_PROFILE),
        laws=("noise_floor",),
        names=(*FLOOR, "E_min"),
        lost=True,
    ),
    Rule(
        "wald",
        _held("Wald limits of a joint between branches", 71, 78, "profile limits hold it"),
        laws=("wsd",),
        names=("S_1",),
    ),
    Rule(
        "profile",
        _held("profile limits of a joint between branches", 79, 89, "Wald limits hold it"),
        laws=("wsd",),
        names=("S_opt",),
    ),
    Rule(
        "percentile",
        _held("percentiles of its floor and optimum, below 8 points,", 78, 82, BY_PROFILE),
        resample=("parametric",),
        laws=("noise_floor",),
        names=FLOOR,
        below=8,
    ),
    Rule(
        "percentile",
        _held("resampled points, which lose a branch or the floor,", 76, 99, PARAMETRIC),
        resample=("pairs",),
        laws=("wsd", "noise_floor"),
    ),
    Rule(
        "percentile",
        _held("fewer than 16 points drawn with replacement", 77, 98, PARAMETRIC),
        resample=("pairs",),
        but=("power_law_1", "power_law_2", "power_law_3", "power_law_4"),
        below=16,
    ),
    Rule(
        "percentile",
        _held("wild residuals of this law", 67, 98, PARAMETRIC),
        resample=WILD,
        laws=("wsd", "noise_floor"),
    ),
    Rule(
        "percentile",
        _held("wild residuals of E_min, which few points tell,", 78, 91, PARAMETRIC),
        resample=WILD,
        laws=("two_power",),
        names=("E_min",),
    ),
    Rule(
        "percentile",
        _held("wild residuals of fewer than p + 4 points", 95, 98, PARAMETRIC),
        resample=("wild",),
        spare=4,
    ),
)
"""Measured with 400 studies each (docs/coverage.md)."""


def withheld(result: Any, name: str, kind: str) -> tuple[Array, str]:
    """Problems whose limits of a quantity are withheld, and why.

    Args:
        result: a `FitResult`.
        name: a parameter or derived quantity.
        kind: of limits.

    Returns:
        ((problems,), reason in words; empty where nothing is withheld).
    """
    hidden, reasons = np.zeros(len(result), bool), []
    if result.shared:
        return hidden, ""
    for rule in RULES:
        some = rule.problems(result, name, kind)
        if some.any():
            hidden |= some
            reasons.append(rule.reason)
    return hidden, "; ".join(reasons)
