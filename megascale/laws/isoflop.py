"""Compute-optimal N and D from runs of equal FLOPs (arXiv 2203.15556, approach 2).

The runs of one budget C differ in N, and in D = C / (6 N) with it. Their losses over log N (and
over log D) have a minimum: by a parabola through the budget's runs, as Chinchilla and Llama 3 take
it, or by Akima's interpolation in both logarithms, as Porian et al. do (arXiv 2406.19146). The
minima of all budgets give N_opt = k C^a and D_opt = k C^b by least squares in logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from scipy.interpolate import Akima1DInterpolator

from megascale import fitting
from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.status import Flag
from megascale.laws.intervals import replicate_interval
from megascale.laws.learning_rate import need_columns
from megascale.laws.power import PowerLaw, fit_power

Minimum = Literal["parabola", "akima"]
MINIMA: tuple[Minimum, ...] = get_args(Minimum)
QUANTITIES = ("n_params", "tokens")
SAME_BUDGET = 0.15
"""Runs whose FLOPs, put in order, differ by less than this share from one to the next are of one
budget, where the budgets are not stated."""
WIDEST_BUDGET = 1.5
"""Largest over smallest FLOPs of the runs of one budget found so."""
LEAST_RUNS = 4
"""A parabola has three coefficients."""
LEAST_BUDGETS = 3
"""Two give a law without an interval."""
NEAR = 4.0
"""Runs within this factor of the lowest loss's size say how noisy the losses are."""
FINE = 2048
"""Places of Akima's curve that are looked at."""


@dataclass(frozen=True)
class IsoFlop:
    """The minima and the laws through them.

    Attributes:
        minima: a row a budget: flops, runs; n_params and tokens at lowest loss, each with _low,
            _high and _reason why it is not used; loss (the lowest by N); curvature (nats per
            squared log N).
        laws: n_params and tokens as power laws of C: their `b` is the exponent of C, their
            `d_range` the budgets'.
        reasons: why a law could not be fitted.
        left_out: runs of budgets with fewer than four.
        minimum: how the minima were found.
        confidence: of low and high.
    """

    minima: pl.DataFrame
    laws: dict[str, PowerLaw]
    reasons: dict[str, str]
    left_out: int
    minimum: Minimum
    confidence: float

    def law(self, quantity: str) -> PowerLaw:
        """Return the law of "n_params" or "tokens".

        Raises:
            FitError: it could not be fitted, and why.
        """
        if quantity not in self.laws:
            raise FitError(self.reasons[quantity])
        return self.laws[quantity]


def isoflop_table(table: pl.DataFrame, budgets: Sequence[float] | None = None) -> pl.DataFrame:
    """Return the runs with N, D, loss and the budget each belongs to.

    Args:
        table: loss and two or three of n_params, tokens and flops; the third is 6 N D = C.
        budgets: FLOPs; every run belongs to the nearest in log. None: where every run states
            flops and at most half of them are distinct, as stated; elsewhere runs whose FLOPs
            follow each other closely (`SAME_BUDGET`) are one budget, their geometric mean.

    Returns:
        n_params, tokens, loss, flops (the budget).

    Raises:
        FitError: a column is missing, a value is not positive, or budgets cannot be told apart.
    """
    known = [name for name in ("n_params", "tokens", "flops") if name in table.columns]
    if len(known) < 2:
        rule = "an IsoFLOP fit needs two of n_params, tokens and flops"
        raise FitError.of("columns", known, rule, ["n_params", "tokens"])
    table = need_columns(table, [*known, "loss"])
    if "tokens" not in known:
        table = table.with_columns(tokens=pl.col("flops") / 6 / pl.col("n_params"))
    if "n_params" not in known:
        table = table.with_columns(n_params=pl.col("flops") / 6 / pl.col("tokens"))
    if "flops" not in known:
        table = table.with_columns(flops=6 * pl.col("n_params") * pl.col("tokens"))
    table = table.select(*QUANTITIES, "loss", "flops")
    flops = table["flops"].to_numpy()
    if budgets is not None:
        stated = np.asarray(sorted(budgets), dtype=np.float64)
        if not len(stated) or not (stated > 0).all():
            raise FitError.of("budgets", list(budgets), "must be positive FLOPs", "6e18,1e19")
        nearest = np.abs(np.log(flops)[:, None] - np.log(stated)[None]).argmin(axis=1)
        return table.with_columns(flops=pl.Series(stated[nearest]))
    if "flops" in known and 2 * len(np.unique(flops)) <= len(flops):
        return table
    order = np.argsort(flops)
    steps = np.diff(np.log(flops[order]), prepend=np.log(flops[order[0]]))
    number = np.empty(len(flops), dtype=np.int64)
    number[order] = np.cumsum(steps > np.log1p(SAME_BUDGET))
    for budget in range(int(number.max()) + 1):
        own = flops[number == budget]
        if own.max() > WIDEST_BUDGET * own.min():
            said = f"{own.min():.3g} to {own.max():.3g}"
            rule = "no gap tells where one budget ends and the next begins: state the budgets"
            raise FitError.of("FLOPs of the runs", said, rule, "6e18,1e19,3e19")
    means = np.exp(np.bincount(number, np.log(flops)) / np.bincount(number))
    return table.with_columns(flops=pl.Series(means[number]))


