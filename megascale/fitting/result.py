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
from megascale.fitting.points import Points
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
        self.labels = points.labels
        self.label_names: list[str] = []
        self._triangle = triangle
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

    def interval(self, name: str, confidence: float | None = None) -> tuple[Array, Array]:
        """Lower and upper limits of a parameter or derived quantity.

        Percentiles of the bootstrap where there is one. Otherwise Student-t from the covariance,
        in the logarithm for positive quantities; these cover less than they claim (5 to 9 points
        at 90 % for tokens-steps laws of 8 to 24 points).
        """
        level = self.confidence if confidence is None else confidence
        if self.bootstrap is not None:
            tail = 50 * (1 - level)
            values = self.replicates(name)
            with np.errstate(invalid="ignore"):
                low, high = _percentiles(values, tail)
            return low, high
        value, error = self[name], self.errors[name]
        freedom = np.maximum(self.points - self.free_params, 1)
        reach = stats.t.ppf(0.5 + level / 2, freedom)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            ratio = np.exp(reach * error / np.abs(value))
            positive = value > 0
            low = np.where(positive, value / ratio, value - reach * error)
            high = np.where(positive, value * ratio, value + reach * error)
        return low, high

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
        lines += plain_lines(["", "value", "error", f"{percent} low", "high", ""], rows)
        lines += [f"note: {text}" for flag, text in FLAG_TEXT.items() if Flag(flag) & self.flags[0]]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _percentiles(values: Array, tail: float) -> tuple[Array, Array]:
    bad = ~np.isfinite(values)
    if not bad.any():
        low, high = np.percentile(values, [tail, 100 - tail], axis=1)
        return low, high
    out = np.full((2, len(values)), np.nan)
    for i, row in enumerate(values):
        good = row[np.isfinite(row)]
        if len(good) > 1:
            out[:, i] = np.percentile(good, [tail, 100 - tail])
    return out[0], out[1]


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
