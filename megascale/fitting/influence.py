"""How much a fit owes to each of its points or runs: the jackknife."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting.refit import engine_job, refit
from megascale.formats.plain_table import plain_lines

Array = np.ndarray


@dataclass(frozen=True)
class Influence:
    """What a problem's fit becomes without each of its points, or runs.

    Attributes:
        left_out: the row of the point in the caller's arrays, or the run's label.
        values: {parameter or derived quantity: value without it, one entry a `left_out`}; NaN
            where the rest cannot determine the law.
        full: the values with all points.
        errors: jackknife standard errors, sqrt((n - 1) / n sum (value - mean)^2); NaN where a
            point is indispensable.
        shifts: (full - value) / standard error of the fit (the jackknife's where that has none).
    """

    left_out: list[Any]
    values: dict[str, Array]
    full: dict[str, float]
    errors: dict[str, float]
    shifts: dict[str, Array]

    def most(self, name: str) -> Any:
        """The point or run whose absence moves a quantity most; one without which the law cannot
        be fitted counts as such.

        Raises:
            FitError: no such quantity.
        """
        if name not in self.shifts:
            raise FitError.of("parameter", name, "is not a quantity of the law", list(self.shifts))
        size = np.abs(self.shifts[name])
        return self.left_out[int(np.argmax(np.where(np.isnan(size), np.inf, size)))]

    def __repr__(self) -> str:
        names = list(self.values)
        rows = [
            [str(left), *(f"{self.values[name][i]:.4g}" for name in names)]
            for i, left in enumerate(self.left_out)
        ]
        rows.append(["all", *(f"{self.full[name]:.4g}" for name in names)])
        rows.append(["error", *(f"{self.errors[name]:.2g}" for name in names)])
        return "\n".join(plain_lines(["without", *names], rows))


def leave_one_out(result: Any, problem: int, runs: Any) -> Influence:
    """`FitResult.influence`: refits one problem without each point, or each run.

    Args:
        result: a `FitResult`.
        problem: which problem.
        runs: a label a point of all the result's points in the caller's order, or None.

    Raises:
        FitError: a callable or a Huber loss was fitted, or there is one run only.
    """
    job = engine_job(result, "influence")
    points = result._points
    begin, end = int(points.offsets[problem]), int(points.offsets[problem + 1])
    rows = np.arange(begin, end)
    if runs is None:
        if result._weights is not None:
            rows = rows[result._weights[rows] > 0]
        left_out: list[Any] = [int(r if points.order is None else points.order[r]) for r in rows]
        absent = rows[:, None] == np.arange(begin, end)[None, :]
    else:
        labels = points.rearrange(runs, "runs")[begin:end]
        names, number = np.unique(labels, return_inverse=True)
        if len(names) < 2:
            raise FitError.of("runs", names[0], "one run of all points leaves none", "two runs")
        left_out = names.tolist()
        absent = np.arange(len(names))[:, None] == number[None, :]
    which = np.full(len(left_out), problem)
    raw = refit(job, points, result._weights, which, kept=np.where(absent, 0.0, 1.0).ravel())
    values = result.quantities(raw["params"])
    full = {name: float(result[name][problem]) for name in values}
    n = len(left_out)
    errors, shifts = {}, {}
    for name, value in values.items():
        errors[name] = float(np.sqrt((n - 1) / n * ((value - value.mean()) ** 2).sum()))
        own = float(result.errors[name][problem])
        with np.errstate(invalid="ignore", divide="ignore"):
            shifts[name] = (full[name] - value) / (own if own > 0 else errors[name])
    return Influence(left_out, values, full, errors, shifts)
