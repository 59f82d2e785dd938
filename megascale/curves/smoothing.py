"""The one way in which losses are smoothed: averages over windows, then a local parabola.

Training losses are averaged over disjoint windows of tokens (weighted by the tokens behind each),
which keeps neighbouring points independent, for laws that are fitted to them. Between the points
the curve is a *trend*: at every point a parabola in log tokens through the points around it, under
tricube weights and the points' own errors (local regression, Cleveland 1979). It is unbiased where
the loss is a parabola over the reach of the fit, at the ends of a run too. The reach is chosen at
every point, of `REACHES`: the widest whose value agrees with those of all narrower ones within
their errors (the intersection of confidence intervals, Goldenshluger and Nemirovski 1997), and
where the widest of all does not agree, one below the widest that does. A curve without a kink is
smoothed over a factor of two either way; around a decay or a change of batch the reach shrinks,
down to the points themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from megascale.arrays import Array, Index
from megascale.errors import FitError

REACHES = tuple(float(np.log(2.0)) * share for share in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1))
"""Half widths in log tokens that a local parabola may have, ascending; before them comes the least,
that of `LEAST_LOCAL` points."""
AGREE = 3.0
"""Standard errors within which the values of two reaches agree."""
WIDENED = 1.1
"""What choosing the reach adds to the error of a curve's value, by simulation (docs/compare.md)."""
LEAST_LOCAL = 6
"""Points below which a curve is only joined, and that a parabola rests on."""
FINE = 0.1
"""Log tokens beyond which two knots get others between them."""
MOST_LOCAL = 512
"""Points beyond which neighbours are averaged before the parabolas, over 2 % of the tokens."""
NOISE_RECORDS = 41
"""Records around one over which the scatter of single records is averaged."""
LEAST_SCATTER = 16
"""Records below which their scatter cannot be told from the curve's own bend."""


@dataclass(frozen=True, slots=True)
class Window:
    """Disjoint smoothing windows, measured in tokens.

    Attributes:
        kind: "log": a window spans tokens t to t (1 + size); "tokens": `size` tokens; "none":
            records are joined as they are, by monotone cubics in log tokens.
        size: the ratio minus one, or the tokens.
    """

    kind: Literal["log", "tokens", "none"] = "log"
    size: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in ("log", "tokens", "none"):
            raise FitError.of("window.kind", self.kind, "must be log, tokens or none", "log")
        if self.kind != "none" and not self.size > 0:
            raise FitError.of("window.size", self.size, "must be positive", 0.05)

    def index(self, tokens: Array) -> Array:
        """Number of the window each token count lies in, on one lattice for all runs."""
        if self.kind == "log":
            return np.floor(np.log(tokens) / np.log1p(self.size))
        if self.kind == "tokens":
            return np.floor(tokens / self.size)
        return np.arange(len(tokens), dtype=np.float64)

    def __str__(self) -> str:
        if self.kind == "log":
            return f"averaged over windows of {100 * self.size:g} % of the tokens"
        if self.kind == "tokens":
            return f"averaged over windows of {self.size:,.0f} tokens"
        return "not smoothed"


