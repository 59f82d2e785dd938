"""What a batch schedule saves against a fixed batch: steps always, tokens where a law knows E(S).

A law file's `tokens_steps` gives E_B(L): the tokens that a run at constant batch B needs to reach
loss L. A schedule is walked through it by the equivalence of arXiv 2601.05034, by which the best
batch depends on the loss reached and not on how it was reached: at loss L under batch B the tokens
spent on the next bit of loss are those of the constant-batch run there,

    dE = (E_B(L_{i+1}) - E_B(L_i)) / (L_i - L_{i+1}) dL      between the fitted targets.

For a constant batch this gives back E_B(L).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from megascale.formats.law_file import TokensSteps
from megascale.schedule.batch import BatchSchedule, Segment

_GRID = 241


@dataclass(frozen=True, slots=True)
class FixedBatch:
    """A run of the same tokens at one batch.

    Attributes:
        batch_tokens: its batch.
        steps: its steps over the same tokens.
        step_saving: share of them that the schedule does without; negative where it takes more.
        meaning: why this batch.
    """

    batch_tokens: int
    steps: int
    step_saving: float
    meaning: str


@dataclass(frozen=True, slots=True)
class TokenSaving:
    """A schedule against the best fixed batch, by a law's E(S) family.

    Attributes:
        loss: loss at the schedule's end, by the law.
        tokens: tokens at which that loss is reached.
        best_batch_tokens, best_tokens: the fixed batch that reaches it in the fewest tokens.
        token_saving: 1 - tokens / best_tokens; negative where the fixed batch needs fewer.
        step_saving: the same for steps.
        says: what the numbers rest on.
    """

    loss: float
    tokens: float
    best_batch_tokens: float
    best_tokens: float
    token_saving: float
    step_saving: float
    says: str


def fixed_batch(schedule: BatchSchedule, batch_tokens: int, meaning: str) -> FixedBatch:
    """Steps of the schedule's tokens at one batch, and the share the schedule saves."""
    tokens = schedule.total_tokens - schedule.start_tokens
    steps = -(-tokens // batch_tokens)
    taken = schedule.total_steps - schedule.start_step
    return FixedBatch(batch_tokens, steps, 1 - taken / steps if steps else 0.0, meaning)


def token_saving(schedule: BatchSchedule, family: TokensSteps) -> TokenSaving | str:
    """The schedule's loss and tokens against the best fixed batch, or in words why not.

    Args:
        schedule: from token 0; a re-planned rest has no loss to start from.
        family: tokens to a loss at a constant batch.
    """
    if schedule.start_tokens or not schedule.segments:
        return "token savings are computed for whole schedules, from token 0"
    targets = family.target_loss
    reached = _walk(schedule.segments, family)
    if reached is None:
        return f"by the law the schedule does not reach its first target, a loss of {targets[0]:g}"
    position, tokens = reached

    def needed(batch: float) -> float:
        return _at_position(
            [tokens_to_target(family, i, batch) for i in range(len(targets))], position
        )

    sizes = sorted({segment.batch_tokens for segment in schedule.segments})
    low, high = math.log(sizes[0] / 16), math.log(sizes[-1] * 16)
    grid = [math.exp(low + (high - low) * i / (_GRID - 1)) for i in range(_GRID)]
    batch = min([*grid, *map(float, sizes)], key=needed)
    best = needed(batch)
    if not best < math.inf:
        return "by the law no fixed batch reaches the schedule's loss"
    steps = next(
        (s.first_step + (tokens - s.start_tokens) / s.batch_tokens)
        for s in reversed(schedule.segments)
        if tokens >= s.start_tokens
    )
    index = min(int(position), len(targets) - 1)
    fraction = position - index
    below = targets[min(index + 1, len(targets) - 1)]
    ended = (
        ""
        if tokens >= schedule.total_tokens
        else ("; the lowest fitted target is reached before the schedule's end")
    )
    return TokenSaving(
        loss=targets[index] + fraction * (below - targets[index]),
        tokens=tokens,
        best_batch_tokens=batch,
        best_tokens=best,
        token_saving=1 - tokens / best,
        step_saving=1 - steps / (best / batch),
        says=f"law of tokens and steps ({family.form}), "
        f"loss {targets[0]:g} to {targets[-1]:g}{ended}",
    )


def tokens_to_target(family: TokensSteps, index: int, batch: float) -> float:
    """Tokens to reach target `index` at constant batch `batch` (tokens); inf where it never does.

    The formulas are those of `TokensSteps`.
    """
    shared = family.form == "loss_surface"
    p = {name: values[0 if shared else index] for name, values in family.parameters.items()}
    if family.form == "classic":
        return p["E_min"] + p["S_min"] * batch
    if family.form == "two_power":
        return p["a"] * batch ** -p["u"] + p["c"] * batch ** p["w"]
    if family.form == "noise_floor":
        left = 1 - (p["B_min"] / batch) ** p["q"]
        return p["S_min"] * batch * left ** (-1 / p["p"]) if left > 0 else math.inf
    if family.form == "loss_surface":
        left = family.target_loss[index] - p["L_inf"] - p["c"] * batch ** -p["q"]
        return batch * (p["a"] / left) ** (1 / p["p"]) if left > 0 else math.inf
    return _wsd(p, batch)


def _wsd(p: dict[str, float], batch: float) -> float:
    """The piecewise law's point on the ray E = B S (value and slope match at both joints)."""
    slope_1 = 2 * p["C"] * (p["S_1"] - p["S_opt"])
    inverse = -slope_1 * (p["S_1"] - p["S_min"]) ** 2
    value_1 = p["C"] * (p["S_1"] - p["S_opt"]) ** 2 + p["E_min"]
    offset = value_1 - inverse / (p["S_1"] - p["S_min"])
    slope_2 = 2 * p["C"] * (p["S_2"] - p["S_opt"])
    linear = p["C"] * (p["S_2"] - p["S_opt"]) ** 2 + p["E_min"] - slope_2 * p["S_2"]

    def tokens(steps: float) -> float:
        if steps < p["S_1"]:
            return inverse / (steps - p["S_min"]) + offset
        if steps <= p["S_2"]:
            return p["C"] * (steps - p["S_opt"]) ** 2 + p["E_min"]
        return slope_2 * steps + linear

    if batch <= slope_2:
        return math.inf
    high = max(p["S_2"], linear / (batch - slope_2)) * 2
    return batch * _root(lambda steps: tokens(steps) - batch * steps, p["S_min"], high)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is positive just above `low` and negative at `high` crosses zero."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return high


def _walk(segments: Sequence[Segment], family: TokensSteps) -> tuple[float, float] | None:
    """(position among the targets, tokens) at the end, or None before the first target.

    Position 2.25 is a quarter of the way from target 2 to target 3; the way to target 0 counts
    from -1.
    """
    last = len(family.target_loss) - 1
    position = -1.0

    @cache
    def legs_at(batch: int) -> list[float]:
        needs = [tokens_to_target(family, i, batch) for i in range(last + 1)]
        return [needs[0], *(b - a for a, b in pairwise(needs))]

    for segment in segments:
        legs = legs_at(segment.batch_tokens)
        left = float(segment.end_tokens - segment.start_tokens)
        while position < last:
            leg = legs[int(position + 1)]
            if not 0 < leg < math.inf:
                break  # this batch gains nothing more here
            share = int(position + 1) - position
            if leg * share > left:
                position += left / leg
                left = 0.0
                break
            left -= leg * share
            position = float(int(position + 1))
        if position >= last:
            return float(last), segment.end_tokens - left
    return (position, float(segments[-1].end_tokens)) if position >= 0 else None


def _at_position(needs: Sequence[float], position: float) -> float:
    index = min(bisect_right(range(len(needs)), position) - 1, len(needs) - 1)
    fraction = position - index
    if fraction == 0:
        return needs[index]
    if math.inf in (needs[index], needs[index + 1]):
        return math.inf
    return needs[index] + fraction * (needs[index + 1] - needs[index])
