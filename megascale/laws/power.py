"""Power laws of N and D, f = coef N^a D^b, with the covariance that law files keep."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megascale import fitting
from megascale.arrays import Array
from megascale.errors import FitError
from megascale.formats.law_file import Parameter
from megascale.formats.power_form import log_power, log_square
from megascale.formats.student_t import student_reach
from megascale.laws.clusters import clustered_covariance
from megascale.laws.exponents import choose_exponents

EXPONENTS = ("a", "b")


@dataclass(frozen=True)
class PowerLaw:
    """f = coef N^a D^b, with N in parameters and D in tokens.

    Attributes:
        coef, a, b: the law; an exponent that was not fitted is 0.
        covariance: 3 x 3, of (log coef, a, b); NaN where the points leave no freedom.
        rms: of log f around the law.
        r_squared: of log f.
        points: how many were fitted.
        with_n: whether `a` was fitted.
        n_range, d_range: of the points; N's is None where they do not say.
        freedom: degrees of freedom of the covariance, for Student's t.
        left_out: exponents ("a", "b") that the points cannot give, and why.
    """

    coef: float
    a: float
    b: float
    covariance: Array
    rms: float
    r_squared: float
    points: int
    with_n: bool
    n_range: tuple[float, float] | None
    d_range: tuple[float, float]
    freedom: float = 1.0
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def parameters_fitted(self) -> int:
        """Coefficient and exponents."""
        return 1 + self.with_n + ("b" not in self.left_out)

    def _logs(
        self, n_params: npt.ArrayLike | None, tokens: npt.ArrayLike
    ) -> tuple[Array | float, Array]:
        d = np.log(np.asarray(tokens, dtype=np.float64))
        if not self.with_n:
            return 0.0, d
        if n_params is None:
            raise FitError.of("n_params", None, "the law depends on N")
        return np.log(np.asarray(n_params, dtype=np.float64)), d

    def at(self, n_params: npt.ArrayLike | None, tokens: npt.ArrayLike) -> Array:
        """f(N, D). N may be None for a law without it."""
        log_f = log_power(np.log(self.coef), self.a, self.b, *self._logs(n_params, tokens))
        return np.exp(np.asarray(log_f))

    def log_error(self, n_params: npt.ArrayLike | None, tokens: npt.ArrayLike) -> Array:
        """Standard error of log f(N, D); NaN where the points leave no freedom."""
        square = log_square(self.covariance.tolist(), *self._logs(n_params, tokens))
        return np.sqrt(np.maximum(np.asarray(square), 0.0))

    def reach(self, confidence: float) -> float:
        """How many standard errors of log f an interval extends to either side."""
        return student_reach(confidence, self.freedom)

    def band(
        self, n_params: npt.ArrayLike | None, tokens: npt.ArrayLike, confidence: float = 0.9
    ) -> tuple[Array, Array]:
        """Low and high end of f(N, D), by Student's t; NaN where the points leave no freedom."""
        with np.errstate(over="ignore"):
            factor = np.exp(self.reach(confidence) * self.log_error(n_params, tokens))
        middle = self.at(n_params, tokens)
        return middle / factor, middle * factor

    def check(self) -> None:
        """Stop at a law that is none.

        Raises:
            FitError: a number is not finite, or the coefficient is not positive.
        """
        for name, value in (("coef", self.coef), ("a", self.a), ("b", self.b)):
            if not np.isfinite(value) or (name == "coef" and value <= 0):
                rule = "is no finite number, or no positive coefficient: the points make no law"
                raise FitError.of(name, value, rule)

    def parameters(self, unit: str, confidence: float = 0.9) -> dict[str, Parameter]:
        """coef, a and b as a law file's parameters; `unit` is that of f.

        An interval that exceeds what a number can hold, and those of a law without freedom, are
        left open.

        Raises:
            FitError: as `check`.
        """
        self.check()
        error = self.reach(confidence) * np.sqrt(np.diag(self.covariance))
        log_coef = np.log(self.coef)
        with np.errstate(over="ignore"):
            limits = {
                "coef": (np.exp(log_coef - error[0]), np.exp(log_coef + error[0])),
                "a": (self.a - error[1], self.a + error[1]),
                "b": (self.b - error[2], self.b + error[2]),
            }
        values = {"coef": self.coef, "a": self.a, "b": self.b}
        made = {}
        for name, (low, high) in limits.items():
            known = np.isfinite([low, high]).all() and (name != "coef" or low > 0)
            made[name] = Parameter(
                value=values[name],
                low=float(low) if known else None,
                high=float(high) if known else None,
                unit=unit if name == "coef" else "",
            )
        return made


def fit_power(
    values: npt.ArrayLike,
    tokens: npt.ArrayLike,
    n_params: npt.ArrayLike | None = None,
    *,
    weights: npt.ArrayLike | None = None,
    clusters: npt.ArrayLike | None = None,
) -> PowerLaw:
    """Least squares in logs; exponents that the points cannot give are left out, and said.

    Args:
        values: f, positive.
        tokens: D.
        n_params: N, or None for a law of D alone.
        weights: of the squared log residuals.
        clusters: a label a point; points of one label share errors, and the covariance is that of
            `clusters.clustered_covariance`.

    Raises:
        FitError: fewer points than parameters, or neither N nor D varies enough for an exponent.
    """
    f = np.asarray(values, dtype=np.float64)
    d = np.asarray(tokens, dtype=np.float64)
    n = None if n_params is None else np.asarray(n_params, dtype=np.float64)
    columns = {"b": d} if n is None else {"a": n, "b": d}
    fitted, left_out = choose_exponents(columns, f, weights)
    result = fitting.fit(
        "power_law",
        np.stack([columns[name] for name in fitted]),
        f,
        weights=weights,
        residual="log",
        errors="raise",
    )
    coef = float(result["coefficient"][0])
    exponent = dict.fromkeys(EXPONENTS, 0.0) | {
        name: float(result[f"exponent_{i + 1}"][0]) for i, name in enumerate(fitted)
    }
    design = np.stack([np.ones(len(f)), *(np.log(columns[name]) for name in fitted)], axis=1)
    theta = np.array([np.log(coef), *(exponent[name] for name in fitted)])
    residual = np.log(f) - design @ theta
    freedom = len(f) - len(theta)
    if clusters is None:
        own = result.covariance[0].copy()
        own[0, :] /= coef
        own[:, 0] /= coef
    else:
        own, groups = clustered_covariance(design, residual, weights, clusters)
        freedom = groups - len(theta)
    order = [0, *(1 + EXPONENTS.index(name) for name in fitted)]
    covariance = np.zeros((3, 3))
    covariance[np.ix_(order, order)] = own if freedom > 0 else np.nan
    law = PowerLaw(
        coef=coef,
        a=exponent["a"],
        b=exponent["b"],
        covariance=covariance,
        rms=float(np.sqrt((residual**2).mean())),
        r_squared=float(result.r_squared[0]),
        points=len(f),
        with_n="a" in fitted,
        n_range=None if n is None else (float(n.min()), float(n.max())),
        d_range=(float(d.min()), float(d.max())),
        freedom=float(max(freedom, 1)),
        left_out=left_out,
    )
    law.check()
    return law
