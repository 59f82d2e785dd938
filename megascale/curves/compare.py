"""Two runs side by side: loss at equal tokens, tokens at equal loss, steps, wall clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from megascale.arrays import Array
from megascale.curves.crossing import Crossing, crossings
from megascale.curves.curve import Curve
from megascale.curves.reach import reach
from megascale.errors import DataError


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
    """Both runs at equal loss; ratios are B over A. None where a log does not say.

    `log_error` is the standard error of the logarithm of the tokens' ratio.
    """

    loss: float
    tokens_a: float
    tokens_b: float
    tokens_ratio: float
    log_error: float | None
    steps_a: float | None
    steps_b: float | None
    steps_ratio: float | None
    seconds_a: float | None
    seconds_b: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare_curves` found.

    Attributes:
        a, b: names.
        final_a, final_b: smoothed loss at each run's own end.
        at_tokens, at_loss: rows, in order of tokens.
        not_reached: stated losses that the two do not both come down to.
        crossings: where the curves change order; `second_leads` is B.
    """

    a: str
    b: str
    final_a: float
    final_b: float
    at_tokens: tuple[AtTokens, ...]
    at_loss: tuple[AtLoss, ...]
    not_reached: tuple[float, ...]
    crossings: tuple[Crossing, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def compare_curves(
    a: Curve, b: Curve, *, losses: int | Sequence[float] | None = None, rows: int = 8
) -> Comparison:
    """Compare two runs where both have been.

    Args:
        a, b: the runs, smoothed alike.
        losses: where to compare tokens, or how many losses to take between those of the two runs;
            None takes `rows`.
        rows: lines of each table.

    Raises:
        DataError: the runs share no tokens.
    """
    start, end = max(a.tokens[0], b.tokens[0]), min(a.last, b.last)
    if end <= start:
        spans = " and ".join(f"{c.run} from {c.tokens[0]:,.0f} to {c.last:,.0f}" for c in (a, b))
        raise DataError(f"The runs have no tokens in common: {spans}.")
    at_loss, not_reached = _at_losses(a, b, losses, rows)
    return Comparison(
        a=a.run,
        b=b.run,
        final_a=a.final,
        final_b=b.final,
        at_tokens=_at_tokens(a, b, np.linspace(start, end, rows + 1)[1:]),
        at_loss=at_loss,
        not_reached=not_reached,
        crossings=tuple(crossings(a, b)),
    )


def _at_tokens(a: Curve, b: Curve, at: Array) -> tuple[AtTokens, ...]:
    (loss_a, loss_b), errors = (c.at(at) for c in (a, b)), [c.error_at(at) for c in (a, b)]
    error = np.hypot(*errors)
    return tuple(
        AtTokens(
            tokens=float(tokens),
            loss_a=float(loss_a[i]),
            loss_b=float(loss_b[i]),
            difference=float(loss_b[i] - loss_a[i]),
            error=_known(error[i]),
            steps_a=_steps(a, tokens),
            steps_b=_steps(b, tokens),
            seconds_a=_seconds(a, tokens),
            seconds_b=_seconds(b, tokens),
        )
        for i, tokens in enumerate(at)
    )


def _at_losses(
    a: Curve, b: Curve, losses: int | Sequence[float] | None, rows: int
) -> tuple[tuple[AtLoss, ...], tuple[float, ...]]:
    """Rows by falling loss, and the stated losses that have none."""
    if losses is None or isinstance(losses, int):
        losses = _common_losses(a, b, losses or rows)
    found, missed = [], []
    for loss in sorted(set(losses), reverse=True):
        first, second = reach(a, float(loss)), reach(b, float(loss))
        if isinstance(first, str) or isinstance(second, str):
            missed.append(float(loss))
            continue
        steps_a, steps_b = _steps(a, first.tokens), _steps(b, second.tokens)
        found.append(
            AtLoss(
                loss=float(loss),
                tokens_a=first.tokens,
                tokens_b=second.tokens,
                tokens_ratio=second.tokens / first.tokens,
                log_error=_known(np.hypot(first.log_error, second.log_error)),
                steps_a=steps_a,
                steps_b=steps_b,
                steps_ratio=steps_b / steps_a if steps_a and steps_b is not None else None,
                seconds_a=_seconds(a, first.tokens),
                seconds_b=_seconds(b, second.tokens),
            )
        )
    return tuple(found), tuple(missed)


def _common_losses(a: Curve, b: Curve, rows: int) -> list[float]:
    """Losses that both come down to, at equal distances along A's own tokens."""
    top = min(float(np.interp(np.log(c.tokens[0]), c.trend.x, c.trend.loss)) for c in (a, b))
    bottom = max(a.lowest, b.lowest)
    last = reach(a, bottom)
    first = reach(a, top)
    if isinstance(last, str):
        return []
    begin = a.tokens[0] if isinstance(first, str) else first.tokens
    between = np.linspace(begin, last.tokens, rows + 1)[1:]
    falling = np.minimum.accumulate(a.trend.loss)
    found = np.interp(np.log(between), a.trend.x, falling)
    return [float(loss) for loss in np.maximum(found, bottom) if loss < top]


def _steps(curve: Curve, tokens: float) -> float | None:
    return None if curve.clock is None else curve.clock.steps_at(tokens)


def _seconds(curve: Curve, tokens: float) -> float | None:
    return None if curve.clock is None else curve.clock.seconds_at(tokens)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
