"""B_min and B_opt of every target loss, with bands from the joint bootstrap of all of them.

Every target loss gives the best batch B_opt and the tokens E_min it takes to that loss. No other
batch gets there on fewer, so after E_min tokens no other batch has a lower loss: the best batch
for a loss is the best batch for a data budget (arXiv 2601.05034), and the pairs (E_min, B_opt) are
points of B_opt(D). A power law through them (`batch_power`), or the points themselves, make a law
file that `megascale schedule` and the trainer's `batch.law` take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.percentiles import stretch, stretched_percentiles
from megascale.fitting.status import FLAG_TEXT, Flag
from megascale.laws.batch.point_errors import draw_point_errors
from megascale.laws.batch.rivals import Rival, log_distances
from megascale.laws.batch.tokens_steps import TokensStepsFits

WIDEST_LOG_ERROR = 1.0
"""A best batch known no better than to this factor of e says nothing and is not used."""

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
        sensitivity: of each row, the error of log B_opt that the points' expected errors make.
        rivals: (law, Akaike weight, log_tokens, log_batch) of other laws, one a row; NaN where
            unknown.
    """

    law: str
    table: pl.DataFrame
    log_tokens: Array
    log_batch: Array
    confidence: float
    freedom: Array
    sensitivity: Array
    rivals: Sequence[tuple[str, float, Array, Array]] = ()

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

    Student's t with the runs' freedom stretches them (`fitting.percentiles`), and what other laws
    say of the same points widens them (`laws.batch.rivals`).

    A row is used where its fit converged, its best batch lies inside the batches of its points,
    and its error is below a factor of e; `reason` says what failed.

    Raises:
        FitError: the law has no best batch (`classic`).
    """
    if fits.law == "classic":
        raise FitError.of("law", "classic", "has no best batch: tokens only rise with it", "wsd")
    best, inside = fits.optimum(), fits.bracketed()
    drawn = draw_point_errors(fits, replicates, seed)
    draws = fits.refitted(drawn.draws)
    with np.errstate(all="ignore"):
        log_tokens, log_batch = np.log(draws["E_min"]), np.log(draws["B_opt"])
    log_tokens[~np.isfinite(log_tokens)] = np.nan
    log_batch[~np.isfinite(log_batch)] = np.nan
    factor, _ = stretch("errors", confidence, drawn.freedom, 0)
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
            (
                rival.fits.law,
                rival.weight,
                np.log(best["E_min"]) + tokens,
                np.log(best["B_opt"]) + batch,
            )
            for rival, (_, tokens), (_, batch) in zip(
                rivals, apart["E_min"], apart["B_opt"], strict=True
            )
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
