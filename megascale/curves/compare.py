"""Runs side by side: loss at equal tokens, tokens at equal loss, steps, wall clock.

Training losses are smoothed by a straight line over a window of tokens, weighted by the tokens
behind each record: unbiased where the loss is straight over a window, also at the ends of a run.
Evaluations are taken as they are, with straight lines in log tokens between them. Tokens to a loss
come from that curve made non-increasing by isotonic regression (pool adjacent violators), so that
every loss is crossed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from megascale.curves.records import INTERVAL_MEAN, VALIDATION, roughness
from megascale.errors import DataError

Array = npt.NDArray[np.float64]
_GRID = 1000
_ROUGH_LEAST = 16
"""Records below which their scatter cannot be told from the curve's own bend."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A run's losses of one kind, one entry a record, from whatever reader.

    Attributes:
        name: for tables.
        tokens: consumed tokens after each record, increasing; shape [n].
        middle: consumed tokens where each loss stands, not decreasing: those of the middle of an
            interval's steps before their updates, of an evaluation `tokens`; [n].
        loss: nats per token; [n].
        weight: tokens (or samples) behind it; [n].
        steps: finished steps after each record; NaN where the log does not say; [n].
        seconds: wall clock after each record; NaN where the log does not say; [n].
        batch: realised global batch (tokens) of each record's last step, or NaN; [n].
        kind: of the losses, as in the one table.
        source: where the log lies.
    """

    name: str
    tokens: Array
    middle: Array
    loss: Array
    weight: Array
    steps: Array
    seconds: Array
    batch: Array
    kind: str = INTERVAL_MEAN
    source: str = ""

    def __post_init__(self) -> None:
        if len(self.tokens) < 3:
            raise DataError.of(
                self.name, len(self.tokens), "needs 3 records with a loss or more", 3
            )
        if not np.all(np.diff(self.tokens) > 0):
            raise DataError.of(self.name, "tokens", "consumed tokens must increase")


@dataclass(frozen=True, slots=True)
class AtTokens:
    """Both runs at equal consumed tokens; differences are B minus A. None where not known."""

    tokens: float
    loss_a: float
    loss_b: float
    difference: float
    error: float | None
    steps_a: float | None
    steps_b: float | None
    seconds_a: float | None
    seconds_b: float | None


@dataclass(frozen=True, slots=True)
class AtLoss:
    """Both runs at equal smoothed loss; ratios are B over A. None where a log does not say."""

    loss: float
    tokens_a: float
    tokens_b: float
    tokens_ratio: float
    steps_a: float | None
    steps_b: float | None
    steps_ratio: float | None
    seconds_a: float | None
    seconds_b: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found.

    Attributes:
        a, b: names.
        window_tokens: of the smoothing; 0 where evaluations were taken as they are.
        final_a, final_b: smoothed loss at each run's own end.
        at_tokens, at_loss: rows, in order of tokens.
        not_reached: stated losses that the two do not both come down to.
        crossings: tokens at which the smoothed curves change order.
    """

    a: str
    b: str
    window_tokens: float
    final_a: float
    final_b: float
    at_tokens: tuple[AtTokens, ...]
    at_loss: tuple[AtLoss, ...]
    not_reached: tuple[float, ...]
    crossings: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def smoothed(curve: Curve, at: Array, window_tokens: float) -> tuple[Array, Array]:
    """Loss and its standard error at token counts, by local straight lines.

    Args:
        curve: the run.
        at: token counts; [m].
        window_tokens: full width; it widens where fewer than 3 records lie inside. 0 joins the
            records by straight lines in log tokens.

    Returns:
        (loss, standard error) of shape [m]; the error comes from the scatter about the line, or of
        single records about their neighbours (NaN where there are too few to tell).
    """
    if window_tokens == 0:
        known = curve.middle > 0
        x, y = np.log(curve.middle[known]), curve.loss[known]
        places = np.log(np.maximum(at, curve.middle[known][0]))
        error = np.full(len(at), np.nan)
        if len(x) >= _ROUGH_LEAST:
            error = np.sqrt(np.interp(places, x, roughness(x, y)))
        return np.interp(places, x, y), error
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
    losses: int | Sequence[float] | None = None,
    rows: int = 8,
) -> Comparison:
    """Compare two runs where both have been.

    Args:
        a, b: the runs.
        window_tokens: of the smoothing; None takes a twentieth of what both have consumed, and 0
            (no smoothing) where the losses are evaluations.
        losses: where to compare tokens, or how many of them to take between the two runs' losses;
            None takes `rows`.
        rows: lines of each table.

    Raises:
        DataError: the runs share no tokens, or no loss.
    """
    start = max(a.middle[0], b.middle[0])
    end = min(a.tokens[-1], b.tokens[-1])
    if end <= start:
        spans = " and ".join(
            f"{c.name} from {c.middle[0]:,.0f} to {c.tokens[-1]:,.0f}" for c in (a, b)
        )
        raise DataError(f"The runs have no tokens in common: {spans}.")
    window = common_window([a, b]) if window_tokens is None else window_tokens
    at = np.linspace(start, end, rows + 1)[1:]
    loss_a, error_a = smoothed(a, at, window)
    loss_b, error_b = smoothed(b, at, window)
    at_loss, not_reached = _at_losses(a, b, window, losses, rows)
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
                error=_known(np.hypot(error_a[i], error_b[i])),
                steps_a=_at(a, a.steps, tokens),
                steps_b=_at(b, b.steps, tokens),
                seconds_a=_at(a, a.seconds, tokens),
                seconds_b=_at(b, b.seconds, tokens),
            )
            for i, tokens in enumerate(at)
        ),
        at_loss=at_loss,
        not_reached=not_reached,
        crossings=_crossings(a, b, start, end, window),
    )


