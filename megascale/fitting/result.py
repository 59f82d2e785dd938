"""`FitResult`: what a batch of fits found, and how sure it is."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import orjson
from scipy import stats

from megascale.errors import FitError
from megascale.fitting.curve_intervals import curve_limits
from megascale.fitting.fit_values import FitValues
from megascale.fitting.influence import Influence, leave_one_out
from megascale.fitting.intervals import interval_limits, usual_kind
from megascale.fitting.profile import free_problems, of_any_sign, profile_limits
from megascale.fitting.result_output import (
    many_problems,
    one_problem,
    plain_problems,
    plain_result,
    result_columns,
)
from megascale.fitting.withheld import withheld

Array = np.ndarray

MOST_PROFILED = 500
"""Problems of a result whose tables and JSON work out profile limits by themselves."""


class FitResult(FitValues):
    """Per-problem results of one `fit` call. Index it by a parameter or derived quantity.

    `FitValues` lists its attributes; here are intervals, influence and output.
    """

    @property
    def interval_kind(self) -> str:
        """The kind of interval that `interval` gives when none is named, and that tables show."""
        return usual_kind(self)

    def interval(
        self, name: str, confidence: float | None = None, kind: str | None = None
    ) -> tuple[Array, Array]:
        """Lower and upper limits of a parameter or derived quantity.

        Args:
            name: of the quantity.
            confidence: default that of the fit.
            kind: "wald" (Student's t of the standard error, in the logarithm of positive
                quantities), "percentile" or "studentised" (of the bootstrap), or "profile" (the
                values of a parameter that the points do not refute: for squared losses, and
                where an error is 0, infinite or of the wrong shape). None is `interval_kind`:
                wald without a bootstrap, studentised where replicates have errors, else
                percentile.

        Returns:
            Limits, an entry a problem; NaN where nothing can be said (no freedom, too few points
            for resamples, a tenth of the replicates failed), or where such limits hold the truth
            less or more often than they state: `withheld` says why.

        Raises:
            FitError: the law has no such quantity, or the fit's options do not give this kind.
        """
        level = self.confidence if confidence is None else confidence
        return interval_limits(self, name, kind or self.interval_kind, level)

    def withheld(self, name: str, kind: str | None = None) -> str:
        """Why limits of a quantity are withheld in some problem; empty where they are not.

        Args:
            name: of the quantity.
            kind: as in `interval`; None for those that tables show, profile limits where Wald's
                are withheld.

        Raises:
            FitError: the law has no such quantity.
        """
        self[name]
        hidden, reason = withheld(self, name, kind or self.interval_kind)
        return "" if kind is None and not (hidden & ~self.profiled(name)).any() else reason

    def predict_interval(
        self,
        *x: Any,
        confidence: float | None = None,
        new_points: bool = False,
        sigma: Any = None,
        kind: str | None = None,
        problem: int | None = None,
    ) -> tuple[Array, Array]:
        """Limits of the law at new inputs, or of points that are still to be measured there.

        Args:
            *x: one array an input, as in `predict`.
            confidence: default that of the fit; of each point by itself, not of the whole curve.
            new_points: limits for new points, whose noise is that of the fitted ones (a point of
                weight 1), instead of for the law.
            sigma: standard deviation of the new points, in the unit of y, instead.
            kind: "wald" (delta method) or "percentile" (bootstrap); None is percentile where
                there is a bootstrap.
            problem: only this one; with several problems and none named, they are in front.

        Returns:
            Lower and upper limits, shaped as `predict`.

        Raises:
            FitError: the options contradict each other, or new points of ray noise were asked.
        """
        level = self.confidence if confidence is None else confidence
        kind = kind or ("wald" if self.bootstrap is None else "percentile")
        if kind not in ("wald", "percentile"):
            raise FitError.of("kind", kind, "must be wald or percentile", "wald")
        if sigma is not None and not new_points:
            raise FitError.of("sigma", sigma, "is of new points", "new_points=True")
        columns = [np.asarray(v, float) for v in x]
        if len(columns) != len(self.inputs):
            wanted = ", ".join(self.inputs)
            raise FitError.of("x", f"{len(columns)} inputs", f"{self.law} takes {wanted}")
        low, high = curve_limits(self, columns, level, new_points, sigma, kind)
        if problem is not None or len(self) == 1:
            at = self.number(problem or 0)
            return low[at], high[at]
        return low, high

    def influence(self, problem: int | None = None, runs: Any = None) -> Influence:
        """What a problem's fit becomes without each of its points, or each run: the jackknife.

        Args:
            problem: which; may be left out where there is one.
            runs: a label a point (of all points, in the caller's order) to leave out whole runs;
                default the labels of `fit`'s `runs`, else points one by one.

        Raises:
            FitError: a callable or a Huber loss was fitted, or no problem of several is named.
        """
        if problem is None and len(self) != 1:
            raise FitError.of("problem", None, f"must name one of {len(self)} problems", 0)
        return leave_one_out(self, self.number(problem or 0), self.runs if runs is None else runs)

    @property
    def chi_squared(self) -> Array:
        """The sum of squared residuals in units of the known standard deviations, priors' among
        them; of all problems together where they share parameters.

        Raises:
            FitError: the fit was made without `absolute_sigma`, or with a Huber loss.
        """
        if not self.known_noise:
            rule = "chi-squared needs sigma= and absolute_sigma=True"
            raise FitError.of("absolute_sigma", False, rule, True)
        if self.shared:
            return np.full(len(self), self.objective.sum())
        return self.objective + self.prior_objective

    @property
    def p_value(self) -> Array:
        """The chance of a larger `chi_squared` if the law holds and the deviations are right.

        NaN where there are as many parameters as points.
        """
        freedom = self.chi_freedom
        value = stats.chi2.sf(self.chi_squared, np.maximum(freedom, 1))
        return np.where(freedom > 0, value, np.nan)

    def limits(self, name: str) -> tuple[Array, Array]:
        """Limits as tables and JSON show them, worked out once.

        Those of `interval`, but profile limits where the standard error says nothing (`profiled`).
        """
        if name not in self._interval_cache:
            low, high = self.interval(name)
            which = np.flatnonzero(self.profiled(name))
            if len(which):
                low, high = low.copy(), high.copy()
                low[which], high[which] = profile_limits(self, name, self.confidence, which)
            self._interval_cache[name] = low, high
        return self._interval_cache[name]

    def profiled(self, name: str) -> Array:
        """Problems whose shown limits of a parameter are of the profile likelihood.

        Their standard error is 0, infinite or missing (a bound, a direction that the points do not
        see), or larger than a value that must be positive, or Wald's limits are withheld, though
        the solver converged and the points can tell their noise. Batches of more than
        `MOST_PROFILED` problems are shown without, since profiles take a hundred times as long as
        the fits; ask for that kind there.
        """
        if self.interval_kind != "wald" or self.job is None or name not in self.names:
            return np.zeros(len(self), bool)
        if len(self) > MOST_PROFILED:
            return np.zeros(len(self), bool)
        if self.settings["loss"] != "squared" or self.restrictions is not None:
            return np.zeros(len(self), bool)
        error = self.errors[name]
        with np.errstate(invalid="ignore"):
            silent = ~(np.isfinite(error) & (error > 0))
            silent |= withheld(self, name, "wald")[0]
            if not of_any_sign(name):
                silent |= error > np.abs(self[name])
        known = (self.freedom > 0) & (self.objective > 0)
        return silent & free_problems(self, name) & self.solved & known

    @cached_property
    def _interval_cache(self) -> dict[str, tuple[Array, Array]]:
        return {}

    def problem(self, index: int) -> dict[str, Any]:
        """Everything about one problem as plain Python values."""
        index = self.number(index)
        return next(plain_problems(self, index, index + 1))

    def to_dict(self) -> dict[str, Any]:
        """The whole result as plain Python values (NaN and infinities become None)."""
        return plain_result(self)

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as JSON text; `indent` is None or 2.

        Raises:
            FitError: another indent.
        """
        if indent not in (None, 2):
            raise FitError.of("indent", indent, "must be None or 2", 2)
        option = orjson.OPT_INDENT_2 if indent else None
        return orjson.dumps(self.to_dict(), option=option).decode()

    def to_polars(self) -> Any:
        """One row a problem: group columns, parameters, errors, limits, diagnostics."""
        import polars

        return polars.DataFrame(result_columns(self))

    def to_pandas(self) -> Any:
        """`to_polars` as a pandas frame.

        Raises:
            FitError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            rule = "needs pandas, which is not installed"
            raise FitError.of("to_pandas", "()", rule, "pip install pandas, or to_polars") from None
        return pandas.DataFrame(result_columns(self))

    def summary(self, limit: int = 20) -> str:
        """A table to read: one problem in full, or one line a problem."""
        return one_problem(self) if len(self) == 1 else many_problems(self, limit)

    def __repr__(self) -> str:
        return self.summary()
