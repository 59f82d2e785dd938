"""Weight decay as a closed form of consumed tokens: constant, linear or cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from megascale.errors import ScheduleError


@dataclass(frozen=True, slots=True)
class WeightDecaySchedule:
    """Decoupled weight-decay coefficient at any token count of a run.

    Attributes:
        kind: constant, linear or cosine.
        value: coefficient at token 0.
        end_value: coefficient at `total_tokens`; equal to `value` when constant.
        total_tokens: end of the run.
    """

    kind: Literal["constant", "linear", "cosine"]
    value: float
    end_value: float
    total_tokens: int

    def at(self, tokens: float) -> float:
        """Coefficient at `tokens` consumed tokens, 0 <= tokens <= total_tokens.

        Raises:
            ScheduleError: outside the run.
        """
        if not 0 <= tokens <= self.total_tokens:
            raise ScheduleError.of(
                "tokens", tokens, "outside the run", min(max(tokens, 0), self.total_tokens)
            )
        progress = tokens / self.total_tokens
        if self.kind == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.value + (self.end_value - self.value) * progress

    def landmarks(self) -> list[tuple[str, int]]:
        """Token counts worth a line in a summary, with their names."""
        if self.kind == "constant":
            return [("start", 0)]
        return [("start", 0), ("middle", self.total_tokens // 2), ("end", self.total_tokens)]
