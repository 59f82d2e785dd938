"""Learning rate as a closed form of consumed tokens.

Every kind starts with a linear warmup and is continuous; a decay ends exactly at the run's last
token. Kinds: WSD (warmup, stable, decay; MiniCPM, arXiv 2404.06395), cosine (arXiv 1608.03983),
inverse square root (arXiv 1706.03762), power of the consumed tokens (arXiv 2408.13359), constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from megascale.errors import ScheduleError

Kind = Literal["wsd", "cosine", "constant", "inverse_sqrt", "power"]
Shape = Literal["linear", "1-sqrt", "cosine", "exponential"]
Phase = Literal["warmup", "stable", "decay"]


@dataclass(frozen=True, slots=True)
class LRSchedule:
    """Learning rate at any token count of a run.

    Attributes:
        kind: one of wsd, cosine, constant, inverse_sqrt, power.
        peak: upper bound of the learning rate.
        total_tokens: end of the run and of the decay.
        warmup_tokens: length of the linear warmup.
        start_ratio: learning rate at token 0 over the peak (over the kind's own value for power).
        decay_tokens: length of the final decay; everything after the warmup for cosine.
        decay_shape: of the final decay.
        final: learning rate at `total_tokens`, absolute, where there is a decay.
        coefficient, exponent: a and b of `a * tokens**b` (kind power).
    """

    kind: Kind
    peak: float
    total_tokens: int
    warmup_tokens: int = 0
    start_ratio: float = 0.0
    decay_tokens: int = 0
    decay_shape: Shape = "linear"
    final: float = 0.0
    coefficient: float = 1.0
    exponent: float = 0.0

    @property
    def decay_start_tokens(self) -> int:
        """Tokens at which the final decay begins; `total_tokens` where there is none."""
        return self.total_tokens - self.decay_tokens

    def at(self, tokens: float) -> float:
        """Learning rate at `tokens` consumed tokens, 0 <= tokens <= total_tokens.

        A step that consumes `[start, stop)` uses `at((start + stop) / 2)`: on a linear piece this
        is the mean over its tokens.

        Raises:
            ScheduleError: outside the run.
        """
        if not 0 <= tokens <= self.total_tokens:
            raise ScheduleError.of(
                "tokens", tokens, "outside the run", min(max(tokens, 0), self.total_tokens)
            )
        if tokens < self.decay_start_tokens or not self.decay_tokens:
            return self._warm(tokens) * self._before_decay(tokens)
        begin = self.decay_start_tokens
        progress = (tokens - begin) / self.decay_tokens
        return decayed(self._before_decay(begin), self.final, progress, self.decay_shape)

    def phase(self, tokens: float) -> Phase:
        """`warmup`, `stable` or `decay` at a token count; a boundary belongs to what follows."""
        if tokens < self.warmup_tokens:
            return "warmup"
        return "decay" if self.decay_tokens and tokens >= self.decay_start_tokens else "stable"

    def landmarks(self) -> list[tuple[str, int]]:
        """Token counts worth a line in a summary, increasing, with their names."""
        marks = [("start", 0)]
        if self.warmup_tokens:
            marks.append(("warmup middle", self.warmup_tokens // 2))
            marks.append(("warmup end", self.warmup_tokens))
        if self.decay_tokens:
            if self.decay_start_tokens > self.warmup_tokens:
                marks.append(("decay start", self.decay_start_tokens))
            marks.append(("decay middle", self.decay_start_tokens + self.decay_tokens // 2))
        marks.append(("end", self.total_tokens))
        return marks

    def _warm(self, tokens: float) -> float:
        if tokens >= self.warmup_tokens:
            return 1.0
        return self.start_ratio + (1 - self.start_ratio) * tokens / self.warmup_tokens

    def _before_decay(self, tokens: float) -> float:
        if self.kind == "inverse_sqrt" and tokens > self.warmup_tokens:
            return self.peak * math.sqrt(self.warmup_tokens / tokens)
        if self.kind == "power":
            return min(self.peak, self.coefficient * max(tokens, 1.0) ** self.exponent)
        return self.peak


def decayed(begin: float, end: float, progress: float, shape: Shape) -> float:
    """Value on the way from `begin` (progress 0) down to `end` (progress 1).

    `1-sqrt` is `begin - (begin - end) * sqrt(progress)` (arXiv 2405.18392); `exponential` is
    `begin * (end / begin) ** progress` and needs `end > 0`.
    """
    if progress >= 1:
        return end
    if shape == "exponential":
        return begin * (end / begin) ** progress
    if shape == "linear":
        left = 1 - progress
    elif shape == "1-sqrt":
        left = 1 - math.sqrt(progress)
    else:
        left = (1 + math.cos(math.pi * progress)) / 2
    return end + (begin - end) * left
