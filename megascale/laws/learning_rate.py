"""Learning-rate laws by the search-factor method (arXiv 2601.05049).

For a fixed model and setting the loss is quadratic in the logarithm of the learning rate near its
optimum, L(eta) = L_min + C (log eta - log eta_opt)^2, and a power law of tokens at each rate,
L(D) = L0 + A D^-gamma. A few rates and a few token counts therefore stand for the whole grid: the
power law of each rate gives its loss at any D, the quadratic over rates gives eta_opt there, and
the optima of all (N, D) give the joint law eta_opt = coef N^a D^b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale import fitting
from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.status import Flag, status_words
from megascale.laws.power import PowerLaw, fit_power

CELL = ("n_params", "tokens")
"""Columns whose values make a cell: all runs of one (N, D)."""
MIN_RATES = 3
"""A quadratic has three coefficients. Three rates give an optimum without an error."""
FITTED_RATES = 4
"""Rates that enter the quadratic at least, where there are so many."""
NEAR_OPTIMAL = 0.0025
"""Runs within this share of a cell's lowest loss count as near-optimal (arXiv 2503.04715)."""


@dataclass(frozen=True)
class SearchFactor:
    """The joint law and the optima it was fitted to.

    Attributes:
        law: eta_opt(N, D); of D alone where there is one N.
        optima: one row a cell, see `optimal_rates`.
        curves: L(D) of every (N, rate) with L0, A, gamma, rms; empty where no budget was asked for.
    """

    law: PowerLaw
    optima: pl.DataFrame
    curves: pl.DataFrame


