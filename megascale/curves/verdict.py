"""What a comparison of runs says, in one or two sentences."""

from __future__ import annotations

from collections.abc import Sequence

from megascale.curves.compare import AtTokens, Comparison
from megascale.units import short_count

CLEAR = 2.0
"""Standard errors from which on a difference is called one."""
BASIS = "± is one standard error of the curves; seeds are not in it"


def verdict(found: Sequence[Comparison]) -> str:
    """Return which run is ahead, by how much and how surely: at the last equal tokens, and for two
    runs in tokens and steps to the lowest loss of both.

    Args:
        found: of the runs after the baseline, in order; at least one.
    """
    return _of_two(found[0]) if len(found) == 1 else _of_many(found)


def _of_two(found: Comparison) -> str:
    last = found.at_tokens[-1]
    lower, higher = (found.b, found.a) if last.difference < 0 else (found.a, found.b)
    where = f"After {last.tokens:,.0f} tokens each"
    gap = _nats(abs(last.difference), last.error)
    if last.error is None:
        first = f"{where}, {lower} is {gap} below {higher}; how sure, the logs do not say."
    elif abs(last.difference) < CLEAR * last.error:
        first = (
            f"{where}, the runs cannot be told apart: {lower} is {gap} below {higher} ({BASIS})."
        )
    else:
        first = f"{where}, {lower} is {gap} below {higher} ({BASIS})."
    return " ".join([first, *_needed(found)])


def _needed(found: Comparison) -> list[str]:
    if not found.at_loss:
        return []
    equal = found.at_loss[-1]
    error = "" if equal.log_error is None else f" ± {equal.log_error * equal.tokens_ratio:.3f}"
    steps = "" if equal.steps_ratio is None else f" and {equal.steps_ratio:.3f} of its steps"
    return [
        f"To a loss of {equal.loss:.4f}, {found.b} takes {equal.tokens_ratio:.3f}{error} of the "
        f"tokens of {found.a}{steps}."
    ]


def _of_many(found: Sequence[Comparison]) -> str:
    baseline = found[0].a
    ends = [(one.b, one.at_tokens[-1]) for one in found]
    name, best = min(ends, key=lambda end: end[1].difference)
    below = [end for end in ends if _clear(end[1]) and end[1].difference < 0]
    above = [end for end in ends if _clear(end[1]) and end[1].difference > 0]
    rest = len(ends) - len(below) - len(above)
    counts = (
        f"of {len(ends):,} runs {len(below):,} end below {baseline}, {len(above):,} above, and "
        f"{rest:,} cannot be told from it ({BASIS})."
    )
    if best.difference >= 0:
        return f"No run is below {baseline} at equal tokens: {counts}"
    gap = _nats(-best.difference, best.error)
    unclear = "" if _clear(best) else ", which is within its error"
    return (
        f"Lowest is {name}, {gap} below {baseline} after {short_count(int(best.tokens))} tokens "
        f"each{unclear}; {counts}"
    )


def _clear(end: AtTokens) -> bool:
    return end.error is not None and abs(end.difference) >= CLEAR * end.error


def _nats(size: float, error: float | None) -> str:
    return f"{size:.4f} nats" if error is None else f"{size:.4f} ± {error:.4f} nats"