def common_window(curves: Sequence[Curve]) -> float:
    """Smoothing for curves that are compared: a twentieth of the tokens that all consumed.

    0 where they are evaluations, which are few and of little noise.
    """
    if all(curve.kind.startswith(VALIDATION) for curve in curves):
        return 0.0
    return float(min(curve.tokens[-1] for curve in curves)) / 20


def _at_losses(
    a: Curve, b: Curve, window: float, losses: int | Sequence[float] | None, rows: int
) -> tuple[tuple[AtLoss, ...], tuple[float, ...]]:
    """Rows by falling loss, and the stated losses that have none."""
    stated = None if losses is None or isinstance(losses, int) else losses
    rows = losses if isinstance(losses, int) else rows
    paths = []
    for curve in (a, b):
        grid = np.linspace(curve.middle[0], curve.tokens[-1], _GRID)
        paths.append((grid, falling(smoothed(curve, grid, window)[0])))
    top = min(path[1][0] for path in paths)
    bottom = max(path[1][-1] for path in paths)
    if stated is None:
        if top <= bottom:
            return (), ()
        # equal distances along A's own tokens, so that rows do not crowd at the start
        grid, path = paths[0]
        low, high = (np.interp(-value, -path, grid) for value in (top, bottom))
        between = np.interp(np.linspace(low, high, rows + 1)[1:], grid, path)
        stated = np.maximum(between, bottom).tolist()  # rounding must not lose the last
    found, missed = [], []
    for loss in sorted(set(stated), reverse=True):
        if not bottom <= loss < top:
            missed.append(float(loss))
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
                steps_ratio=steps_b / steps_a if steps_a and steps_b is not None else None,
                seconds_a=_at(a, a.seconds, tokens_a),
                seconds_b=_at(b, b.seconds, tokens_b),
            )
        )
    return tuple(found), tuple(missed)


def _first_at(path: Array, grid: Array, loss: float) -> float:
    """Tokens at which a non-increasing path first comes down to `loss`."""
    index = int(np.argmax(path <= loss))
    if index == 0:
        return float(grid[0])
    above, below = path[index - 1], path[index]
    share = (above - loss) / (above - below)
    return float(grid[index - 1] + share * (grid[index] - grid[index - 1]))


def _crossings(a: Curve, b: Curve, start: float, end: float, window: float) -> tuple[float, ...]:
    """Where the difference changes sign and both sides are beyond two standard errors.

    Where the errors are not known every change of sign counts.
    """
    grid = np.linspace(start, end, 200)
    (loss_a, error_a), (loss_b, error_b) = smoothed(a, grid, window), smoothed(b, grid, window)
    difference, error = loss_b - loss_a, np.nan_to_num(np.hypot(error_a, error_b))
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


def _at(curve: Curve, values: Array, tokens: float) -> float | None:
    """A count that grows with tokens from 0, between records; None where it is not known."""
    if np.isnan(values).any():
        return None
    return float(np.interp(tokens, np.append(0, curve.tokens), np.append(0, values)))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
