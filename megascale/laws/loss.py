"""Loss laws: L(N, D) = E + A / N^alpha + B / D^beta (arXiv 2203.15556), and L(D) of single runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import optimize, sparse

from megascale import fitting
from megascale.arrays import Array
from megascale.curves.curve import Curve
from megascale.errors import FitError
from megascale.fitting.status import status_words
from megascale.laws.learning_rate import need_columns

Objective = Literal["huber", "squared", "absolute"]
LAD_STEPS, LAD_TOLERANCE = 100, 1e-12
HUBER = 1e-3
"""Of log L, as arXiv 2203.15556 and 2404.10102 use it."""


@dataclass(frozen=True)
class ChinchillaFit:
    """The fitted law.

    Attributes:
        result: of the engine, one problem.
        n_range, d_range: of the points, in parameters and tokens.
    """

    result: fitting.FitResult
    n_range: tuple[float, float]
    d_range: tuple[float, float]

    def __getitem__(self, name: str) -> float:
        return float(self.result[name][0])

    def loss(self, n_params: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """Return L(N, D) in nats per token."""
        return self.result.predict(n_params, tokens)

    def allocation(self, flops: npt.ArrayLike) -> tuple[Array, Array]:
        """Return N and D of lowest loss at 6 N D = flops."""
        budget = np.asarray(flops, dtype=np.float64) / 6
        return self["G"] * budget ** self["a"], budget ** self["b"] / self["G"]


def fit_chinchilla(
    table: pl.DataFrame,
    *,
    drop_highest: int = 0,
    objective: Objective = "huber",
    delta: float = HUBER,
    bootstrap: str | None = None,
    replicates: int = 1000,
    confidence: float = 0.9,
    seed: int = 0,
) -> ChinchillaFit:
    """Fit L(N, D) to final losses.

    Args:
        table: n_params, tokens and loss, one run a row.
        drop_highest: leave out so many rows of the highest losses; arXiv 2404.10102 drops five.
        objective: "huber" or "squared" loss of the residuals of log L, or "absolute", their sum
            without squares: the constants printed in arXiv 2404.10102 are its optimum (its Huber
            scale is a sixth parameter, which vanishes). Its bootstrap is the Huber loss's, as
            there.
        delta: where the Huber loss turns linear.
        bootstrap, replicates, confidence, seed: as `fitting.fit`.

    Raises:
        FitError: a column is missing, a value is not positive, or there are too few rows.
    """
    table = need_columns(table, ["n_params", "tokens", "loss"]).sort("loss")
    if not 0 <= drop_highest < len(table):
        raise FitError.of("drop_highest", drop_highest, f"must lie below the {len(table)} rows", 0)
    table = table.head(len(table) - drop_highest)
    n, d = table["n_params"].to_numpy(), table["tokens"].to_numpy()
    result = fitting.fit(
        "chinchilla",
        np.stack([n, d]),
        table["loss"].to_numpy(),
        residual="log",
        loss="squared" if objective == "squared" else "huber",
        delta=delta,
        bootstrap=bootstrap,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
    )
    if objective == "absolute":
        _least_absolute(result, n, d, table["loss"].to_numpy())
    return ChinchillaFit(result, (float(n.min()), float(n.max())), (float(d.min()), float(d.max())))


def _least_absolute(result: fitting.FitResult, n: Array, d: Array, loss: Array) -> None:
    """Moves a Huber fit to the least sum of |log L - log law|, which passes through five points.

    Linear programs of the residuals' tangents within a trust region, which doubles after a step
    that helps and shrinks after one that does not. In place: parameters, objective and rms.
    """
    u, v = (np.log(x) - np.log(x).mean() for x in (n, d))
    middle_n, middle_d = np.log(n).mean(), np.log(d).mean()
    start = {name: float(result[name][0]) for name in ("E", "A", "B", "alpha", "beta")}
    at = np.array(
        [
            np.log(start["A"]) - start["alpha"] * middle_n,
            np.log(start["B"]) - start["beta"] * middle_d,
            np.log(start["E"]),
            start["alpha"],
            start["beta"],
        ]
    )

    def law(theta: Array) -> tuple[Array, Array]:
        a, b = np.exp(theta[0] - theta[3] * u), np.exp(theta[1] - theta[4] * v)
        total = a + b + np.exp(theta[2])
        slopes = np.stack([a, b, np.full_like(a, np.exp(theta[2])), -u * a, -v * b], axis=1)
        return np.log(loss) - np.log(total), slopes / total[:, None]

    count, reach = len(loss), 1e-2
    cost = np.concatenate([np.zeros(5), np.ones(count)])
    best = float(np.abs(law(at)[0]).sum())
    unit = sparse.identity(count, format="csr")
    for _ in range(LAD_STEPS):
        residual, slopes = law(at)
        block = sparse.csr_matrix(slopes)
        sides = sparse.vstack([sparse.hstack([-block, -unit]), sparse.hstack([block, -unit])])
        found = optimize.linprog(
            cost,
            A_ub=sides,
            b_ub=np.concatenate([-residual, residual]),
            bounds=[(-reach, reach)] * 5 + [(0, None)] * count,
            method="highs",
        )
        new = at if found.x is None else at + found.x[:5]
        value = float(np.abs(law(new)[0]).sum())
        if value < best * (1 - 1e-14):
            at, best, reach = new, value, 2 * reach
        else:
            reach /= 4
        if reach < LAD_TOLERANCE:
            break
    residual, _ = law(at)
    final = {
        "E": np.exp(at[2]),
        "A": np.exp(at[0] + at[3] * middle_n),
        "B": np.exp(at[1] + at[4] * middle_d),
        "alpha": at[3],
        "beta": at[4],
    }
    for name, value in final.items():
        result.params[name][0] = value
    result.settings |= {"loss": "absolute", "delta": None}
    result.objective[0] = best
    result.rms[0] = float(np.sqrt((residual**2).mean()))


def fit_loss_curves(curves: Iterable[Curve], *, from_tokens: float = 0.0) -> pl.DataFrame:
    """Return L(D) = L0 + A D^-gamma of every curve.

    Args:
        curves: whose batch need not be constant.
        from_tokens: points before it are left out.

    Returns:
        run, points, L0, A, gamma with their standard errors, rms (nats), status. Curves of fewer
        than four points are left out.

    Raises:
        FitError: no curve has four points.
    """
    names, x, y = [], [], []
    for curve in curves:
        keep = curve.tokens >= from_tokens
        if keep.sum() >= 4:
            names.append(curve.run)
            x.append(curve.tokens[keep])
            y.append(curve.loss[keep])
    if not names:
        raise FitError.of("curves", 0, f"none has 4 points from {from_tokens:g} tokens on")
    result = fitting.fit("loss_curve", x, y, residual="absolute", errors="status")
    return pl.DataFrame(
        {
            "run": names,
            "points": result.points,
            **{name: result[name] for name in ("L0", "A", "gamma")},
            **{f"{name}_error": result.errors[name] for name in ("L0", "A", "gamma")},
            "rms": result.rms,
            "status": [status_words(status) for status in result.status],
        }
    )
