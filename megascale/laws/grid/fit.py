"""Laws of the best learning rate and batch from a table of final losses.

Three ways to the points of a power law, on the same runs:

- `near_optimal` (arXiv 2503.04715): every run within 0.25 % of its cell's lowest loss is a point;
- `quadratic`: the optimum of each cell's quadratic in (log LR, log B);
- `search_factor` (arXiv 2601.05049): the optimum of each cell's quadratic in log LR, the batch at
  its best for each rate; and the same for the batch.

The learning rate is a law of N and D, the batch one of D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.errors import FitError, UserError
from megascale.formats.law_file import LawFile
from megascale.laws.audit import holdouts
from megascale.laws.grid.cells import cell_quadratics, fit_cells
from megascale.laws.grid.regret import mean_regret, published_regret
from megascale.laws.law_files import Naming, power_law_file
from megascale.laws.learning_rate import CELL, near_optimal
from megascale.laws.planner import Plan, plan_next_runs
from megascale.laws.power import PowerLaw, fit_power

Method = Literal["near_optimal", "quadratic", "search_factor"]
METHODS: tuple[Method, ...] = get_args(Method)
COLUMNS = ("lr", "batch_tokens")
PLAN_SHARE = 0.1
"""Default budget of the next runs: this share of the table's FLOPs."""
PLAN_CELLS = 3


@dataclass(frozen=True)
class Interval:
    """A bootstrap of one power law.

    Attributes:
        over: what was drawn, "runs" or "cells".
        low, high: ends of (coef, a, b).
        covariance: 3 x 3, of (log coef, a, b).
    """

    over: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    covariance: Array


@dataclass(frozen=True)
class GridLaw:
    """One law by one method.

    Attributes:
        law: with its least-squares covariance.
        intervals: by "runs" (points drawn one by one; `near_optimal` only, elsewhere a cell has one
            point) and by "cells" (all points of a cell together, which share its error).
    """

    law: PowerLaw
    intervals: dict[str, Interval]

    @property
    def interval(self) -> Interval | None:
        """Over runs where there is one, else over cells."""
        return self.intervals.get("runs", self.intervals.get("cells"))


@dataclass(frozen=True)
class MethodFit:
    """Both laws by one method.

    Attributes:
        laws: by column, lr and batch_tokens; those that could be fitted.
        reasons: by column, why the others could not.
        regret: of following them, as `regret.mean_regret` gives it; None without a law.
        held_out: regret on cells left out of the fit, one row a question.
    """

    method: Method
    laws: dict[str, GridLaw]
    reasons: dict[str, str]
    regret: dict[str, Any] | None
    held_out: list[dict[str, Any]]


@dataclass(frozen=True)
class GridFit:
    """Everything a table of final losses says.

    Attributes:
        table: the runs.
        cells: as `fit_cells` gives them.
        quadratics: of every cell, as `cell_quadratics` gives them; None where the table lacks a
            column.
        methods: by name.
        published: regret of every publication, as `regret.published_regret` gives it.
        doubts: what speaks against the laws, in words.
    """

    table: pl.DataFrame
    cells: pl.DataFrame
    quadratics: dict[tuple[float, float], dict[str, Any] | None] | None
    methods: dict[Method, MethodFit]
    published: list[dict[str, Any]]
    doubts: list[str]

    @property
    def columns(self) -> list[str]:
        """Which of lr and batch_tokens the table has."""
        return [name for name in COLUMNS if name in self.table.columns]

    def law(self, column: str, method: Method) -> GridLaw:
        """The law of a column.

        Raises:
            FitError: it could not be fitted, and why.
        """
        fit = self.methods[method]
        if column not in fit.laws:
            raise FitError(fit.reasons[column])
        return fit.laws[column]


def fit_grid(
    table: pl.DataFrame, *, replicates: int = 1000, confidence: float = 0.9, seed: int = 0
) -> GridFit:
    """Optimum of every cell, and the joint laws by every method.

    Args:
        table: of `grid.grid_table`: n_params, tokens, lr or batch_tokens or both, loss.
        replicates, confidence, seed: of the bootstraps; fewer than two replicates make none.

    Raises:
        FitError: no cell has three learning rates or three batches.
    """
    columns = [name for name in COLUMNS if name in table.columns]
    quadratics = cell_quadratics(table) if len(columns) == len(COLUMNS) else None
    cells = fit_cells(table, quadratics)
    methods: dict[Method, MethodFit] = {}
    for method in METHODS:
        if method == "quadratic" and len(columns) < 2:
            continue
        points = {column: _points(table, cells, column, method) for column in columns}
        laws, reasons = {}, {}
        for column, chosen in points.items():
            try:
                law = _fit(chosen, column)
                draws = {
                    over: _bootstrap(chosen, column, over, replicates, confidence, seed)
                    for over in (("runs", "cells") if method == "near_optimal" else ("cells",))
                }
                laws[column] = GridLaw(law, {k: v for k, v in draws.items() if v is not None})
            except UserError as error:
                reasons[column] = str(error)
        fitted = {column: found.law for column, found in laws.items()}
        methods[method] = MethodFit(
            method,
            laws,
            reasons,
            mean_regret(table, predictor(fitted), list(fitted)) if fitted else None,
            _held_out(table, cells, points) if fitted else [],
        )
    return GridFit(
        table, cells, quadratics, methods, published_regret(table), _doubts(cells, columns)
    )


