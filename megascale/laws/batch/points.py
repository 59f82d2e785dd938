"""Tokens and steps to a target loss: (S, E) points cut from loss curves.

E is where the curve's trend first has the loss (`curves.reach`), S is E / B, so that E = B S holds
exactly; the batch is kept beside both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from megascale.curves.crossing import by_batch
from megascale.curves.curve import Curve, mean_curve
from megascale.curves.reach import reach
from megascale.errors import FitError

POINT_SCHEMA = {
    "run": pl.String,
    "n_params": pl.Float64,
    "lr": pl.Float64,
    "target_loss": pl.Float64,
    "batch_tokens": pl.Float64,
    "tokens": pl.Float64,
    "steps": pl.Float64,
    "log_error": pl.Float64,
    "ramp_tokens": pl.Float64,
}
"""Columns of a table of points: `tokens` is E, `steps` is S, `log_error` of both or null;
`ramp_tokens` of these tokens were lost to the rise of the learning rate (`at_peak_rate`)."""

SCANNED = 120
"""Losses looked at when targets are chosen."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """Points, and the (run, target) pairs that gave none with the reason."""

    points: pl.DataFrame
    missed: pl.DataFrame


def extract(curves: Iterable[Curve], targets: Sequence[float]) -> Extraction:
    """Tokens E and steps S at which every curve reaches every target.

    Args:
        curves: of constant batch; others are refused.
        targets: losses in nats per token.

    Returns:
        Points with the columns of `POINT_SCHEMA`. Targets above a curve's first loss or below its
        lowest are missed, never extrapolated.

    Raises:
        FitError: no target, or a curve without a constant batch.
    """
    if not len(targets) or not np.isfinite(np.asarray(targets, dtype=np.float64)).all():
        raise FitError.of("targets", list(targets), "must be losses in nats per token")
    rows, missed = [], []
    for curve in curves:
        if curve.batch_tokens is None:
            raise FitError.of("curve", curve.run, "its batch changed; E(S) needs a constant one")
        for target in map(float, targets):
            found = reach(curve, target)
            if isinstance(found, str):
                missed.append({"run": curve.run, "target_loss": target, "reason": found})
                continue
            rows.append(
                {
                    "run": curve.run,
                    "n_params": curve.n_params,
                    "lr": curve.lr,
                    "target_loss": target,
                    "batch_tokens": curve.batch_tokens,
                    "tokens": found.tokens,
                    "steps": found.tokens / curve.batch_tokens,
                    "log_error": found.log_error if np.isfinite(found.log_error) else None,
                    "ramp_tokens": curve.ramp_tokens,
                }
            )
    schema = {"run": pl.String, "target_loss": pl.Float64, "reason": pl.String}
    return Extraction(pl.DataFrame(rows, POINT_SCHEMA), pl.DataFrame(missed, schema))


def at_peak_rate(points: pl.DataFrame) -> pl.DataFrame:
    """Points with E and S counted at the peak learning rate, for laws that know no warmup.

    A warmup of some steps costs a run as many tokens as its batch is large, which a law of tokens
    and steps would take for an effect of the batch. Points that are reached before a run would have
    begun at its peak are left out.

    Args:
        points: with the columns of `POINT_SCHEMA`; those without `ramp_tokens` are as they were.
    """
    if "ramp_tokens" not in points.columns:
        return points
    counted = pl.col("tokens") - pl.col("ramp_tokens").fill_null(0.0)
    return (
        points.with_columns(counted.alias("tokens"))
        .filter(pl.col("tokens") > 0)
        .with_columns((pl.col("tokens") / pl.col("batch_tokens")).alias("steps"))
    )


def choose_targets(curves: Iterable[Curve], count: int = 8, *, min_batches: int = 6) -> list[float]:
    """Target losses, falling, that at least `min_batches` batch sizes reach.

    Of the losses that so many batch sizes pass, those are taken at which the batch that gets there
    first is neither the smallest nor the largest, since they alone enclose a best batch; all of
    them where there is no such loss. The targets are evenly spaced in the tokens' logarithm of
    the batch that is first at the lowest.

    Raises:
        FitError: fewer batch sizes than that, or no loss that so many curves pass.
    """
    seeds = by_batch(curves)
    if count < 2:
        raise FitError.of("count", count, "must be at least 2", 8)
    if len(seeds) < min_batches:
        shown = ", ".join(f"{batch:,.0f}" for batch in seeds)
        rule = f"a best batch needs runs of at least {min_batches} at one N and learning rate"
        nearest = f"run {max(6, min_batches) - len(seeds)} more, over a factor of 16 in all"
        raise FitError.of("batch sizes", f"{len(seeds)} ({shown} tokens)", rule, nearest)
    means = [mean_curve(same) for same in seeds.values()]
    low = sorted(curve.lowest for curve in means)[min_batches - 1]
    fastest = min(means, key=lambda curve: _tokens_at(curve, low))
    last = _tokens_at(fastest, low)
    places = np.geomspace(fastest.tokens[0], last, SCANNED)[1:]
    falling = np.minimum.accumulate(fastest.trend.loss)
    losses = np.interp(np.log(places), fastest.trend.x, falling)
    needed = np.array([[_tokens_at(curve, loss) for curve in means] for loss in losses])
    passed = np.isfinite(needed).sum(axis=1) >= min_batches
    if not passed.any():
        raise _no_common_loss(means, min_batches)
    first = np.argmin(needed, axis=1)
    reached = np.isfinite(needed)
    enclosed = (
        passed
        & (first > np.argmax(reached, axis=1))
        & (first < len(means) - 1 - np.argmax(reached[:, ::-1], axis=1))
    )
    usable = np.flatnonzero(enclosed if enclosed.sum() >= 2 else passed)
    chosen = losses[np.round(np.linspace(usable[0], usable[-1], count)).astype(int)]
    rounded = {float(np.ceil(loss * 1e4) / 1e4) for loss in chosen}
    return sorted(rounded, reverse=True)


def _no_common_loss(means: Sequence[Curve], least: int) -> FitError:
    """What every batch passes, and what to do about it."""
    spans = ", ".join(
        f"{curve.batch_tokens:,.0f} from {curve.loss[0]:.3f} to {curve.lowest:.3f}"
        for curve in means
    )
    rule = (
        f"no loss is passed by {least} of the {len(means)} batch sizes ({spans}), and a best batch "
        "can be told only at a loss that so many pass"
    )
    nearest = ["train the slowest batches longer", "log more often early in the run"]
    if means[0].loss_kind.startswith("validation"):
        nearest.append("take training losses (--loss train)")
    return FitError.of("target losses", "none", rule, nearest)


def _tokens_at(curve: Curve, target: float) -> float:
    found = reach(curve, target)
    return np.inf if isinstance(found, str) else found.tokens
