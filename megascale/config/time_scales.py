"""How far back, in tokens, a run remembers: half-lives of averages, and weight decay's time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from megascale.config.init_section import scaled_beta
from megascale.config.sections import RunConfig
from megascale.units import short_count


@dataclass(frozen=True, slots=True)
class TimeScales:
    """Memories of a run at one batch and rate, in tokens; None for what the optimizer lacks.

    Attributes:
        beta1: half-life of the first moment, or of the momentum.
        beta2: half-life of the second moment.
        weight_decay: tokens over which weights forget a factor e of themselves,
            batch / (lr x coefficient), the time scale of arXiv 2405.13698; None without decay.
    """

    beta1: float | None
    beta2: float | None
    weight_decay: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Keys of an event."""
        return {
            "beta1_half_life_tokens": self.beta1,
            "beta2_half_life_tokens": self.beta2,
            "weight_decay_time_tokens": self.weight_decay,
        }

    def sentence(self) -> str:
        """All that there are, in tokens."""
        parts = [
            f"{name} {short_count(round(value))}"
            for name, value in (
                ("half-life of beta1", self.beta1),
                ("of beta2", self.beta2),
                ("weight decay's time", self.weight_decay),
            )
            if value is not None
        ]
        return f"memory in tokens: {', '.join(parts)}" if parts else "no memory"


def time_scales(
    config: RunConfig, *, batch_tokens: int, lr: float, weight_decay: float
) -> TimeScales:
    """Memories under the run's own settings; groups with settings of their own are not looked at.

    Args:
        config: of the run.
        batch_tokens: global batch.
        lr: learning rate, with the batch's coupling.
        weight_decay: coefficient; `weight_decay.relative_to` says of what.
    """
    optimizer = config.optimizer
    share = lr if config.weight_decay.relative_to == "lr" else lr / config.lr.peak
    second: float | None = None
    if optimizer.name in ("adamw", "muon"):
        second = optimizer.beta2_half_life_tokens
        if second is None:
            second = half_life_tokens(scaled_beta(optimizer.beta2, config), batch_tokens)
    decay = share * weight_decay
    return TimeScales(
        half_life_tokens(scaled_beta(optimizer.beta1, config), batch_tokens),
        second,
        batch_tokens / decay if decay > 0 else None,
    )


def half_life_tokens(beta: float, batch_tokens: int) -> float | None:
    """Tokens over which an average with decay `beta` a step forgets half; None without memory."""
    return batch_tokens * math.log(0.5) / math.log(beta) if 0 < beta < 1 else None