def predictor(laws: dict[str, PowerLaw]) -> Any:
    """(N, D) -> {column: value} of some power laws."""

    def predicted(n: float, d: float) -> dict[str, float]:
        return {column: float(law.at(n, d)) for column, law in laws.items()}

    return predicted


def _points(table: pl.DataFrame, cells: pl.DataFrame, column: str, method: Method) -> pl.DataFrame:
    """n_params, tokens and `column` of every point of the power law."""
    if method == "near_optimal":
        at_edge = cells.filter(pl.col(f"{column}_edge") != "").select(CELL)
        return near_optimal(table).join(at_edge, on=CELL, how="anti").select(*CELL, column)
    name = f"{column}_opt" if method == "quadratic" else f"{column}_opt_1d"
    return cells.select(*CELL, pl.col(name).alias(column)).drop_nulls()


def _fit(points: pl.DataFrame, column: str) -> PowerLaw:
    cells = points.select(CELL).n_unique()
    with_n = column == "lr" and points["n_params"].n_unique() > 1
    needed = 3 if with_n else 2
    name = "learning rate" if column == "lr" else "batch"
    if cells < needed:
        rule = (
            f"a law of the best {name} needs {needed} cells of (N, D) whose optimum lies inside "
            "the values that were run"
        )
        raise FitError.of(f"cells with a best {name}", cells, rule, needed)
    if points["tokens"].n_unique() < 2:
        one = float(points["tokens"][0])
        rule = f"all cells with a best {name} have this D: a law of D needs two at least"
        raise FitError.of("tokens", one, rule)
    sizes = points["n_params"].to_numpy()
    law = fit_power(
        points[column].to_numpy(), points["tokens"].to_numpy(), sizes if with_n else None
    )
    # A law without N is one of the sizes it was fitted to, and of no others.
    return replace(law, n_range=(float(sizes.min()), float(sizes.max())))