def smooth(
    tokens: npt.ArrayLike,
    loss: npt.ArrayLike,
    window: Window | None = None,
    weights: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """Average a curve over disjoint windows of tokens.

    Args:
        tokens: positions, positive and rising.
        loss: one a position, finite.
        window: default 5 % of the tokens.
        weights: tokens that each loss was averaged over; default alike.

    Returns:
        Position (weighted mean of log tokens), loss (weighted mean) and its standard error, one a
        non-empty window. The error comes from the scatter of single records, see `scatter`; NaN for
        fewer than `LEAST_SCATTER` records.

    Raises:
        FitError: lengths differ, positions do not rise, or a value is not finite.
    """
    x = np.asarray(tokens, dtype=np.float64)
    y = np.asarray(loss, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.shape != y.shape or x.shape != w.shape or x.ndim != 1:
        raise FitError.of("loss", f"{y.shape} losses", f"must be as many as tokens, {x.shape}")
    if len(x) == 0:
        return x, y, y
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise FitError.of("loss", "NaN or infinity", "must be finite")
    if x[0] <= 0 or (np.diff(x) <= 0).any():
        raise FitError.of("tokens", float(x[0]), "must be positive and rise from record to record")
    starts = np.flatnonzero(np.diff((window or Window()).index(x), prepend=-np.inf) > 0)
    total = np.add.reduceat(w, starts)
    where = np.exp(np.add.reduceat(w * np.log(x), starts) / total)
    where = np.where(np.diff(starts, append=len(x)) == 1, x[starts], where)
    mean = np.add.reduceat(w * y, starts) / total
    variance = scatter(np.log(x), y, w) / w
    error = np.sqrt(np.add.reduceat(w * w * variance, starts)) / total
    return where, mean, error


def scatter(x: Array, y: Array, weight: Array, records: int = NOISE_RECORDS) -> Array:
    """Variance of a record of weight 1 around the local trend; NaN for too few records.

    From third divided differences, averaged over `records` of them: parabolas drop out.

    Args:
        x: rising positions; shape [n].
        y: values; [n].
        weight: of each value's inverse variance; [n].
        records: how many around one are averaged.
    """
    if len(x) < LEAST_SCATTER:
        return np.full(len(x), np.nan)
    count = len(x) - 3
    at = np.stack([x[k : k + count] for k in range(4)])
    gaps = at[:, None] - at[None]
    np.einsum("iin->in", gaps)[...] = at[3] - at[0]
    factor = (at[3] - at[0]) ** 4 / gaps.prod(axis=1)
    value = np.stack([y[k : k + count] for k in range(4)])
    spread = sum(factor[k] ** 2 / weight[k : k + count] for k in range(4))
    squares = (factor * value).sum(axis=0) ** 2 / spread
    sums = np.concatenate([[0.0], np.cumsum(squares)])
    middle = np.arange(len(x)) - 1
    low = np.clip(middle - records // 2, 0, max(0, count - records))
    high = np.minimum(low + records, count)
    return np.maximum(sums[high] - sums[low], 0.0) / (high - low)


@dataclass(frozen=True, slots=True)
class Trend:
    """A smooth curve, by straight lines between knots.

    Attributes:
        x: log tokens of the knots, rising; shape [n].
        loss: nats per token; [n].
        error: its standard error from the scatter of the records within the run; NaN unknown; [n].
        slope: of the loss against log tokens; [n].
    """

    x: Array
    loss: Array
    error: Array
    slope: Array

    def __len__(self) -> int:
        return len(self.x)


def joined_points(x: Array, y: Array, error: Array, end: float | None = None) -> Trend:
    """The points themselves, joined by monotone cubics.

    Args:
        x, y, error: as of `local_trend`.
        end: where the line through the last three points goes on to, if that is beyond them.
    """
    if end is not None and end > x[-1]:
        slope = np.polyfit(x[-3:] - x[-1], y[-3:], 1)[0] if len(x) > 1 else 0.0
        x, y = np.append(x, end), np.append(y, y[-1] + slope * (end - x[-1]))
        error = np.append(error, error[-1])
    return _refined(Trend(x, y, error, _monotone_slopes(x, y)))


def _monotone_slopes(x: Array, y: Array) -> Array:
    """Slopes at points of the monotone cubics through them (Fritsch and Carlson 1980)."""
    if len(x) < 2:
        return np.zeros_like(y)
    from scipy.interpolate import PchipInterpolator

    return PchipInterpolator(x, y)(x, 1)


def _refined(trend: Trend) -> Trend:
    """The same with knots no further apart than `FINE`, between the others on cubics.

    Straight lines between few points of a curve that bends would lie above it.
    """
    pieces = np.maximum(np.ceil(np.diff(trend.x) / FINE), 1).astype(np.int64)
    if not (pieces > 1).any():
        return trend
    from scipy.interpolate import CubicHermiteSpline

    left = np.repeat(np.arange(len(pieces)), pieces)
    first = np.cumsum(pieces) - pieces
    share = (np.arange(len(left)) - first[left]) / pieces[left]
    x = np.append(trend.x[left] + share * np.diff(trend.x)[left], trend.x[-1])
    cubic = CubicHermiteSpline(trend.x, trend.loss, trend.slope)
    loss = cubic(x)
    loss[np.append(first, -1)] = trend.loss  # to the last digit
    return Trend(x, loss, np.interp(x, trend.x, trend.error), cubic(x, 1))


def local_trend(x: Array, y: Array, error: Array, end: float | None = None) -> Trend:
    """Local parabolas with the widest reach that agrees with the narrower ones; see the module.

    Args:
        x: log tokens of independent points, rising; [n].
        y: losses; [n].
        error: their standard errors; [n]. Where one is not known the points are joined.
        end: log tokens to which the curve goes on beyond its last point.

    Returns:
        A knot at every point, at `end`, and between points that are far apart.
    """
    if len(x) < LEAST_LOCAL or not np.isfinite(error).all():
        return joined_points(x, y, error, end)
    error = np.maximum(error, max(float(np.abs(y).max()) * 1e-9, 1e-12))
    if len(x) > MOST_LOCAL:
        x, y, error = _thinned(x, y, error)
    at, slope = x, _monotone_slopes(x, y)
    as_it_is = (y, error, slope)
    if end is not None and end > x[-1]:
        at = np.append(x, end)
        as_it_is = (np.append(y, y[-1]), np.append(error, np.inf), np.append(slope, slope[-1]))
    distance = x[None] - at[:, None]
    narrow = LEAST_LOCAL / 2 * float(np.median(np.diff(x)))
    reaches = (0.0, *(reach for reach in REACHES if reach > narrow))
    rungs = [as_it_is, *(_parabolas(distance, y, error, reach) for reach in reaches)]
    values, errors, slopes = (np.stack(column) for column in zip(*rungs, strict=True))
    low = np.maximum.accumulate(values - AGREE * errors, axis=0)
    high = np.minimum.accumulate(values + AGREE * errors, axis=0)
    agreed = np.logical_and.accumulate(low <= high, axis=0).sum(axis=0) - 1
    one_below = np.where(agreed == 0, 0, np.maximum(agreed - 1, 1))
    chosen = np.where(agreed == len(reaches), agreed, one_below)
    knot = np.arange(len(at))
    error = WIDENED * errors[chosen, knot]
    return _refined(Trend(at, values[chosen, knot], error, slopes[chosen, knot]))


def _thinned(x: Array, y: Array, error: Array) -> tuple[Array, Array, Array]:
    weight = error**-2
    starts: Index = np.flatnonzero(np.diff(np.floor(x / np.log1p(0.02)), prepend=-np.inf) > 0)
    total = np.add.reduceat(weight, starts)
    where, mean = (np.add.reduceat(weight * values, starts) / total for values in (x, y))
    return where, mean, total**-0.5


def _parabolas(distance: Array, y: Array, error: Array, reach: float) -> tuple[Array, Array, Array]:
    """Value, standard error and slope of the weighted parabolas around places.

    `distance` holds the points' log tokens minus the places', shape [places, points].

    A reach that holds fewer than `LEAST_LOCAL` points widens to them.
    """
    far = np.abs(distance)
    near = min(LEAST_LOCAL, len(y)) - 1
    half = np.maximum(reach, 1.001 * np.partition(far, near, axis=1)[:, near])[:, None]
    kernel = (1 - np.minimum(far / half, 1) ** 3) ** 3
    z = distance / half
    weight = kernel / error**2
    scale = weight.sum(axis=1)
    weight /= scale[:, None]
    moments, spread, towards = [], [], []
    squared = weight * kernel
    power = np.ones_like(z)
    for degree in range(5):
        moments.append((weight * power).sum(axis=1))
        spread.append((squared * power).sum(axis=1))
        if degree < 3:
            towards.append((weight * power) @ y)
        power = power * z
    order = np.add.outer(np.arange(3), np.arange(3))
    normal = np.stack(moments)[order].transpose(2, 0, 1)
    inverse = np.linalg.inv(normal + 1e-12 * np.eye(3))
    found = np.einsum("mij,jm->mi", inverse, np.stack(towards))
    variance = np.einsum(
        "mi,mij,mj->m", inverse[:, 0], np.stack(spread)[order].transpose(2, 0, 1), inverse[:, 0]
    )
    sigma = np.sqrt(np.maximum(variance, 0.0) / scale)
    return found[:, 0], sigma, found[:, 1] / half[:, 0]
