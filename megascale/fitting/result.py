"""`FitResult`: what a batch of fits found, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from scipy import stats

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.catalogue import Law, predict
from megascale.fitting.curve_intervals import curve_limits
from megascale.fitting.influence import Influence, leave_one_out
from megascale.fitting.intervals import limits, usual_kind
from megascale.fitting.points import Points
from megascale.fitting.refit import EngineJob
from megascale.fitting.status import (
    AGAINST,
    FLAG_TEXT,
    Flag,
    Status,
    flag_words,
    status_words,
    weak_parameters,
)
from megascale.fitting.support import unsupported
from megascale.formats.plain_table import plain_lines
from megascale.formats.tokens_to_loss import steps_at_batch, tokens_at_batch

Array = np.ndarray


class FitResult:
    """Per-problem results of one `fit` call. Index it by a parameter or derived quantity.

    Attributes:
        law: name of the law.
        params: {name: array over problems}, in the user's units.
        objective: sum of squared residuals (or of Huber losses).
        rms: root mean squared residual, in units of the residual kind.
        r_squared: against the best constant, in the residual's own metric.
        points, free_params, iterations, starts, agreeing: counts a problem; `agreeing` starts
            reached the reported optimum.
        solver_status: codes of `Status`, what the solver says without a look at the points.
        covariance: (problems, P, P), NaN where there is no freedom.
        bootstrap: (problems, replicates, P) parameters, or None.
        boot_triangle: (problems, replicates, P (P + 1) / 2) lower triangles of the replicates'
            covariances, or None where the bootstrap keeps none.
        known_noise: whether the points' standard deviations were given as absolute.
        drawn: points, or runs, that a resample of each problem draws.
        runs: the labels given as `runs`, in the caller's order, or None.
        labels: the group label of every problem, or None.
    """

    def __init__(
        self,
        *,
        law: str,
        names: tuple[str, ...],
        target: str,
        inputs: tuple[str, ...],
        residual: str,
        values: Array,
        triangle: Array,
        diagnostics: dict[str, Array],
        points: Points,
        confidence: float,
        weights: Array | None,
        settings: dict[str, Any],
        bootstrap: Array | None,
        bootstrap_objective: Array | None,
        engine_law: Law | None,
        predictor: Any,
        boot_triangle: Array | None = None,
        job: EngineJob | None = None,
        known_noise: bool = False,
        drawn: Array | None = None,
        runs: Any = None,
    ) -> None:
        self.law = law
        self.names = names
        self.target = target
        self.inputs = inputs
        self.residual = residual
        self.values = values
        self.params = {name: values[:, i] for i, name in enumerate(names)}
        self.objective = diagnostics["objective"]
        self.rms = diagnostics["rms"]
        self.r_squared = diagnostics["r_squared"]
        self.points = diagnostics["points"]
        self.free_params = diagnostics["free_params"]
        self.iterations = diagnostics["iterations"]
        self.starts = diagnostics["starts"]
        self.agreeing = diagnostics["agreeing"]
        self.solver_status = diagnostics["status"]
        self._solver_flags = diagnostics["flags"]
        self.bad_row = diagnostics["bad_row"]
        self.confidence = confidence
        self.settings = settings
        self.bootstrap = bootstrap
        self.bootstrap_objective = bootstrap_objective
        self.boot_triangle = boot_triangle
        self.job = job
        self.known_noise = known_noise
        self.drawn = self.points if drawn is None else drawn
        self.runs = runs
        self.labels = points.labels
        self.label_names: list[str] = []
        self._triangle = triangle
        if known_noise:
            freedom = self.points - self.free_params
            with np.errstate(divide="ignore", invalid="ignore"):
                self._triangle = triangle * (freedom / self.objective)[:, None]
        self._points = points
        self._weights = weights
        self._engine_law = engine_law
        self._predictor = predictor

    @classmethod
    def from_engine(
        cls,
        *,
        law: Law,
        residual: str,
        raw: dict[str, Any],
        points: Points,
        confidence: float,
        weights: Array | None,
        settings: dict[str, Any],
        job: EngineJob,
        known_noise: bool,
        drawn: Array | None,
        runs: Any,
    ) -> FitResult:
        """Wraps what `_engine.fit` returned."""
        return cls(
            law=law.name,
            names=law.params,
            target=law.target,
            inputs=law.inputs,
            residual=residual,
            values=raw["params"],
            triangle=raw["covariance"],
            diagnostics=raw,
            points=points,
            confidence=confidence,
            weights=weights,
            settings=settings,
            bootstrap=raw.get("boot_params"),
            bootstrap_objective=raw.get("boot_objective"),
            engine_law=law,
            predictor=None,
            boot_triangle=raw.get("boot_covariance"),
            job=job,
            known_noise=known_noise,
            drawn=drawn,
            runs=runs,
        )

    def __len__(self) -> int:
        return len(self.objective)

    @cached_property
    def flags(self) -> Array:
        """Bits of `Flag` a problem; the sixteen lowest mark weak parameters."""
        own = self._solver_flags.astype(np.int64)
        if self._engine_law is None:
            return own
        against = unsupported(
            self._engine_law, self.params, self.derived, self._points, self._weights
        )
        return own | np.where(self.solved, against, 0)

    @cached_property
    def status(self) -> Array:
        """Codes of `Status`: the solver's, or `UNSUPPORTED` where the points refute its answer."""
        refuted = self.solved & ((self.flags & int(AGAINST)) != 0)
        return np.where(refuted, int(Status.UNSUPPORTED), self.solver_status)

    @property
    def solved(self) -> Array:
        """True for problems whose solver converged, whatever their points say of the law."""
        return self.solver_status == int(Status.CONVERGED)

    @property
    def converged(self) -> Array:
        """True for problems whose solver converged on a law that their points support."""
        return self.status == int(Status.CONVERGED)

    @cached_property
    def covariance(self) -> Array:
        """(problems, P, P) covariance of the parameters, in the user's units."""
        count = len(self.names)
        out = np.empty((len(self), count, count))
        rows, columns = np.tril_indices(count)
        out[:, rows, columns] = self._triangle
        out[:, columns, rows] = self._triangle
        return out

    @cached_property
    def errors(self) -> dict[str, Array]:
        """Standard errors of parameters and derived quantities."""
        diagonal = [i * (i + 1) // 2 + i for i in range(len(self.names))]
        with np.errstate(invalid="ignore"):
            own = np.sqrt(self._triangle[:, diagonal])
        out = {name: own[:, i] for i, name in enumerate(self.names)}
        if self._engine_law and self._engine_law.derived:
            for i, name in enumerate(self._engine_law.derived):
                out[name] = self._derived[1][:, i]
        return out

    @cached_property
    def _derived(self) -> tuple[Array, Array]:
        assert self._engine_law is not None
        return _engine.derive(
            self._engine_law.index,
            np.ascontiguousarray(self.values),
            np.ascontiguousarray(self._triangle),
        )

    @cached_property
    def derived(self) -> dict[str, Array]:
        """Derived quantities of the law (B_min, B_opt, B_crit, ...), by name."""
        if not self._engine_law or not self._engine_law.derived:
            return {}
        return {name: self._derived[0][:, i] for i, name in enumerate(self._engine_law.derived)}

    def __getitem__(self, name: str) -> Array:
        if name in self.params:
            return self.params[name]
        if name in self.derived:
            return self.derived[name]
        legal = [*self.names, *self.derived]
        raise FitError.of("parameter", name, f"{self.law} has no such quantity", legal)

    @cached_property
    def aicc(self) -> Array:
        """Akaike's criterion with the small-sample correction, Gaussian residuals, sigma fitted.

        Infinite where the correction has no meaning: n <= k + 1 with k counting sigma.
        """
        n = self.points.astype(float)
        k = self.free_params + 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            value = n * np.log(self.rms**2) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
        return np.where(n > k + 1, value, np.inf)

    def replicates(self, name: str) -> Array:
        """(problems, replicates) bootstrap values of a parameter or derived quantity.

        Raises:
            FitError: the fit was made without a bootstrap, or the law has no such quantity.
        """
        if self.bootstrap is None:
            raise FitError.of("bootstrap", None, "fit with bootstrap= to get replicates")
        if name in self.params:
            return self.bootstrap[:, :, self.names.index(name)]
        self[name]
        assert self._engine_law is not None
        flat = np.ascontiguousarray(self.bootstrap.reshape(-1, len(self.names)))
        none = np.zeros((len(flat), self._triangle.shape[1]))
        values, _ = _engine.derive(self._engine_law.index, flat, none)
        which = self._engine_law.derived.index(name)
        return values[:, which].reshape(self.bootstrap.shape[:2])

    def replicate_errors(self, name: str) -> Array:
        """(problems, replicates) standard errors of `replicates`, where the fit kept them.

        Raises:
            FitError: the bootstrap keeps none, or the law has no such quantity.
        """
        if self.bootstrap is None or self.boot_triangle is None:
            rule = "keeps no error of a replicate; studentised, wild and wild_runs do"
            raise FitError.of("bootstrap", self.settings.get("bootstrap"), rule, "studentised")
        shape = self.bootstrap.shape[:2]
        if name in self.params:
            i = self.names.index(name)
            with np.errstate(invalid="ignore"):
                return np.sqrt(self.boot_triangle[:, :, i * (i + 1) // 2 + i])
        self[name]
        assert self._engine_law is not None
        _, errors = _engine.derive(
            self._engine_law.index,
            np.ascontiguousarray(self.bootstrap.reshape(-1, len(self.names))),
            np.ascontiguousarray(self.boot_triangle.reshape(-1, self.boot_triangle.shape[2])),
        )
        return errors[:, self._engine_law.derived.index(name)].reshape(shape)

    def quantities(self, values: Array) -> dict[str, Array]:
        """Parameters and derived quantities of rows of parameters, by name."""
        out = {name: values[:, i] for i, name in enumerate(self.names)}
        if self._engine_law is not None and self._engine_law.derived:
            none = np.zeros((len(values), self._triangle.shape[1]))
            rows = np.ascontiguousarray(values)
            derived, _ = _engine.derive(self._engine_law.index, rows, none)
            out |= {name: derived[:, i] for i, name in enumerate(self._engine_law.derived)}
        return out

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
            Limits, an entry a problem; NaN where nothing can be said: no freedom, too few points
            for resamples, or a tenth of the replicates failed.

        Raises:
            FitError: the law has no such quantity, or the fit's options do not give this kind.
        """
        level = self.confidence if confidence is None else confidence
        return limits(self, name, kind or self.interval_kind, level)

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
            return low[problem or 0], high[problem or 0]
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
        return leave_one_out(self, problem or 0, self.runs if runs is None else runs)

    @property
    def chi_squared(self) -> Array:
        """The sum of squared residuals in units of the known standard deviations.

        Raises:
            FitError: the fit was made without `absolute_sigma`, or with a Huber loss.
        """
        if not self.known_noise:
            rule = "chi-squared needs sigma= and absolute_sigma=True"
            raise FitError.of("absolute_sigma", False, rule, True)
        return self.objective

    @property
    def p_value(self) -> Array:
        """The chance of a larger `chi_squared` if the law holds and the deviations are right.

        NaN where there are as many parameters as points.
        """
        freedom = self.points - self.free_params
        value = stats.chi2.sf(self.chi_squared, np.maximum(freedom, 1))
        return np.where(freedom > 0, value, np.nan)

    def weak(self, problem: int = 0) -> list[str]:
        """Parameters of one problem that its points hardly determine."""
        return weak_parameters(self.flags[problem], self.names)

    def predict(self, *x: Any, problem: int | None = None) -> Array:
        """The law at new inputs: S for tokens-steps laws, otherwise the law's inputs in order.

        Args:
            *x: one array an input. With several problems and no `problem`, the result has the
                problems in front.
            problem: only this one.
        """
        columns = [np.asarray(v, float) for v in x]
        if len(columns) != len(self.inputs):
            wanted = ", ".join(self.inputs)
            raise FitError.of("x", f"{len(columns)} inputs", f"{self.law} takes {wanted}")
        if problem is not None or len(self) == 1:
            return self._value({k: v[problem or 0] for k, v in self.params.items()}, columns)
        shape = (len(self),) + (1,) * max(c.ndim for c in columns)
        return self._value({k: v.reshape(shape) for k, v in self.params.items()}, columns)

    def _value(self, params: dict[str, Any], columns: list[Array]) -> Array:
        if self._predictor is not None:
            return self._predictor(params, columns)
        return predict(self.law, params, columns)

    @cached_property
    def residuals(self) -> Array:
        """Residual of every point in the order of the flat columns, in the fit's residual kind."""
        repeat = np.diff(self._points.offsets)
        params = {k: np.repeat(v, repeat) for k, v in self.params.items()}
        x, y = self._points.x, self._points.y
        with np.errstate(invalid="ignore", divide="ignore"):
            if self._engine_law is not None and self._engine_law.tokens_steps:
                batch = y / x[0]
                if self.residual == "ray" and self.law == "wsd":
                    return np.log(steps_at_batch(self.law, params, batch) / x[0])
                if self.residual == "ray" and self.law == "classic":
                    return tokens_at_batch(self.law, params, batch) / y - 1
                if self.law in ("noise_floor", "two_power"):
                    value = tokens_at_batch(self.law, params, batch)
                else:
                    value = self._value(params, list(x))
            else:
                value = self._value(params, list(x))
            if self.residual in ("log", "ray"):
                return np.log(value / y)
            return value / y - 1 if self.residual == "relative" else value - y

    def problem(self, index: int) -> dict[str, Any]:
        """Everything about one problem as plain Python values."""
        return next(iter(self._problems(index, index + 1)))

    def _problems(self, begin: int, end: int) -> Iterator[dict[str, Any]]:
        """`problem` of a stretch of problems; columns are turned into Python values at once."""
        some = slice(begin, end)
        values = []
        for name in (*self.names, *self.derived):
            low, high = self._limits(name)
            columns = [_finite(c[some]) for c in (self[name], self.errors[name], low, high)]
            cells = [
                {"value": value, "error": error, "low": lower, "high": upper}
                for value, error, lower, upper in zip(*columns, strict=True)
            ]
            values.append((name, cells))
        measures = ("objective", "rms", "r_squared", "aicc")
        counts = ("points", "free_params", "iterations", "starts", "agreeing")
        measured = [_finite(getattr(self, name)[some]) for name in measures]
        counted = [getattr(self, name)[some].tolist() for name in counts]
        words = {code: status_words(code) for code in np.unique(self.status[some]).tolist()}
        flags = {
            code: (weak_parameters(code, self.names), flag_words(code))
            for code in np.unique(self.flags[some]).tolist()
        }
        statuses, codes = self.status[some].tolist(), self.flags[some].tolist()
        for i in range(len(statuses)):
            row: dict[str, Any] = {}
            if self.labels is not None:
                row["group"] = _plain(self.labels[begin + i])
            row["status"] = words[statuses[i]]
            row["params"] = {name: column[i] for name, column in values}
            for name, column in zip((*measures, *counts), (*measured, *counted), strict=True):
                row[name] = column[i]
            weak, said = flags[codes[i]]
            row["weak"], row["flags"] = list(weak), list(said)
            yield row

    def _limits(self, name: str) -> tuple[Array, Array]:
        if name not in self._interval_cache:
            self._interval_cache[name] = self.interval(name)
        return self._interval_cache[name]

    @cached_property
    def _interval_cache(self) -> dict[str, tuple[Array, Array]]:
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The whole result as plain Python values (NaN and infinities become None)."""
        return {
            "law": self.law,
            "residual": self.residual,
            "confidence": self.confidence,
            "interval_kind": self.interval_kind,
            "bootstrap_replicates": 0 if self.bootstrap is None else self.bootstrap.shape[1],
            **{k: v for k, v in self.settings.items() if v is not None},
            "group_names": self.label_names,
            "problems": list(self._problems(0, len(self))),
        }

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

        return polars.DataFrame(self._table())

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
        return pandas.DataFrame(self._table())

    def _table(self) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        if self.labels is not None:
            names = self.label_names or ["group"]
            for i, name in enumerate(names):
                columns[name] = [v[i] if isinstance(v, tuple) else v for v in self.labels]
        for name in (*self.names, *self.derived):
            low, high = self._limits(name)
            columns[name] = self[name]
            columns[f"{name}_error"] = self.errors[name]
            columns[f"{name}_low"], columns[f"{name}_high"] = low, high
        for name in ("objective", "rms", "r_squared", "aicc", "points", "iterations", "starts"):
            columns[name] = getattr(self, name)
        columns["status"] = [status_words(s) for s in self.status]
        columns["weak"] = [", ".join(self.weak(i)) for i in range(len(self))]
        columns["flags"] = [", ".join(flag_words(f)) for f in self.flags]
        return columns

    def summary(self, limit: int = 20) -> str:
        """A table to read: one problem in full, or one line a problem."""
        if len(self) == 1:
            return self._one()
        lines = [f"{self.law}: {len(self)} problems, {int(self.converged.sum())} converged"]
        shown = (*self.names, *self.derived)
        head = ["problem", *shown, "rms", "status"]
        rows = []
        for i in range(min(limit, len(self))):
            label = str(self.labels[i]) if self.labels is not None else str(i)
            cells = [label, *(f"{self[name][i]:.4g}" for name in shown)]
            mark = "*" if self.weak(i) else ""
            rows.append([*cells, f"{self.rms[i]:.3g}", status_words(self.status[i]) + mark])
        lines += plain_lines(head, rows)
        if len(self) > limit:
            lines.append(f"... {len(self) - limit} more")
        if any(row[-1].endswith("*") for row in rows):
            lines.append("* some parameters are weakly determined, see .weak(problem)")
        for flag in (Flag.NEVER_REACHED, Flag.ABOVE_NOISE, Flag.OUTSIDE):
            hit = np.flatnonzero(self.flags & int(flag))
            if len(hit):
                which = ", ".join(str(self.labels[i] if self.labels else i) for i in hit[:5])
                more = f" and {len(hit) - 5} more" if len(hit) > 5 else ""
                lines.append(f"unsupported: {FLAG_TEXT[flag]}: {which}{more}")
        return "\n".join(lines)

    def _one(self) -> str:
        n, k = int(self.points[0]), int(self.free_params[0])
        lines = [
            f"{self.law}: {status_words(self.status[0])}, {n} points, {k} free parameters, "
            f"rms {self.rms[0]:.4g} ({self.residual}), R^2 {self.r_squared[0]:.5f}, "
            f"AICc {self.aicc[0]:.2f}"
        ]
        weak = self.weak(0)
        rows = []
        for name in (*self.names, *self.derived):
            low, high = self._limits(name)
            note = "weak" if name in weak else ""
            cells = (self[name][0], self.errors[name][0], low[0], high[0])
            rows.append([name, *(f"{v:.5g}" for v in cells), note])
        percent = f"{100 * self.confidence:g} %"
        if self.known_noise:
            lines[0] += f", chi^2 {self.chi_squared[0]:.4g} (p = {self.p_value[0]:.2g})"
        lines.append(f"{percent} limits: {self.interval_kind}")
        lines += plain_lines(["", "value", "error", f"{percent} low", "high", ""], rows)
        lines += [f"note: {text}" for flag, text in FLAG_TEXT.items() if Flag(flag) & self.flags[0]]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _finite(column: Array) -> list[float | None]:
    """A column as Python numbers, None where it is not finite."""
    values: list[float | None] = column.tolist()
    for i in np.flatnonzero(~np.isfinite(column)):
        values[i] = None
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value