def _bootstrap(
    points: pl.DataFrame, column: str, over: str, replicates: int, confidence: float, seed: int
) -> Interval | None:
    """Refits to points, or whole cells, drawn with replacement; None where few can be refitted."""
    if replicates < 2:
        return None
    logs = points.select(pl.col(*CELL, column).log()).to_numpy()
    with_n = column == "lr" and points["n_params"].n_unique() > 1
    used = [0, 1, 2] if with_n else [0, 2]
    middle = logs[:, :2].mean(axis=0)
    x = np.column_stack([np.ones(len(logs)), logs[:, :2] - middle])[:, used]
    groups = np.arange(len(points))
    if over == "cells":
        groups = points.select(pl.struct(CELL).rank("dense")).to_series().to_numpy() - 1
    count = int(groups.max()) + 1
    draw = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), replicates)
    weight = draw[:, groups].astype(np.float64)
    left = np.einsum("rp,pi,pj->rij", weight, x, x)
    right = np.einsum("rp,pi,p->ri", weight, x, logs[:, 2])
    good = np.linalg.cond(left) < 1e8
    if good.sum() < replicates / 2:
        return None
    found = np.zeros((int(good.sum()), 3))
    found[:, used] = np.linalg.solve(left[good], right[good][..., None])[..., 0]
    found[:, 0] -= found[:, 1:] @ middle
    low, high = np.quantile(found, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    for end in (low, high):
        end[0] = np.exp(end[0])
    return Interval(over, tuple(low.tolist()), tuple(high.tolist()), np.cov(found.T))


def _held_out(
    table: pl.DataFrame, cells: pl.DataFrame, points: dict[str, pl.DataFrame]
) -> list[dict[str, Any]]:
    """Regret on the largest N and the longest horizons of laws fitted without them."""
    rows = []
    used = np.ones(len(cells), dtype=bool)
    for question, held in holdouts(cells, used, "loss").items():
        kept = cells.filter(~held).select(CELL)
        laws = {}
        for column, chosen in points.items():
            try:
                laws[column] = _fit(chosen.join(kept, on=CELL, how="semi"), column)
            except UserError:
                break
        if len(laws) < len(points):
            continue
        rest = table.join(cells.filter(held).select(CELL), on=CELL, how="semi")
        rows.append({"question": question, **mean_regret(rest, predictor(laws), list(laws))})
    return rows


def _doubts(cells: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    out = []
    sizes = cells["n_params"].unique().to_list()
    if len(sizes) == 1 and "lr" in columns:
        out.append(
            f"every run has N = {sizes[0]:.4g}: the law of the learning rate is of D alone, and "
            "holds at that N"
        )
    for column in columns:
        name = {"lr": "learning rate", "batch_tokens": "batch"}[column]
        ends = cells[f"{column}_edge"]
        for end, word in (("low", "smallest"), ("high", "largest")):
            if count := int((ends == end).sum()):
                out.append(
                    f"the lowest loss of {count} of {len(cells)} cells is at the {word} {name} "
                    "that was run there; near_optimal leaves them out of its law: widen the grid"
                )
    bent = cells.filter(~pl.col("convex"))
    if len(bent):
        out.append(f"{len(bent)} of {len(cells)} cells are not convex around their lowest loss")
    unsure = cells.filter(pl.col("convex") & (pl.col("convex_share") < 0.9))
    if len(unsure):
        out.append(
            f"{len(unsure)} of {len(cells)} cells are convex in fewer than 90 % of the resamples"
        )
    return out


def next_runs(
    fit: GridFit,
    *,
    budget_flops: float | None = None,
    target: tuple[float, float] | None = None,
) -> Plan:
    """Which cells to run next, so that the learning-rate law becomes more certain.

    Candidates are all pairs of the table's N and D that were not run, and twice the largest N and
    the longest D.

    Args:
        fit: of `fit_grid`, with a learning rate.
        budget_flops: for all new runs; default a tenth of what the table's runs cost, or the
            cheapest candidate where that buys none.
        target: (N, D) the law is wanted for; None for all its parameters alike.

    Raises:
        FitError: no learning-rate law with freedom, or the budget buys nothing.
    """
    method: Method = "quadratic" if "quadratic" in fit.methods else "search_factor"
    if "lr" not in fit.methods[method].laws:
        method = "search_factor"
    law = fit.law("lr", method).law
    points = _points(fit.table, fit.cells, "lr", method)
    done = set(fit.cells.select(CELL).iter_rows())
    sizes, budgets = sorted({n for n, _ in done}), sorted({d for _, d in done})
    pairs = [(n, d) for n in [*sizes, 2 * sizes[-1]] for d in [*budgets, 2 * budgets[-1]]]
    candidates = [pair for pair in pairs if pair not in done]
    if budget_flops is None:
        spent = 6 * float((fit.table["n_params"] * fit.table["tokens"]).sum())
        cheapest = min(6 * n * d * 5 for n, d in candidates)
        budget_flops = max(PLAN_SHARE * spent, cheapest)
    return plan_next_runs(
        law, points, candidates, budget_flops=budget_flops, target=target, most=PLAN_CELLS
    )


def grid_law_file(
    fit: GridFit,
    column: str,
    method: Method,
    naming: Naming,
    *,
    confidence: float = 0.9,
    plan: Plan | None = None,
) -> LawFile:
    """One of the laws as a law file, with the bootstrap's intervals and covariance.

    Raises:
        FitError: it could not be fitted, and why.
    """
    found = fit.law(column, method)
    law, interval = found.law, found.interval
    if interval is not None:
        law = replace(law, covariance=interval.covariance)
    file = power_law_file(
        law,
        "peak_lr" if column == "lr" else "batch_tokens",
        naming,
        d_kind="horizon",
        confidence=confidence,
        evidence={"law": method, "intervals_over": interval and interval.over}
        | evidence(fit, plan),
    )
    if interval is None:
        return file
    bands = {
        name: parameter.model_copy(update={"low": low, "high": high})
        for (name, parameter), low, high in zip(
            file.parameters.items(), interval.low, interval.high, strict=True
        )
    }
    return file.model_copy(update={"parameters": bands})


def evidence(fit: GridFit, plan: Plan | None) -> dict[str, Any]:
    """What a law file keeps of all this."""
    return {
        "cells": fit.cells.to_dicts(),
        "methods": {
            name: {
                "laws": {
                    column: {
                        "coef": found.law.coef,
                        "a": found.law.a,
                        "b": found.law.b,
                        "points": found.law.points,
                        "intervals": {
                            over: {"low": interval.low, "high": interval.high}
                            for over, interval in found.intervals.items()
                        },
                    }
                    for column, found in method.laws.items()
                },
                "reasons": method.reasons,
                "regret": method.regret,
                "held_out": method.held_out,
            }
            for name, method in fit.methods.items()
        },
        "published_regret": fit.published,
        "warnings": fit.doubts,
        "next_runs": None if plan is None else [asdict(cell) for cell in plan.cells],
    }
