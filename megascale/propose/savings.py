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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from megascale.formats.law_file import TokensSteps
from megascale.formats.tokens_to_loss import tokens_to_targets
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
    """Return the steps of the schedule's tokens at one batch, and the share the schedule saves."""
    tokens = schedule.total_tokens - schedule.start_tokens
    steps = -(-tokens // batch_tokens)
    taken = schedule.total_steps - schedule.start_step
    return FixedBatch(batch_tokens, steps, 1 - taken / steps if steps else 0.0, meaning)


def token_saving(schedule: BatchSchedule, family: TokensSteps) -> TokenSaving | str:
    """Return the schedule's loss and tokens against the best fixed batch, or in words why not.

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

    sizes = sorted({segment.batch_tokens for segment in schedule.segments})
    low, high = math.log(sizes[0] / 16), math.log(sizes[-1] * 16)
    grid = [math.exp(low + (high - low) * i / (_GRID - 1)) for i in range(_GRID)]
    batches = [*grid, *map(float, sizes)]
    needed = [_at_position(needs, position) for needs in _needs(family, batches)]
    best, batch = min(zip(needed, batches, strict=True), key=lambda pair: pair[0])
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


def _needs(family: TokensSteps, batch: Sequence[float]) -> list[list[float]]:
    """Tokens to every target for every batch, (batches, targets); inf where it never is reached."""
    tokens = tokens_to_targets(family.form, family.parameters, family.target_loss, batch)
    return tokens.T.tolist()


def _walk(segments: Sequence[Segment], family: TokensSteps) -> tuple[float, float] | None:
    """(position among the targets, tokens) at the end, or None before the first target.

    Position 2.25 is a quarter of the way from target 2 to target 3; the way to target 0 counts
    from -1.
    """
    last = len(family.target_loss) - 1
    position = -1.0
    sizes = sorted({segment.batch_tokens for segment in segments})
    needs_at = dict(zip(sizes, _needs(family, sizes), strict=True))
    for segment in segments:
        at, needs = segment.start_tokens, needs_at[segment.batch_tokens]
        legs = [needs[0], *(b - a for a, b in pairwise(needs))]
        left = float(segment.end_tokens - at)
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