def fit_isoflop(
    table: pl.DataFrame,
    *,
    budgets: Sequence[float] | None = None,
    minimum: Minimum = "parabola",
    reach: float | None = None,
    replicates: int = 500,
    confidence: float = 0.9,
    seed: int = 0,
) -> IsoFlop:
    """Return the minima of every budget and the laws through them.

    Args:
        table, budgets: as `isoflop_table` takes them; runs of one N and budget (seeds) are
            averaged.
        minimum: "parabola" or "akima".
        reach: runs within this factor of the lowest loss's N (or D) enter; None for all.
        replicates: of each minimum's own interval: new errors as large as the parabola's
            residuals. 0 for none.
        confidence: of the intervals.
        seed: of the replicates.

    Raises:
        FitError: a column is missing, or no budget has four runs.
    """
    if minimum not in MINIMA:
        raise FitError.of("minimum", minimum, "must be one of", list(MINIMA))
    if reach is not None and not reach > 1:
        raise FitError.of("reach", reach, "must be above 1", 4.0)
    runs = isoflop_table(table, budgets)
    sizes = runs.group_by("flops").agg(pl.col("n_params").n_unique().alias("sizes"))
    enough = sizes.filter(pl.col("sizes") >= LEAST_RUNS).sort("flops")
    if enough.is_empty():
        most = max(sizes["sizes"].to_list())
        rule = f"the {len(sizes)} budgets found have fewer than {LEAST_RUNS} sizes of model each"
        raise FitError.of("runs of one budget", f"{most} at most", rule, "state the budgets")
    rows: list[dict[str, Any]] = []
    used = 0
    for flops in enough["flops"]:
        own = runs.filter(pl.col("flops") == flops)
        used += len(own)
        row: dict[str, Any] = {"flops": float(flops), "runs": len(own)}
        for name in QUANTITIES:
            found = _minimum(own, name, minimum, reach, replicates, confidence, seed)
            loss, curvature = found.pop("loss"), found.pop("curvature")
            row |= {f"{name}{key}": value for key, value in found.items()}
            if name == "n_params":
                row |= {"loss": loss, "curvature": curvature}
        rows.append(row)
    minima = pl.DataFrame(rows, infer_schema_length=None)
    laws, reasons = {}, {}
    for name in QUANTITIES:
        usable = minima.filter(pl.col(f"{name}_reason") == "")
        if len(usable) < LEAST_BUDGETS:
            said = minima.filter(pl.col(f"{name}_reason") != "")[f"{name}_reason"]
            words = "; ".join(said.unique(maintain_order=True))
            rule = f"a law of C needs {LEAST_BUDGETS} budgets with a minimum" + (words and ": ")
            reasons[name] = str(FitError.of("budgets", len(usable), rule + words, LEAST_BUDGETS))
            continue
        laws[name] = fit_power(usable[name].to_numpy(), usable["flops"].to_numpy())
    return IsoFlop(minima, laws, reasons, len(runs) - used, minimum, confidence)


