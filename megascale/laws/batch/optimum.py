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

from megascale import fitting
from megascale.arrays import Array
from megascale.curves.crossing import by_batch, by_setting
from megascale.curves.curve import Curve, mean_curve
from megascale.errors import FitError
from megascale.fitting.status import FLAG_TEXT, Flag
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
    """

    law: str
    table: pl.DataFrame
    log_tokens: Array
    log_batch: Array
    confidence: float

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """Rows that count for B_opt(D)."""
        return self.table["used"].to_numpy()


def optimal_batches(
    fits: TokensStepsFits, *, replicates: int = 200, confidence: float = 0.9, seed: int = 0
) -> OptimalBatches:
    """The best batch for every target, with bands from the joint bootstrap.

    A row is used where its fit converged, its best batch lies inside the batches of its points,
    and its error is below a factor of e; `reason` says what failed.

    Raises:
        FitError: the law has no best batch (`classic`).
    """
    if fits.law == "classic":
        raise FitError.of("law", "classic", "has no best batch: tokens only rise with it", "wsd")
    best, inside = fits.optimum(), fits.bracketed()
    draws = fits.replicates(replicates, seed=seed)
    with np.errstate(all="ignore"):
        log_tokens, log_batch = np.log(draws["E_min"]), np.log(draws["B_opt"])
    log_tokens[~np.isfinite(log_tokens)] = np.nan
    log_batch[~np.isfinite(log_batch)] = np.nan
    tail = 50 * (1 - confidence)
    rows = []
    run, spent = (fits.points[name].to_numpy() for name in ("batch_tokens", "tokens"))
    for g, group in enumerate(fits.groups):
        values = log_batch[np.isfinite(log_batch[:, g]), g]
        known = len(values) >= replicates / 2
        error = float(values.std()) if known else float("nan")
        reason = ""
        flags = int(fits.result.flags[g])
        if not fits.result.solved[g]:
            reason = "the fit did not converge"
        elif not inside[g]:
            own = slice(fits.offsets[g], fits.offsets[g + 1])
            fewest = run[own][np.argmin(spent[own])]
            below = fewest == run[own].min() or best["B_opt"][g] <= run[own].min()
            reason = f"{OUTSIDE}, {BELOW if below else ABOVE}"
        elif flags & (Flag.NEVER_REACHED | Flag.ABOVE_NOISE):
            reason = "; ".join(
                FLAG_TEXT[f] for f in (Flag.NEVER_REACHED, Flag.ABOVE_NOISE) if f & flags
            )
        elif not known or error > WIDEST_LOG_ERROR:
            reason = "the best batch is not determined"
        low, high = np.exp(np.percentile(values, [tail, 100 - tail])) if known else (np.nan, np.nan)
        middle = float(best["B_opt"][g])
        smallest = float(best["B_min"][g])
        rows.append(
            {
                "n_params": group.n_params,
                "lr": group.lr,
                "target_loss": group.target_loss,
                "tokens": float(best["E_min"][g]),
                "batch_tokens": middle,
                "low": min(float(low), middle) if known else None,
                "high": max(float(high), middle) if known else None,
                "log_error": error,
                "batch_min": smallest if np.isfinite(smallest) else None,
                "rms": float(fits.result.rms[g]),
                "used": not reason,
                "reason": reason,
            }
        )
    table = pl.DataFrame(rows, infer_schema_length=None)
    return OptimalBatches(fits.law, table, log_tokens, log_batch, confidence)


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
    variance = np.maximum(rows["log_error"].to_numpy(), 1e-6) ** 2
    weight = variance.min() / variance
    n = rows["n_params"].to_numpy() if with_n else None
    d, batch = rows["tokens"].to_numpy(), rows["batch_tokens"].to_numpy()
    law = fit_power(batch, d, n, weights=weight)
    residual = np.log(batch / law.at(n, d))
    freedom = max(len(rows) - needed, 1)
    birge = max(1.0, float(np.sqrt((residual**2 / variance).sum() / freedom)))
    covariance = _replicate_covariance(optimal, n, weight) * birge**2
    known = len(sizes) == len(rows)
    n_range = (float(sizes.to_numpy().min()), float(sizes.to_numpy().max())) if known else None
    return BatchPower(replace(law, covariance=covariance, n_range=n_range), birge)


def _replicate_covariance(optimal: OptimalBatches, n: Array | None, weight: Array) -> Array:
    """Covariance of (log coef, a, b) over the bootstrap replicates."""
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
    return np.cov(draws[np.isfinite(draws).all(axis=1)], rowvar=False)


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
