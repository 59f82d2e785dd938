"""Loss laws: L(N, D) = E + A / N^alpha + B / D^beta (arXiv 2203.15556), and L(D) of single runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale import fitting
from megascale.arrays import Array
from megascale.curves.curve import Curve
from megascale.errors import FitError
from megascale.fitting.status import describe
from megascale.laws.learning_rate import need_columns

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
        """L(N, D) in nats per token."""
        return self.result.predict(n_params, tokens)

    def allocation(self, flops: npt.ArrayLike) -> tuple[Array, Array]:
        """N and D of lowest loss at 6 N D = flops."""
        budget = np.asarray(flops, dtype=np.float64) / 6
        return self["G"] * budget ** self["a"], budget ** self["b"] / self["G"]


def fit_chinchilla(
    table: pl.DataFrame,
    *,
    drop_highest: int = 0,
    huber: float | None = HUBER,
    bootstrap: str | None = None,
    replicates: int = 1000,
    confidence: float = 0.9,
    seed: int = 0,
) -> ChinchillaFit:
    """Fit L(N, D) to final losses.

    Args:
        table: n_params, tokens and loss, one run a row.
        drop_highest: leave out so many rows of the highest losses; arXiv 2404.10102 drops five.
        huber: where the Huber loss of log L turns linear; None for least squares.
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
        loss="squared" if huber is None else "huber",
        delta=HUBER if huber is None else huber,
        bootstrap=bootstrap,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
    )
    return ChinchillaFit(result, (float(n.min()), float(n.max())), (float(d.min()), float(d.max())))


def fit_loss_curves(curves: Iterable[Curve], *, from_tokens: float = 0.0) -> pl.DataFrame:
    """L(D) = L0 + A D^-gamma of every curve.

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
            "status": [describe(status) for status in result.status],
        }
    )
