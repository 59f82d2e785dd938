"""Two runs side by side: loss at equal tokens, tokens at equal loss, steps, wall clock.

Losses are smoothed by a straight line over a window of tokens, weighted by the tokens behind each
record: unbiased where the loss is straight over a window, also at the ends of a run. Tokens to a
loss come from the smoothed loss made non-increasing by isotonic regression (pool adjacent
violators), so that every loss is crossed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megascale.errors import DataError
from megascale.runs.log import RunData, read_run

Array = npt.NDArray[np.float64]
_GRID = 1000


@dataclass(frozen=True, slots=True)
class Curve:
    """A run's training loss, one entry per logged interval, from whatever reader.

    Attributes:
        name: for tables.
        tokens: consumed tokens after each interval, increasing; shape [n].
        middle: consumed tokens at the middle of each interval, where its mean loss stands; [n].
        loss: mean loss over the interval, nats per token; [n].
        weight: tokens (or samples) behind that mean; [n].
        steps: finished steps after each interval; [n].
        seconds: wall clock after each interval; NaN where the log does not say; [n].
        batch: realised global batch (tokens) of each interval's last step; [n].
    """

    name: str
    tokens: Array
    middle: Array
    loss: Array
    weight: Array
    steps: Array
    seconds: Array
    batch: Array

    def __post_init__(self) -> None:
        if len(self.tokens) < 3:
            raise DataError.of(
                self.name, len(self.tokens), "needs 3 records with a loss or more", 3
            )
        if not np.all(np.diff(self.tokens) > 0):
            raise DataError.of(self.name, "tokens", "consumed tokens must increase")


@dataclass(frozen=True, slots=True)
class AtTokens:
    """Both runs at equal consumed tokens; differences are B minus A."""

    tokens: float
    loss_a: float
    loss_b: float
    difference: float
    error: float
    steps_a: float
    steps_b: float
    seconds_a: float | None
    seconds_b: float | None


@dataclass(frozen=True, slots=True)
class AtLoss:
    """Both runs at equal smoothed loss; ratios are B over A."""

    loss: float
    tokens_a: float
    tokens_b: float
    tokens_ratio: float
    steps_a: float
    steps_b: float
    steps_ratio: float
    seconds_a: float | None
    seconds_b: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found.

    Attributes:
        a, b: names.
        window_tokens: of the smoothing.
        final_a, final_b: smoothed loss at each run's own end.
        at_tokens, at_loss: rows, in order of tokens.
        crossings: tokens at which the smoothed curves change order.
    """

    a: str
    b: str
    window_tokens: float
    final_a: float
    final_b: float
    at_tokens: tuple[AtTokens, ...]
    at_loss: tuple[AtLoss, ...]
    crossings: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def curve_of_run(path: str | Path, name: str | None = None) -> Curve:
    """The curve in a run's own log.

    Raises:
        RunError: no log there.
        DataError: fewer than three records with a loss.
    """
    run = read_run(path)
    return _from_records(run, name or run.header.get("name") or str(path))


def smoothed(curve: Curve, at: Array, window_tokens: float) -> tuple[Array, Array]:
    """Loss and its standard error at token counts, by local straight lines.

    Args:
        curve: the run.
        at: token counts; [m].
        window_tokens: full width; it widens where fewer than 3 records lie inside.

    Returns:
        (loss, standard error) of shape [m]; the error comes from the scatter about the line.
    """
    loss, error = np.empty(len(at)), np.empty(len(at))
    for i, tokens in enumerate(at):
        first, last = np.searchsorted(
            curve.middle, [tokens - window_tokens / 2, tokens + window_tokens / 2]
        )
        while last - first < 3:
            before = tokens - curve.middle[first - 1] if first else np.inf
            after = curve.middle[last] - tokens if last < len(curve.middle) else np.inf
            first, last = (first - 1, last) if before <= after else (first, last + 1)
        near = slice(first, last)
        x = (curve.middle[near] - tokens) / window_tokens
        y, w = curve.loss[near], curve.weight[near] / curve.weight[near].sum()
        mean = float(w @ x)
        spread = float(w @ (x - mean) ** 2)
        slope = float(w @ ((x - mean) * y)) / spread if spread > 0 else 0.0
        level = float(w @ y) - slope * mean
        residual = y - level - slope * x
        leverage = w * (1 - mean * (x - mean) / spread) if spread > 0 else w
        freedom = max(len(y) - 2, 1) / len(y)
        loss[i] = level
        error[i] = float(np.sqrt(np.sum((leverage * residual) ** 2) / freedom))
    return loss, error


def falling(values: Array, weight: Array | None = None) -> Array:
    """The non-increasing sequence nearest to `values` in weighted squares (isotonic regression)."""
    weights = np.ones(len(values)) if weight is None else weight
    blocks: list[tuple[float, float, int]] = []
    for value, w in zip(values, weights, strict=True):
        mean, total, count = float(value), float(w), 1
        while blocks and blocks[-1][0] < mean:
            before, mass, length = blocks.pop()
            mean = (before * mass + mean * total) / (mass + total)
            total, count = total + mass, count + length
        blocks.append((mean, total, count))
    return np.repeat([b[0] for b in blocks], [b[2] for b in blocks])


