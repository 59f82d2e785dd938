"""Power laws of N and D, f = coef N^a D^b, with the covariance that law files keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from megascale import fitting
from megascale.arrays import Array
from megascale.errors import FitError
from megascale.formats.law_file import Parameter


@dataclass(frozen=True)
class PowerLaw:
    """f = coef N^a D^b, with N in parameters and D in tokens.

    Attributes:
        coef, a, b: the law; `a` is 0 where it was fitted without N.
        covariance: 3 x 3, of (log coef, a, b).
        rms: of log f around the law.
        r_squared: of log f.
        points: how many were fitted.
        with_n: whether `a` was fitted.
        n_range, d_range: of the points; N's is None where they do not say.
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

    def _columns(self, n_params: npt.ArrayLike | None, tokens: npt.ArrayLike) -> Array:
        d = np.log(np.asarray(tokens, dtype=np.float64))
        if not self.with_n:
            n = np.zeros_like(d)
        elif n_params is None:
            raise FitError.of("n_params", None, "the law depends on N")
        else:
            n = np.log(np.asarray(n_params, dtype=np.float64))
        n, d = np.broadcast_arrays(n, d)
        return np.stack([np.ones_like(d), n, d], axis=-1)

    def at(self, n_params: npt.ArrayLike | None, tokens: npt.ArrayLike) -> Array:
        """f(N, D). N may be None for a law without it."""
        return np.exp(self._columns(n_params, tokens) @ [np.log(self.coef), self.a, self.b])

    def log_error(self, n_params: npt.ArrayLike | None, tokens: npt.ArrayLike) -> Array:
        """Standard error of log f(N, D)."""
        x = self._columns(n_params, tokens)
        return np.sqrt(np.einsum("...i,ij,...j->...", x, self.covariance, x))

    def reach(self, confidence: float) -> float:
        """How many standard errors of log f an interval extends to either side."""
        freedom = max(self.points - (3 if self.with_n else 2), 1)
        return float(stats.t.ppf(0.5 + confidence / 2, freedom))

    def band(
        self, n_params: npt.ArrayLike | None, tokens: npt.ArrayLike, confidence: float = 0.9
    ) -> tuple[Array, Array]:
        """Low and high end of f(N, D), by Student-t."""
        factor = np.exp(self.reach(confidence) * self.log_error(n_params, tokens))
        middle = self.at(n_params, tokens)
        return middle / factor, middle * factor

    def parameters(self, unit: str, confidence: float = 0.9) -> dict[str, Parameter]:
        """coef, a and b as a law file's parameters; `unit` is that of f."""
        error = self.reach(confidence) * np.sqrt(np.diag(self.covariance))
        log_coef = np.log(self.coef)
        return {
            "coef": Parameter(
                value=self.coef,
                low=float(np.exp(log_coef - error[0])),
                high=float(np.exp(log_coef + error[0])),
                unit=unit,
            ),
            "a": Parameter(value=self.a, low=self.a - error[1], high=self.a + error[1]),
            "b": Parameter(value=self.b, low=self.b - error[2], high=self.b + error[2]),
        }


def fit_power(
    values: npt.ArrayLike,
    tokens: npt.ArrayLike,
    n_params: npt.ArrayLike | None = None,
    *,
    weights: npt.ArrayLike | None = None,
) -> PowerLaw:
    """Least squares in logs.

    Args:
        values: f, positive.
        tokens: D.
        n_params: N, or None for a law of D alone.
        weights: of the squared log residuals.

    Raises:
        FitError: fewer points than parameters, or an N or D that does not vary.
    """
    f = np.asarray(values, dtype=np.float64)
    d = np.asarray(tokens, dtype=np.float64)
    with_n = n_params is not None
    n = np.ones_like(d) if n_params is None else np.asarray(n_params, dtype=np.float64)
    for name, column in (("tokens", d), ("n_params", n)):
        if len(column) and (name == "tokens" or with_n) and np.ptp(column) == 0:
            rule = "every point has the same: a power law of it needs two at least"
            raise FitError.of(name, float(column[0]), rule)
    x = np.stack([n, d]) if with_n else d[None]
    result = fitting.fit("power_law", x, f, weights=weights, residual="log", errors="raise")
    coef, exponents = exponents_of(result, with_n)
    order = [0, 1, 2] if with_n else [0, 2]
    covariance = np.zeros((3, 3))
    own = result.covariance[0].copy()
    own[0, :] /= coef[0]
    own[:, 0] /= coef[0]
    covariance[np.ix_(order, order)] = own
    residual = np.log(f) - np.log(coef[0]) - np.stack([np.log(n), np.log(d)], 1) @ exponents[0]
    return PowerLaw(
        coef=float(coef[0]),
        a=float(exponents[0, 0]),
        b=float(exponents[0, 1]),
        covariance=np.nan_to_num(covariance),
        rms=float(np.sqrt((residual**2).mean())),
        r_squared=float(result.r_squared[0]),
        points=len(f),
        with_n=with_n,
        n_range=(float(n.min()), float(n.max())) if with_n else None,
        d_range=(float(d.min()), float(d.max())),
    )


def exponents_of(result: fitting.FitResult, with_n: bool) -> tuple[Array, Array]:
    """Coefficients, and (problems, 2) exponents of N and D, of a power-law result."""
    first = result["exponent_1"]
    if with_n:
        return result["coefficient"], np.stack([first, result["exponent_2"]], axis=1)
    return result["coefficient"], np.stack([np.zeros_like(first), first], axis=1)