def need_columns(table: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The named columns as floats, without rows in which one is null or not finite.

    Raises:
        FitError: a column is missing, or a value is not positive.
    """
    for name in names:
        if name not in table.columns:
            raise FitError.of("column", name, "is not in the table", list(table.columns))
    kept = table.with_columns(pl.col(name).cast(pl.Float64) for name in names)
    kept = kept.filter(pl.all_horizontal(pl.col(name).is_finite() for name in names))
    if kept.is_empty():
        raise FitError.of("rows", 0, f"no row has finite {', '.join(names)}")
    for name in names:
        least = float(kept[name].to_numpy().min())
        if not least > 0:
            raise FitError.of(name, least, "must be positive")
    return kept


def optimal_rates(
    table: pl.DataFrame, *, by: Sequence[str] = CELL, reach: float = 4.0, column: str = "lr"
) -> pl.DataFrame:
    """The best learning rate of every cell, by a quadratic in its logarithm.

    The batch, or any other positive knob, is taken the same way where `column` names it.

    Args:
        table: lr and loss with the columns of `by`; several losses of one rate are seeds.
        by: what makes a cell. With a batch column in the table, name it here to hold it fixed, or
            keep the best loss of each rate beforehand to tune it along.
        reach: rates within this factor of the lowest loss's enter the quadratic, and at least the
            four nearest where there are four.
        column: the knob; the words "rate" and lr_opt stand for it then.

    Returns:
        A row a cell: `by`, lr_opt, log_error, loss, curvature (nats per squared log), rates,
        usable, reason. Usable optima are convex and lie among the cell's rates.

    Raises:
        FitError: a column is missing, or no cell has three rates.
    """
    table = need_columns(table, [*by, column, "loss"])
    cells, rates, losses = [], [], []
    limits = []
    for key, part in table.group_by(list(by), maintain_order=True):
        means = part.group_by(column).agg(pl.col("loss").mean()).sort(column)
        lr, loss = means[column].to_numpy(), means["loss"].to_numpy()
        distance = np.abs(np.log(lr / lr[np.argmin(loss)]))
        near = (distance <= np.log(reach) + 1e-9) | (
            distance <= np.sort(distance)[:FITTED_RATES][-1]
        )
        if len(lr) < MIN_RATES:
            continue
        cells.append(key)
        rates.append(lr[near])
        losses.append(loss[near])
        limits.append((lr.min(), lr.max()))
    if not cells:
        raise FitError.of("learning rates a cell", "fewer", f"need at least {MIN_RATES}", MIN_RATES)
    result = fitting.fit("log_quadratic", rates, losses, errors="status")
    rows = []
    for i, key in enumerate(cells):
        best, error = float(result["eta_opt"][i]), float(result.errors["eta_opt"][i])
        reason = ""
        if int(result.flags[i]) & Flag.NOT_CONVEX or not result["C"][i] > 0:
            reason = "not convex"
        elif not result.solved[i]:
            reason = status_words(result.solver_status[i])
        elif not limits[i][0] <= best <= limits[i][1]:
            reason = "the optimum lies outside the rates that were run"
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "lr_opt": best,
                "log_error": error / best if best > 0 else float("nan"),
                "loss": float(result["L_min"][i]),
                "curvature": float(result["C"][i]),
                "rates": len(rates[i]),
                "usable": not reason,
                "reason": reason,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def losses_at(table: pl.DataFrame, tokens: Sequence[float]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Losses of every (N, rate) at other token counts, by L(D) = L0 + A D^-gamma.

    Args:
        table: n_params, lr, tokens and loss, several token counts a rate.
        tokens: where.

    Returns:
        A table of n_params, lr, tokens, loss; and the fits, one row a (N, rate): L0, A, gamma,
        rms. (N, rate) pairs of fewer than four token counts are left out.

    Raises:
        FitError: a column is missing, or no pair has four token counts.
    """
    table = need_columns(table, ["n_params", "lr", "tokens", "loss"])
    keys, x, y = [], [], []
    for key, part in table.group_by(["n_params", "lr"], maintain_order=True):
        means = part.group_by("tokens").agg(pl.col("loss").mean()).sort("tokens")
        if len(means) >= 4:
            keys.append(key)
            x.append(means["tokens"].to_numpy())
            y.append(means["loss"].to_numpy())
    if not keys:
        raise FitError.of("token counts a learning rate", "fewer", "L(D) needs at least 4", 4)
    result = fitting.fit("loss_curve", x, y, errors="status")
    budgets = np.asarray(tokens, dtype=np.float64)
    found, fits = [], []
    for i, (n_params, lr) in enumerate(keys):
        fits.append(
            {
                "n_params": n_params,
                "lr": lr,
                **{name: float(result[name][i]) for name in ("L0", "A", "gamma")},
                "rms": float(result.rms[i]),
                "status": status_words(result.solver_status[i]),
            }
        )
        if result.solved[i]:
            for budget, loss in zip(budgets, result.predict(budgets, problem=i), strict=True):
                found.append(
                    {"n_params": n_params, "lr": lr, "tokens": budget, "loss": float(loss)}
                )
    return pl.DataFrame(found), pl.DataFrame(fits)


def search_factor(
    table: pl.DataFrame, *, tokens: Sequence[float] | None = None, reach: float = 4.0
) -> SearchFactor:
    """Quadratics in log LR, power laws in D, then the joint law.

    Args:
        table: n_params, tokens (D), lr and loss at one batch size, or the best batch's of each.
        tokens: budgets at which L(D) of every rate is evaluated before the quadratics; None takes
            the token counts of the table as they are.
        reach: see `optimal_rates`.

    Raises:
        FitError: too few usable optima for the law, and all of the steps' own.
    """
    fits = pl.DataFrame()
    if tokens is not None:
        table, fits = losses_at(table, tokens)
    optima = optimal_rates(table, reach=reach)
    return SearchFactor(rate_law(optima), optima, fits)


def rate_law(optima: pl.DataFrame) -> PowerLaw:
    """eta_opt = coef N^a D^b through the usable optima, least squares in logs.

    Raises:
        FitError: fewer usable optima than parameters, or N or D of too few values.
    """
    used = optima.filter(pl.col("usable"))
    with_n = used["n_params"].n_unique() > 1
    needed = 3 if with_n else 2
    if len(used) < needed:
        reasons = optima.filter(~pl.col("usable"))["reason"].unique().to_list()
        raise FitError.of(
            "usable optima", len(used), f"the law needs {needed}; {'; '.join(reasons)}", needed
        )
    n = used["n_params"].to_numpy() if with_n else None
    return fit_power(used["lr_opt"].to_numpy(), used["tokens"].to_numpy(), n)


def near_optimal(
    table: pl.DataFrame, *, by: Sequence[str] = CELL, within: float = NEAR_OPTIMAL
) -> pl.DataFrame:
    """Rows whose loss is below (1 + within) times their cell's lowest (arXiv 2503.04715).

    Raises:
        FitError: a column is missing.
    """
    table = need_columns(table, [*by, "loss"])
    return table.filter(pl.col("loss") < (1 + within) * pl.col("loss").min().over(list(by)))


def grid_regret(
    table: pl.DataFrame,
    predicted: Callable[[float, float], dict[str, float]],
    *,
    by: Sequence[str] = CELL,
) -> pl.DataFrame:
    """What following a law costs on a grid of runs: loss at the nearest run over the lowest loss.

    The optimum is flat, so laws of quite different exponents can cost the same: compare these
    numbers, not exponents.

    Args:
        table: the columns of `by`, loss, and those that `predicted` names.
        predicted: (N, D) -> {column: value}, such as {"lr": 1e-3, "batch_tokens": 5e5}.
        by: N's and D's columns.

    Returns:
        A row a cell: `by`, nearest values, loss, lowest, regret (share), inside (whether the
        prediction lies within the grid).
    """
    rows = []
    for key, cell in table.group_by(list(by), maintain_order=True):
        wanted = predicted(float(key[0]), float(key[1]))
        part = need_columns(cell, [*wanted, "loss"])
        place = {name: np.log(part[name].to_numpy()) for name in wanted}
        distance = sum((place[name] - np.log(value)) ** 2 for name, value in wanted.items())
        at = int(np.argmin(distance))
        loss, lowest = float(part["loss"][at]), float(part["loss"].to_numpy().min())
        inside = all(
            place[name].min() <= np.log(value) <= place[name].max()
            for name, value in wanted.items()
        )
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                **{name: float(part[name][at]) for name in wanted},
                "loss": loss,
                "lowest": lowest,
                "regret": loss / lowest - 1,
                "inside": inside,
            }
        )
    return pl.DataFrame(rows)


def loss_penalty(curvature: npt.ArrayLike, log_ratio: npt.ArrayLike) -> Array:
    """Nats lost by a rate off the optimum by a factor exp(log_ratio), by the cell's quadratic."""
    return np.asarray(curvature, dtype=np.float64) * np.asarray(log_ratio, dtype=np.float64) ** 2