def compare(
    a: Curve,
    b: Curve,
    *,
    window_tokens: float | None = None,
    losses: Sequence[float] | None = None,
    rows: int = 8,
) -> Comparison:
    """Compare two runs where both have been.

    Args:
        a, b: the runs.
        window_tokens: of the smoothing; None takes a twentieth of what both have consumed.
        losses: where to compare tokens; None takes `rows` of them between the two runs' losses.
        rows: lines of each table.

    Raises:
        DataError: the runs share no tokens, or no loss.
    """
    start = max(a.middle[0], b.middle[0])
    end = min(a.tokens[-1], b.tokens[-1])
    if end <= start:
        raise DataError.of(f"{a.name}, {b.name}", f"{start:g} to {end:g}", "no tokens in common")
    window = window_tokens or end / 20
    at = np.linspace(start, end, rows + 1)[1:]
    loss_a, error_a = smoothed(a, at, window)
    loss_b, error_b = smoothed(b, at, window)
    return Comparison(
        a=a.name,
        b=b.name,
        window_tokens=window,
        final_a=float(smoothed(a, a.tokens[-1:], window)[0][0]),
        final_b=float(smoothed(b, b.tokens[-1:], window)[0][0]),
        at_tokens=tuple(
            AtTokens(
                tokens=float(tokens),
                loss_a=float(loss_a[i]),
                loss_b=float(loss_b[i]),
                difference=float(loss_b[i] - loss_a[i]),
                error=float(np.hypot(error_a[i], error_b[i])),
                steps_a=_at(a, a.steps, tokens),
                steps_b=_at(b, b.steps, tokens),
                seconds_a=_seconds(a, tokens),
                seconds_b=_seconds(b, tokens),
            )
            for i, tokens in enumerate(at)
        ),
        at_loss=_at_losses(a, b, window, losses, rows),
        crossings=_crossings(a, b, start, end, window),
    )


def _at_losses(
    a: Curve, b: Curve, window: float, losses: Sequence[float] | None, rows: int
) -> tuple[AtLoss, ...]:
    paths = []
    for curve in (a, b):
        grid = np.linspace(curve.middle[0], curve.tokens[-1], _GRID)
        paths.append((grid, falling(smoothed(curve, grid, window)[0])))
    top = min(path[1][0] for path in paths)
    bottom = max(path[1][-1] for path in paths)
    if losses is None:
        if top <= bottom:
            return ()
        # equal distances along A's own tokens, so that rows do not crowd at the start
        grid, path = paths[0]
        low, high = (np.interp(-value, -path, grid) for value in (top, bottom))
        losses = [float(v) for v in np.interp(np.linspace(low, high, rows + 1)[1:], grid, path)]
    found = []
    for loss in losses:
        if not bottom <= loss <= top:
            continue
        tokens_a, tokens_b = (_first_at(path, grid, loss) for grid, path in paths)
        steps_a, steps_b = _at(a, a.steps, tokens_a), _at(b, b.steps, tokens_b)
        found.append(
            AtLoss(
                loss=float(loss),
                tokens_a=tokens_a,
                tokens_b=tokens_b,
                tokens_ratio=tokens_b / tokens_a,
                steps_a=steps_a,
                steps_b=steps_b,
                steps_ratio=steps_b / steps_a if steps_a else float("nan"),
                seconds_a=_seconds(a, tokens_a),
                seconds_b=_seconds(b, tokens_b),
            )
        )
    return tuple(found)


def _first_at(path: Array, grid: Array, loss: float) -> float:
    """Tokens at which a non-increasing path first comes down to `loss`."""
    index = int(np.argmax(path <= loss))
    if index == 0:
        return float(grid[0])
    above, below = path[index - 1], path[index]
    share = (above - loss) / (above - below)
    return float(grid[index - 1] + share * (grid[index] - grid[index - 1]))


def _crossings(a: Curve, b: Curve, start: float, end: float, window: float) -> tuple[float, ...]:
    """Where the difference changes sign and both sides are beyond two standard errors."""
    grid = np.linspace(start, end, 200)
    (loss_a, error_a), (loss_b, error_b) = smoothed(a, grid, window), smoothed(b, grid, window)
    difference, error = loss_b - loss_a, np.hypot(error_a, error_b)
    sure = np.flatnonzero(np.abs(difference) > 2 * error)
    found = []
    for left, right in pairwise(sure):
        if np.sign(difference[left]) == np.sign(difference[right]):
            continue
        between = np.arange(left, right)
        flips = between[np.sign(difference[between]) != np.sign(difference[between + 1])]
        k = int(flips[len(flips) // 2])
        share = difference[k] / (difference[k] - difference[k + 1])
        found.append(float(grid[k] + share * (grid[k + 1] - grid[k])))
    return tuple(found)


def _at(curve: Curve, values: Array, tokens: float) -> float:
    """A count that grows with tokens from 0, between records."""
    return float(np.interp(tokens, np.append(0, curve.tokens), np.append(0, values)))


def _seconds(curve: Curve, tokens: float) -> float | None:
    return None if np.isnan(curve.seconds).any() else _at(curve, curve.seconds, tokens)


def _from_records(run: RunData, name: str) -> Curve:
    seconds, rows, before = 0.0, [], 0
    for record in run.records:
        took = record.get("seconds")
        seconds += float("nan") if took is None else took
        loss = record.get("loss")
        if isinstance(loss, (int, float)) and np.isfinite(loss):
            tokens = record["tokens"]
            interval = record.get("interval_tokens") or tokens - before
            weight = record.get("loss_tokens") or interval
            middle = tokens - interval / 2
            row = (tokens, middle, loss, weight, record["step"], seconds, record["batch_tokens"])
            rows.append(row)
        before = record["tokens"]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 7).T
    return Curve(name, *columns)
