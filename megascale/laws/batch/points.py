"""Tokens and steps to a target loss: (S, E) points cut from loss curves.

`local`: the power law L = L0 + A D^-gamma fitted to the curve around the target and inverted; the
error of log E is that of the fitted loss at E over the slope there. `first`: the first place where
the smoothed curve is at the target, by a straight line in log tokens. E = B S holds exactly: S is
E / B, and the batch is kept beside both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from megascale import fitting
from megascale.curves.crossings import by_batch
from megascale.curves.curve import Array, Curve, mean_curve
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
    "method": pl.String,
}
"""Columns of a table of points: `tokens` is E, `steps` is S, `log_error` of both."""

MIN_LOCAL_POINTS = 6
MAX_SPAN = 8.0
SCANNED = 120
"""Losses looked at when targets are chosen."""
FIRST = "first"
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Extraction:
    """Points, and the (run, target) pairs that gave none with the reason."""

    points: pl.DataFrame
    missed: pl.DataFrame


def extract(
    curves: Iterable[Curve],
    targets: Sequence[float],
    *,
    method: Literal["local", "first"] = "local",
    span: float = 2.0,
) -> Extraction:
    """Tokens E and steps S at which every curve reaches every target.

    Args:
        curves: of constant batch; others are refused.
        targets: losses in nats per token.
        method: "local" or "first", see the module. Where "local" has fewer than six points within
            a factor of eight, or its fit does not reach the target near the crossing, the point
            says "first".
        span: the local fit takes points within this factor of the first crossing's tokens, more
            where that holds fewer than six.

    Returns:
        Points with the columns of `POINT_SCHEMA`. Targets above a curve's first loss or below its
        lowest are missed, never extrapolated.

    Raises:
        FitError: no target, a curve without a constant batch, or an illegal option.
    """
    if method not in (LOCAL, FIRST):
        raise FitError.of("method", method, "must be local or first", LOCAL)
    if not span > 1:
        raise FitError.of("span", span, "must be above 1", 2.0)
    if not len(targets) or not np.isfinite(np.asarray(targets, dtype=np.float64)).all():
        raise FitError.of("targets", list(targets), "must be losses in nats per token")
    rows: list[dict[str, Any]] = []
    missed, local = [], []
    for curve in curves:
        if curve.batch_tokens is None:
            raise FitError.of("curve", curve.run, "its batch changed; E(S) needs a constant one")
        for target in targets:
            place = first_crossing(curve, float(target))
            if isinstance(place, str):
                missed.append({"run": curve.run, "target_loss": float(target), "reason": place})
                continue
            rows.append(_row(curve, float(target), *place))
            local.append(_neighbourhood(curve, place[0], span))
    if method == LOCAL:
        _refine(rows, local)
    for row in rows:
        row["steps"] = row["tokens"] / row["batch_tokens"]
    points = pl.DataFrame(rows, schema=POINT_SCHEMA)
    schema = {"run": pl.String, "target_loss": pl.Float64, "reason": pl.String}
    return Extraction(points, pl.DataFrame(missed, schema=schema))


def _row(curve: Curve, target: float, tokens: float, log_error: float) -> dict[str, Any]:
    return {
        "run": curve.run,
        "n_params": curve.n_params,
        "lr": curve.lr,
        "target_loss": target,
        "batch_tokens": curve.batch_tokens,
        "tokens": tokens,
        "log_error": log_error,
        "method": FIRST,
    }


def first_crossing(curve: Curve, target: float) -> tuple[float, float] | str:
    """Tokens where the curve first comes down to the target, and the error of their logarithm.

    In words where it does not.
    """
    below = np.flatnonzero(curve.loss <= target)
    if len(below) == 0:
        return f"not reached: the lowest loss is {curve.loss.min():.4f}"
    at = int(below[0])
    if at == 0:
        return f"the curve starts below it, at {curve.loss[0]:.4f}"
    x = np.log(curve.tokens[at - 1 : at + 1])
    y = curve.loss[at - 1 : at + 1]
    share = (y[0] - target) / (y[0] - y[1])
    variance = ((1 - share) * curve.error[at - 1]) ** 2 + (share * curve.error[at]) ** 2
    slope = (y[0] - y[1]) / (x[1] - x[0])
    return float(np.exp(x[0] + share * (x[1] - x[0]))), float(np.sqrt(variance) / slope)


def _neighbourhood(curve: Curve, tokens: float, span: float) -> tuple[Array, Array, Array]:
    """Tokens, loss and error of the points around a place, at least six within the widest span."""
    distance = np.abs(np.log(curve.tokens / tokens))
    reach = np.log(span)
    if (distance <= reach).sum() < MIN_LOCAL_POINTS:
        nearest = np.sort(distance)[:MIN_LOCAL_POINTS]
        reach = min(float(nearest[-1]), np.log(MAX_SPAN))
    near = distance <= reach
    return curve.tokens[near], curve.loss[near], curve.error[near]


def _refine(rows: list[dict[str, Any]], local: list[tuple[Array, Array, Array]]) -> None:
    """Replace first crossings by inverted local power laws where these can be had."""
    able = [i for i, (tokens, _, _) in enumerate(local) if len(tokens) >= MIN_LOCAL_POINTS]
    if not able:
        return
    weights = [_weights(local[i][2]) for i in able]
    result = fitting.fit(
        "loss_curve",
        [local[i][0] for i in able],
        [local[i][1] for i in able],
        weights=weights,
        residual="absolute",
        errors="status",
    )
    for problem, i in enumerate(able):
        tokens, loss, error = local[i]
        values = {name: float(result[name][problem]) for name in ("L0", "A", "gamma")}
        found = _invert(values, tokens, loss, error, rows[i]["target_loss"])
        if found is not None and result.solved[problem]:
            rows[i]["tokens"], rows[i]["log_error"] = found
            rows[i]["method"] = LOCAL


def _weights(error: Array) -> Array:
    if not np.isfinite(error).all() or (error <= 0).any():
        return np.ones_like(error)
    return (error.min() / error) ** 2


def _invert(
    p: dict[str, float], tokens: Array, loss: Array, error: Array, target: float
) -> tuple[float, float] | None:
    """E of the local law, and the error of log E; None where the law misses the neighbourhood."""
    gap = target - p["L0"]
    if not (gap > 0 and p["A"] > 0 and p["gamma"] > 0):
        return None
    log_e = (np.log(p["A"]) - np.log(gap)) / p["gamma"]
    x = np.log(tokens)
    if not x[0] - 0.1 <= log_e <= x[-1] + 0.1:
        return None
    weight = _weights(error)
    # Columns dL/dL0, dL/dlogA and dL/dgamma, with tokens measured in units of E.
    u = x - log_e
    power = np.exp(-p["gamma"] * u)
    design = np.stack([np.ones_like(u), power, -u * power], axis=1)
    residual = loss - (p["L0"] + gap * power)
    scatter = float((weight * residual**2).sum()) / max(len(u) - 3, 1)
    within = np.isfinite(error).all() and (error > 0).all()
    variance = max(scatter, float(error.min()) ** 2) if within else scatter
    normal = np.linalg.pinv(design.T @ (weight[:, None] * design), rcond=1e-12, hermitian=True)
    at = np.array([1.0, 1.0, 0.0])
    slope = p["gamma"] * gap
    return float(np.exp(log_e)), float(np.sqrt(variance * (at @ normal @ at)) / slope)


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
    low = sorted(curve.loss.min() for curve in means)[min_batches - 1]
    fastest = min(means, key=lambda curve: _tokens_at(curve, low))
    last = _tokens_at(fastest, low)
    places = np.geomspace(fastest.tokens[0], last, SCANNED)[1:]
    losses = np.interp(np.log(places), np.log(fastest.tokens), np.minimum.accumulate(fastest.loss))
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
        f"{curve.batch_tokens:,.0f} from {curve.loss[0]:.3f} to {curve.loss.min():.3f}"
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
    found = first_crossing(curve, target)
    return np.inf if isinstance(found, str) else found[0]
