"""Errors of best learning rates whose cells are cut from the same runs.

Losses of one run at several token counts go up and down together, so the optima of the cells of
one N do too, and five of them say little more of the law than one. The residuals of the cells'
quadratics say how much, run by run (`laws.run_errors`); a quadratic has three coefficients, so m
rates at an N leave m - 3 degrees of freedom, however many cells are cut from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.laws.power import PowerLaw
from megascale.laws.run_errors import draw_run_errors

REPLICATES = 400
"""Draws of the joint errors of optima."""


@dataclass(frozen=True)
class SharedErrors:
    """Joint bootstrap of the optima of cells that share runs (`laws.run_errors`).

    Attributes:
        cells: (n_params, tokens) of every column.
        log_opt: (replicates, cells) log of the best rate, to first order in the errors.
        freedom: runs beyond the quadratic's three coefficients, by n_params.
    """

    cells: Sequence[tuple[Any, ...]]
    log_opt: Array
    freedom: dict[object, float]


def shared_errors(
    cells: Sequence[tuple[Any, ...]],
    rates: Sequence[Array],
    losses: Sequence[Array],
    *,
    count: int = REPLICATES,
    seed: int = 0,
) -> SharedErrors:
    """Joint errors of the optima of cells that are cut from the same runs at several D.

    Args:
        cells: (n_params, tokens) of each.
        rates, losses: the points of each cell's quadratic; one rate at one N is one run.
        count, seed: of the draws.
    """
    sizes = [len(lr) for lr in rates]
    solvers, residuals, fitted = [], [], []
    for lr, loss in zip(rates, losses, strict=True):
        x = np.log(lr / lr.mean())
        design = np.stack([np.ones_like(x), x, x**2], axis=1)
        solver = np.linalg.pinv(design)
        solvers.append((solver, float(np.log(lr.mean()))))
        fitted.append(design @ (solver @ loss))
        residuals.append(loss - fitted[-1])
    setting: dict[object, int] = {}
    owner: dict[object, int] = {}
    names = [key[0] for key in cells]
    residual = np.concatenate(residuals)
    spare = np.array(sizes, dtype=np.float64) - 3.0
    errors = draw_run_errors(
        residual,
        np.array(
            [
                owner.setdefault((name, float(value)), len(owner))
                for name, lr in zip(names, rates, strict=True)
                for value in lr
            ]
        ),
        np.repeat(np.arange(len(cells)), sizes),
        np.array([setting.setdefault(name, len(setting)) for name in names]),
        unit=np.full(len(residual), np.sqrt((residual**2).sum() / max(spare.sum(), 1.0)) or 1e-12),
        left=spare,
        spare=spare,
        count=count,
        seed=seed,
    )
    parts = np.split(errors.draws, np.cumsum(sizes)[:-1], axis=1)
    log_opt = np.full((count, len(cells)), np.nan)
    for i, ((solver, middle), loss, drawn) in enumerate(zip(solvers, fitted, parts, strict=True)):
        _, slope, bend = solver @ loss
        _, slopes, bends = solver @ drawn.T
        # First order: the ratio of two normal errors has no variance.
        place = -slope / (2 * bend)
        log_opt[:, i] = middle + place - (slopes + 2 * place * bends) / (2 * bend)
    freedom = dict.fromkeys(setting, 0.0)
    for name, more in zip(names, spare, strict=True):
        freedom[name] = max(freedom[name], float(more))
    return SharedErrors(cells, log_opt, freedom)


def with_shared_errors(law: PowerLaw, used: pl.DataFrame, shared: SharedErrors) -> PowerLaw:
    """A law through optima that share runs, with their joint errors as its own.

    The covariance is that of refits to the draws, with the freedom of the runs; Birge's factor
    widens it where the optima scatter more around the law than the draws do. NaN where no N has
    more rates than its quadratic has coefficients.

    Args:
        law: least squares through the optima.
        used: n_params and tokens of the optima, rows in any order.
        shared: of `shared_errors`.
    """
    place_of = {cell: i for i, cell in enumerate(shared.cells)}
    columns = [place_of[key] for key in used.select("n_params", "tokens").iter_rows()]
    log_opt = shared.log_opt[:, columns]
    log_opt = log_opt[np.isfinite(log_opt).all(axis=1)]
    freedom = sum(shared.freedom[n] for n in used["n_params"].unique().to_list())
    if freedom <= 0 or len(log_opt) < len(shared.log_opt) / 2:
        return replace(law, covariance=np.full((3, 3), np.nan))
    logs = used.select(pl.col("n_params", "tokens").log()).to_numpy()
    place = [0, *([1] if law.with_n else []), *([] if "b" in law.left_out else [2])]
    design = np.column_stack([np.ones(len(logs)), logs])[:, place]
    solver = np.linalg.pinv(design)
    refits = log_opt @ solver.T
    left = ((log_opt - refits @ design.T) ** 2).sum(axis=1).mean()
    scatter = law.rms**2 * len(logs)
    birge = max(1.0, float(np.sqrt(scatter / left))) if left > 0 else 1.0
    covariance = np.zeros((3, 3))
    covariance[np.ix_(place, place)] = np.cov(refits, rowvar=False) * birge**2
    return replace(law, covariance=covariance, freedom=float(freedom))
