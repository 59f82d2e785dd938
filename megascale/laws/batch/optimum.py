"""B_min and B_opt against loss, and the best batch as a curve over tokens.

Every target loss gives the best batch B_opt and the tokens E_min it takes to that loss. No other
batch gets there on fewer, so after E_min tokens no other batch has a lower loss: the best batch
for a loss is the best batch for a data budget (arXiv 2601.05034), and the pairs (E_min, B_opt) are
points of B_opt(D). A power law through them, or the points themselves, make a law file that
`megascale schedule` and the trainer's `batch.law` take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from megascale import fitting
from megascale.curves.crossings import by_batch, by_setting
from megascale.curves.curve import Array, Curve, mean_curve
from megascale.errors import FitError
from megascale.fitting.intervals import stretch, stretched_percentiles
from megascale.laws.batch.rivals import Rival, log_distances
from megascale.laws.batch.tokens_steps import TokensStepsFits
from megascale.laws.power import PowerLaw, exponents_of, fit_power

WIDEST_LOG_ERROR = 1.0
"""A best batch known no better than to this factor of e says nothing and is not used."""
LEAST_REPLICATES = 20

OUTSIDE = "the best batch lies outside the batches that were run"
BELOW, ABOVE = "below the smallest", "above the largest"


@dataclass(frozen=True)
class OptimalBatches:
    """Best batches of all groups with their joint bootstrap.

    Attributes:
        law: of tokens and steps they come from.
        table: n_params, lr, target_loss, tokens (E_min), batch_tokens (B_opt) with low and high,
            log_error, batch_min (B_min; null where the law has none), rms, used and reason.
        log_tokens, log_batch: (replicates, rows), NaN where a replicate has no optimum.
        confidence: of low and high.
        freedom: degrees of freedom of each row's error.
        sensitivity: of each row, error of log B_opt over that of one point's log E.
        rivals: (Akaike weight, log_tokens, log_batch) of other laws, one a row; NaN where unknown.
    """

    law: str
    table: pl.DataFrame
    log_tokens: Array
    log_batch: Array
    confidence: float
    freedom: Array
    sensitivity: Array
    rivals: Sequence[tuple[float, Array, Array]] = ()

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """Rows that count for B_opt(D)."""
        return self.table["used"].to_numpy()


def optimal_batches(
    fits: TokensStepsFits,
    *,
    replicates: int = 200,
    confidence: float = 0.9,
    seed: int = 0,
    rivals: Sequence[Rival] = (),
) -> OptimalBatches:
    """The best batch for every target, with bands from the joint bootstrap.

    Student's t with the runs' freedom stretches them (`fitting.intervals`), and what other laws say
    of the same points widens them (`laws.batch.rivals`).

    A row is used where its fit converged, its best batch lies inside the batches of its points,
    and its error is below a factor of e; `reason` says what failed.

    Raises:
        FitError: the law has no best batch (`classic`).
    """
    if fits.law == "classic":
        raise FitError.of("law", "classic", "has no best batch: tokens only rise with it", "wsd")
    best, inside = fits.optimum(), fits.bracketed()
    drawn = fits.replicates(replicates, seed=seed)
    draws = drawn.values
    with np.errstate(all="ignore"):
        log_tokens, log_batch = np.log(draws["E_min"]), np.log(draws["B_opt"])
    log_tokens[~np.isfinite(log_tokens)] = np.nan
    log_batch[~np.isfinite(log_batch)] = np.nan
    factor, _ = stretch("parametric", confidence, drawn.freedom, 0)
    reach = factor * stats.norm.ppf(0.5 + confidence / 2)
    apart = {name: log_distances(fits, rivals, name) for name in ("E_min", "B_opt", "B_min")}
    limits = {
        name: _widened(
            stretched_percentiles(draws[name].T, confidence, factor), best[name], reach, distances
        )
        for name, distances in apart.items()
    }
    rows, sensitivity = [], []
    run, spent = (fits.points[name].to_numpy() for name in ("batch_tokens", "tokens"))
    for g, group in enumerate(fits.groups):
        values = log_batch[np.isfinite(log_batch[:, g]), g]
        known = len(values) >= replicates / 2
        error = float(values.std()) if known else float("nan")
        reason = ""
        if not fits.result.converged[g]:
            reason = "the fit did not converge"
        elif not inside[g]:
            own = slice(fits.offsets[g], fits.offsets[g + 1])
            fewest = run[own][np.argmin(spent[own])]
            below = fewest == run[own].min() or best["B_opt"][g] <= run[own].min()
            reason = f"{OUTSIDE}, {BELOW if below else ABOVE}"
        elif not known or error > WIDEST_LOG_ERROR:
            reason = "the best batch is not determined"
        sensitivity.append(error / drawn.scale[g] if drawn.scale[g] > 0 else np.nan)
        ends = {
            f"{column}_{side}": float(limits[name][i, g])
            if known and np.isfinite(limits[name][i, g])
            else None
            for name, column in (("E_min", "tokens"), ("B_opt", "batch"), ("B_min", "batch_min"))
            for i, side in enumerate(("low", "high"))
        }
        middle = float(best["B_opt"][g])
        smallest = float(best["B_min"][g])
        rows.append(
            {
                "n_params": group.n_params,
                "lr": group.lr,
                "target_loss": group.target_loss,
                "tokens": float(best["E_min"][g]),
                "tokens_low": ends["tokens_low"],
                "tokens_high": ends["tokens_high"],
                "batch_tokens": middle,
                "low": ends["batch_low"],
                "high": ends["batch_high"],
                "log_error": error,
                "batch_min": smallest if np.isfinite(smallest) else None,
                "batch_min_low": ends["batch_min_low"],
                "batch_min_high": ends["batch_min_high"],
                "rms": float(fits.result.rms[g]),
                "used": not reason,
                "reason": reason,
            }
        )
    table = pl.DataFrame(rows, infer_schema_length=None)
    return OptimalBatches(
        fits.law,
        table,
        log_tokens,
        log_batch,
        confidence,
        drawn.freedom,
        np.array(sensitivity),
        [
            (weight, np.log(best["E_min"]) + tokens, np.log(best["B_opt"]) + batch)
            for (weight, tokens), (_, batch) in zip(apart["E_min"], apart["B_opt"], strict=True)
        ],
    )


def _widened(
    limits: Array, middle: Array, reach: Array, distances: Sequence[tuple[float, Array]]
) -> Array:
    """Limits with the distances to rivals added in quadrature, in logs."""
    between = sum((weight * np.nan_to_num(d) ** 2 for weight, d in distances), np.zeros(len(reach)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        half = np.log(limits / middle)
        half = np.sign(half) * np.sqrt(half**2 + reach**2 * between)
        # A limit on the wrong side of the estimate moves to its own.
        half = np.where(between > 0, np.array([[-1.0], [1.0]]) * np.abs(half), half)
        return middle * np.exp(half)


@dataclass(frozen=True)
class BatchPower:
    """B_opt as a power law of D, and of N where the points hold several.

    Attributes:
        law: the law; its covariance is the bootstrap's, widened by `birge` squared.
        birge: root of the reduced chi-squared of the points against their bootstrap errors, at
            least 1: above it the points are no power law within their errors.
    """

    law: PowerLaw
    birge: float


def fit_batch_power(optimal: OptimalBatches) -> BatchPower:
    """The power law of B_opt in D, and in N where the points hold several.

    Points weigh by their bootstrap variance.

    Raises:
        FitError: fewer usable points than the law has parameters, or tokens that do not vary.
    """
    rows = optimal.table.filter(pl.col("used"))
    sizes = rows["n_params"].drop_nulls()
    with_n = len(sizes) == len(rows) and sizes.n_unique() > 1
    needed = 3 if with_n else 2
    if len(rows) < needed:
        unused = optimal.table.filter(~pl.col("used"))["reason"]
        reasons = unused.unique(maintain_order=True).to_list()
        nearest = []
        if any(BELOW in reason for reason in reasons):
            nearest.append("run smaller batches, or longer: the best batch grows as the loss falls")
        if any(ABOVE in reason for reason in reasons):
            nearest.append("run larger batches")
        raise FitError.of(
            "targets with a best batch",
            f"{len(rows)} of {len(optimal.table)}",
            f"B_opt(D) needs {needed}; {'; '.join(reasons)}",
            nearest or None,
        )
    spread = np.nan_to_num(optimal.sensitivity[optimal.used], nan=1.0)
    weight = (spread.min() / spread) ** 2
    n = rows["n_params"].to_numpy() if with_n else None
    d, batch = rows["tokens"].to_numpy(), rows["batch_tokens"].to_numpy()
    law = fit_power(batch, d, n, weights=weight)
    covariance, expected = _replicate_covariance(optimal, n, weight)
    residual = np.log(batch / law.at(n, d))
    birge = max(1.0, float(np.sqrt((weight * residual**2).sum() / expected)))
    covariance = covariance * birge**2 + _between_laws(optimal, n, weight, law)
    known = len(sizes) == len(rows)
    n_range = (float(sizes.to_numpy().min()), float(sizes.to_numpy().max())) if known else None
    law = replace(law, covariance=covariance, n_range=n_range, freedom=_freedom(optimal))
    return BatchPower(law, birge)


def _between_laws(optimal: OptimalBatches, n: Array | None, weight: Array, law: PowerLaw) -> Array:
    """Sum of w d d' over the rivals, d their (log coef, a, b) less the law's own."""
    total = np.zeros((3, 3))
    for share, log_tokens, log_batch in optimal.rivals:
        there = np.isfinite(log_tokens[optimal.used]) & np.isfinite(log_batch[optimal.used])
        columns = [np.ones(int(there.sum()))] + ([] if n is None else [np.log(n[there])])
        place = [0, 2] if n is None else [0, 1, 2]
        if there.sum() < len(place):
            continue
        tokens, batch = (v[optimal.used][there] for v in (log_tokens, log_batch))
        own = law.at(None if n is None else n[there], np.exp(tokens))
        x = np.stack([*columns, tokens], axis=1) * np.sqrt(weight[there])[:, None]
        away = np.linalg.lstsq(x, np.sqrt(weight[there]) * (batch - np.log(own)), rcond=1e-10)[0]
        step = np.zeros(3)
        step[place] = away
        total += share * np.outer(step, step)
    return total


def _freedom(optimal: OptimalBatches) -> float:
    """Degrees of freedom of the law's errors: those of the settings' runs together."""
    rows = optimal.table.with_columns(freedom=pl.Series(optimal.freedom)).filter(pl.col("used"))
    least = rows.group_by("n_params", "lr").agg(pl.col("freedom").mean())
    return float(least["freedom"].sum())


def _replicate_covariance(
    optimal: OptimalBatches, n: Array | None, weight: Array
) -> tuple[Array, float]:
    """Covariance of (log coef, a, b) over the bootstrap replicates.

    Also the mean of their weighted squared residuals: what noise alone leaves around the law.
    """
    log_d, log_b = optimal.log_tokens[:, optimal.used], optimal.log_batch[:, optimal.used]
    whole = np.isfinite(log_d).all(axis=1) & np.isfinite(log_b).all(axis=1)
    if whole.sum() < LEAST_REPLICATES:
        raise FitError.of(
            "bootstrap",
            f"{int(whole.sum())} whole replicates",
            f"fewer than {LEAST_REPLICATES} have all targets",
        )
    d, batch = np.exp(log_d[whole]), np.exp(log_b[whole])
    x = d[None] if n is None else np.stack([np.broadcast_to(n, d.shape), d])
    result = fitting.fit(
        "power_law",
        x.reshape(len(x), -1),
        batch.ravel(),
        offsets=np.arange(len(d) + 1) * d.shape[1],
        weights=np.broadcast_to(weight, d.shape).ravel(),
        residual="log",
        errors="status",
    )
    coef, exponents = exponents_of(result, n is not None)
    draws = np.column_stack([np.log(coef), exponents])
    good = np.isfinite(draws).all(axis=1)
    return np.cov(draws[good], rowvar=False), float(result.objective[good].mean())


def best_batch_at_tokens(
    curves: Iterable[Curve], tokens: Sequence[float], *, reach: float = 4.0
) -> pl.DataFrame:
    """The batch of lowest loss after so many tokens, straight from the curves.

    A quadratic in log B through the batches within `reach` of the lowest loss. It asks the second
    question of the equivalence, without E(S).

    Args:
        curves: of constant batch; seeds of one batch are averaged.
        tokens: data budgets.
        reach: batches within this factor of the best one enter the quadratic.

    Returns:
        n_params, lr, tokens, batch_tokens, log_error, loss; budgets at which fewer than four
        batches have a loss, or where the minimum lies outside the batches, have nulls.
    """
    rows = []
    for (n_params, lr), group in by_setting(curves).items():
        means = [mean_curve(same) for same in by_batch(group).values()]
        sizes = np.array([curve.batch_tokens for curve in means], dtype=np.float64)
        for budget in tokens:
            losses = np.array([float(curve.at(budget)) for curve in means])
            found = _quadratic_minimum(sizes, losses, reach)
            rows.append({"n_params": n_params, "lr": lr, "tokens": float(budget), **found})
    return pl.DataFrame(rows, infer_schema_length=None)


def _quadratic_minimum(batch: Array, loss: Array, reach: float) -> dict[str, float | None]:
    none: dict[str, float | None] = {"batch_tokens": None, "log_error": None, "loss": None}
    known = np.isfinite(loss)
    if known.sum() < 4:
        return none
    batch, loss = batch[known], loss[known]
    near = np.abs(np.log(batch / batch[np.argmin(loss)])) <= np.log(reach) + 1e-9
    if near.sum() < 4:
        near = np.argsort(np.abs(np.log(batch / batch[np.argmin(loss)])))[:4]
    result = fitting.fit("log_quadratic", batch[near], loss[near], errors="status")
    best = float(result["eta_opt"][0])
    if not result["C"][0] > 0 or not batch.min() <= best <= batch.max():
        return none
    error = float(result.errors["eta_opt"][0] / best)
    return {"batch_tokens": best, "log_error": error, "loss": float(result["L_min"][0])}


def equivalence(optimal: OptimalBatches, curves: Iterable[Curve]) -> pl.DataFrame:
    """The two best batches side by side: for the loss, and for the tokens it took.

    Returns:
        The used rows of `optimal.table` with `by_tokens`, the best batch after E_min tokens, and
        `log_ratio`, log of that over B_opt. By the equivalence it is zero up to noise.
    """
    rows = optimal.table.filter(pl.col("used"))
    curves = list(curves)
    found = []
    for n_params, lr, tokens in rows.select("n_params", "lr", "tokens").iter_rows():
        same = [curve for curve in curves if (curve.n_params, curve.lr) == (n_params, lr)]
        table = best_batch_at_tokens(same, [tokens])
        found.append(table["batch_tokens"][0] if len(table) else None)
    by_tokens = pl.Series("by_tokens", found, dtype=pl.Float64)
    return rows.with_columns(by_tokens, (by_tokens / rows["batch_tokens"]).log().alias("log_ratio"))