def _minimum(
    runs: pl.DataFrame,
    name: str,
    minimum: Minimum,
    reach: float | None,
    replicates: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """One budget's minimum over N or D: "", _low, _high, _reason, loss and curvature."""
    means = runs.group_by(name).agg(pl.col("loss").mean()).sort(name)
    x, loss = means[name].to_numpy(), means["loss"].to_numpy()
    lowest = x[np.argmin(loss)]
    if reach is not None:
        near = np.abs(np.log(x / lowest)) <= np.log(reach) * (1 + 1e-9)
        if near.sum() < LEAST_RUNS:
            near = np.argsort(np.abs(np.log(x / lowest)))[:LEAST_RUNS]
            near = np.isin(np.arange(len(x)), near)
        x, loss = x[near], loss[near]
    by_parabola = minimum == "parabola" and replicates > 0
    result = fitting.fit(
        "log_quadratic",
        x,
        loss,
        bootstrap="parametric" if by_parabola else None,
        replicates=max(replicates, 1),
        seed=seed,
        errors="status",
    )
    curvature, level = float(result["C"][0]), float(result["L_min"][0])
    best = float(result["eta_opt"][0])
    convex = curvature > 0 and not int(result.flags[0]) & Flag.NOT_CONVEX
    fitted = result.predict(x) if convex else loss
    freedom = len(x) - 3
    noise = float(np.sqrt(((loss - fitted) ** 2).sum() / freedom)) if freedom > 0 else 0.0
    draws = np.empty(0)
    if minimum == "parabola":
        reason = "" if convex else "the losses have no minimum"
        if convex and by_parabola and noise > 0:
            draws = result.replicates("eta_opt")[0]
            draws = draws[(result.replicates("C")[0] > 0) & np.isfinite(draws)]
    else:
        best, level = _akima_minimum(x, loss)
        reason = ""
        noise = _noise_near(x, loss)
        if replicates and noise > 0:
            errors = np.random.default_rng(seed).standard_normal((replicates, len(x)))
            noisy = loss + noise * errors
            draws = np.array([_akima_minimum(x, each)[0] for each in noisy])
    if not reason and not x[0] * (1 + 1e-9) < best < x[-1] * (1 - 1e-9):
        word = "N" if name == "n_params" else "D"
        reason = f"the minimum lies outside the {word} that were run"
    low = high = None
    if not reason and len(draws) >= max(replicates / 2, 2):
        logs = np.log(draws[draws > 0])
        low, high = replicate_interval(logs, best, max(freedom, 1), confidence)
    return {
        "": best if not reason else None,
        "_low": low,
        "_high": high,
        "_reason": reason,
        "loss": level,
        "curvature": curvature,
    }


def _noise_near(x: Array, loss: Array) -> float:
    """Standard deviation of the losses about the parabola through those near the lowest."""
    distance = np.abs(np.log(x / x[np.argmin(loss)]))
    near = distance <= max(np.log(NEAR), np.sort(distance)[: LEAST_RUNS + 1][-1])
    result = fitting.fit("log_quadratic", x[near], loss[near], errors="status")
    freedom = int(near.sum()) - 3
    if freedom < 1 or not np.isfinite(result.rms[0]):
        return 0.0
    return float(result.rms[0] * np.sqrt(near.sum() / freedom))


def _akima_minimum(x: Array, loss: Array) -> tuple[float, float]:
    """Where Akima's curve of log loss over log x is lowest, and the loss there."""
    places = np.linspace(np.log(x[0]), np.log(x[-1]), FINE)
    values = Akima1DInterpolator(np.log(x), np.log(loss))(places)
    least = int(np.argmin(values))
    return float(np.exp(places[least])), float(np.exp(values[least]))
