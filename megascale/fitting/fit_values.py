"""What the solver found for a batch of problems, and what follows from it by arithmetic alone."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.catalogue import Law, predict
from megascale.fitting.points import Points
from megascale.fitting.refit import EngineJob
from megascale.fitting.residuals import law_residuals, residual_between
from megascale.fitting.restricted import Restrictions
from megascale.fitting.status import AGAINST, Status, weak_parameters
from megascale.fitting.support import unsupported

Array = np.ndarray


class FitValues:
    """Per-problem values, errors, statuses and residuals of one `fit` call.

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
        resample: kind of the bootstrap, or None.
        boot_errors: (problems, replicates, quantities) standard errors of the replicates'
            parameters and derived quantities, or None where the bootstrap keeps none.
        known_noise: whether the points' standard deviations were given as absolute.
        drawn: points, or runs, that a resample of each problem draws.
        runs: the labels given as `runs`, in the caller's order, or None.
        shared: parameters that all problems have in common.
        freedom: degrees of freedom of the noise: points less parameters (with priors, less those
            that the points determine, which is no whole number); of all problems together where
            they share parameters.
        restrictions: priors and constraints of the parameters, or None.
        prior_objective: squared deviations of the parameters from their priors, in units of those.
        chi_freedom: degrees of freedom of `chi_squared`, where priors count as points.
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
        resample: str | None = None,
        boot_errors: Array | None = None,
        job: EngineJob | None = None,
        known_noise: bool = False,
        drawn: Array | None = None,
        runs: Any = None,
        shared: Sequence[str] = (),
        restrictions: Restrictions | None = None,
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
        self.resample = resample
        self.boot_errors = boot_errors
        self.job = job
        self.known_noise = known_noise
        self.drawn = self.points if drawn is None else drawn
        self.runs = runs
        self.shared = tuple(shared)
        self.restrictions = restrictions
        self.prior_objective = diagnostics.get("prior_objective", np.zeros(len(values)))
        self.freedom = diagnostics.get("freedom", self.points - self.free_params)
        self.chi_freedom = diagnostics.get("chi_freedom", self.freedom)
        self.labels = points.labels
        self.label_names: list[str] = []
        self._triangle = triangle
        self._derived_errors = diagnostics.get("derived_errors", np.empty((len(values), 0)))
        if known_noise and not shared and restrictions is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                unit = (self.freedom / self.objective)[:, None]
                self._triangle = triangle * unit
                self._derived_errors = self._derived_errors * np.sqrt(unit)
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
        resample: str | None,
        job: EngineJob,
        known_noise: bool,
        drawn: Array | None,
        runs: Any,
        shared: Sequence[str],
        restrictions: Restrictions | None = None,
    ) -> Self:
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
            resample=resample,
            boot_errors=raw.get("boot_errors"),
            job=job,
            known_noise=known_noise,
            drawn=drawn,
            runs=runs,
            shared=shared,
            restrictions=restrictions,
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
                out[name] = self._derived_errors[:, i]
        return out

    @cached_property
    def _derived(self) -> Array:
        assert self._engine_law is not None
        return _engine.derive(self._engine_law.index, np.ascontiguousarray(self.values))

    @cached_property
    def derived(self) -> dict[str, Array]:
        """Derived quantities of the law (B_min, B_opt, B_crit, ...), by name."""
        if not self._engine_law or not self._engine_law.derived:
            return {}
        return {name: self._derived[:, i] for i, name in enumerate(self._engine_law.derived)}

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

        Infinite where the correction has no meaning: n <= k + 1 with k counting sigma. Problems
        that share parameters have one criterion, of all their points.
        """
        n, square = self.points.astype(float), self.rms**2
        if self.shared:
            square = np.full(len(self), (n * square).sum() / n.sum())
            n = np.full(len(self), n.sum())
        k = n - self.freedom + 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            value = n * np.log(square) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
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
        values = _engine.derive(self._engine_law.index, flat)
        which = self._engine_law.derived.index(name)
        return values[:, which].reshape(self.bootstrap.shape[:2])

    def replicate_errors(self, name: str) -> Array:
        """(problems, replicates) standard errors of `replicates`, where the fit kept them.

        Raises:
            FitError: the bootstrap keeps none, or the law has no such quantity.
        """
        if self.boot_errors is None:
            rule = "keeps no error of a replicate; studentised, wild and wild_runs do"
            raise FitError.of("bootstrap", self.resample, rule, "studentised")
        self[name]
        return self.boot_errors[:, :, [*self.names, *self.derived].index(name)]

    def quantities(self, values: Array) -> dict[str, Array]:
        """Parameters and derived quantities of rows of parameters, by name."""
        out = {name: values[:, i] for i, name in enumerate(self.names)}
        if self._engine_law is not None and self._engine_law.derived:
            derived = _engine.derive(self._engine_law.index, np.ascontiguousarray(values))
            out |= {name: derived[:, i] for i, name in enumerate(self._engine_law.derived)}
        return out

    @property
    def residual_variance(self) -> Array:
        """Variance of a residual of weight 1, an entry a problem; NaN without freedom."""
        total = np.full(len(self), self.objective.sum()) if self.shared else self.objective
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.freedom > 0, total / self.freedom, np.nan)

    def number(self, problem: Any) -> int:
        """The number of a problem, from 0 on.

        Raises:
            FitError: there is no such problem.
        """
        try:
            found = operator.index(problem)
        except TypeError:
            found = -1
        if isinstance(problem, bool) or not 0 <= found < len(self):
            rule = f"must be a whole number from 0 to {len(self) - 1}"
            raise FitError.of("problem", problem, rule, 0)
        return found

    def weak(self, problem: int = 0) -> list[str]:
        """Parameters of one problem that its points hardly determine."""
        return weak_parameters(self.flags[self.number(problem)], self.names)

    def predict(self, *x: Any, problem: int | None = None) -> Array:
        """The law at new inputs: S for tokens-steps laws, otherwise the law's inputs in order.

        Args:
            *x: one array an input. With several problems and no `problem`, the result has the
                problems in front.
            problem: only this one.

        Raises:
            FitError: another number of inputs than the law has.
        """
        columns = [np.asarray(v, float) for v in x]
        if len(columns) != len(self.inputs):
            wanted = ", ".join(self.inputs)
            raise FitError.of("x", f"{len(columns)} inputs", f"{self.law} takes {wanted}")
        if problem is not None or len(self) == 1:
            problem = self.number(problem or 0)
            return self._value({k: v[problem] for k, v in self.params.items()}, columns)
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
        x, y = list(self._points.x), self._points.y
        if self._engine_law is not None:
            return law_residuals(self._engine_law, self.residual, params, x, y)
        return residual_between(self._value(params, x), y, self.residual)
