"""Sum up the steps of one logging interval into one exact record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one finished step reports; numbers are already summed over all ranks."""

    step: int  # finished steps, this one included
    tokens: int  # consumed tokens after this step
    samples: int  # consumed sequences after this step
    batch_tokens: int  # realised global batch
    micro_batches: int  # per data-parallel rank
    sequence_length: int
    loss_sum: float  # sum of token losses, nats
    loss_tokens: int  # tokens in that sum
    lr: float
    weight_decay: float
    grad_norm: float  # before clipping
    seconds: float
    window_tokens: int  # tokens this step consumed
    skipped: bool = False
    flops: float = 0.0  # model FLOPs of this step, all ranks
    expert_counts: Sequence[Sequence[int]] | None = None  # [moe layers][experts]: slots routed
    router_entropy_sum: Sequence[float] | None = None  # [moe layers]: nats, summed over tokens
    extra: Mapping[str, float] = field(default_factory=dict)  # further scalars, meaned per step


def expert_load(counts: Sequence[int]) -> dict[str, float | int]:
    """How evenly one layer's experts were used.

    Args:
        counts: routed slots per expert over the interval.

    Returns:
        `max_over_mean` (1 when balanced), `entropy` (of the load, divided by ln(experts): 1 when
        balanced) and `dead` (experts that received nothing).
    """
    total = sum(counts)
    if total == 0:
        return {"max_over_mean": 0.0, "entropy": 0.0, "dead": len(counts)}
    shares = [count / total for count in counts if count]
    entropy = -math.fsum(share * math.log(share) for share in shares)
    return {
        "max_over_mean": max(counts) * len(counts) / total,
        "entropy": entropy / math.log(len(counts)) if len(counts) > 1 else 1.0,
        "dead": sum(count == 0 for count in counts),
    }


class IntervalAccumulator:
    """Collects steps and gives one record per interval.

    Its state belongs in the checkpoint: a run resumed in the middle of an interval then logs the
    same record as one that was never interrupted (its `seconds` apart).
    """

    def __init__(self, *, peak_flops: float | None = None) -> None:
        """Args:
        peak_flops: FLOP/s of all devices together, for `mfu`; None leaves `mfu` out.
        """
        self.peak_flops = peak_flops
        self._reset()

    def _reset(self) -> None:
        self.steps = 0
        self.skipped = 0
        self.tokens = 0
        self.loss_sum = 0.0
        self.loss_tokens = 0
        self.grad_norm_sum = 0.0
        self.grad_norm_max = 0.0
        self.grad_norms = 0
        self.seconds = 0.0
        self.flops = 0.0
        self.expert_counts: list[list[int]] = []
        self.router_entropy_sum: list[float] = []
        self.routed_tokens = 0
        self.extra_sums: dict[str, float] = {}
        self.last: StepResult | None = None

    def add(self, result: StepResult) -> None:
        """Take one step into the interval.

        A skipped step counts its tokens, its time and itself; its loss and gradient norm (which
        may not be finite) are left out of the sums and stand in the event log.
        """
        self.steps += 1
        self.tokens += result.window_tokens
        self.seconds += result.seconds
        self.flops += result.flops
        self.last = result
        if result.skipped:
            self.skipped += 1
            return
        self.loss_sum += result.loss_sum
        self.loss_tokens += result.loss_tokens
        self.grad_norm_sum += result.grad_norm
        self.grad_norm_max = max(self.grad_norm_max, result.grad_norm)
        self.grad_norms += 1
        for key, value in result.extra.items():
            self.extra_sums[key] = self.extra_sums.get(key, 0.0) + value
        if result.expert_counts is not None:
            if not self.expert_counts:
                self.expert_counts = [[0] * len(row) for row in result.expert_counts]
            for total, row in zip(self.expert_counts, result.expert_counts, strict=True):
                for expert, count in enumerate(row):
                    total[expert] += int(count)
        if result.router_entropy_sum is not None:
            if not self.router_entropy_sum:
                self.router_entropy_sum = [0.0] * len(result.router_entropy_sum)
            for layer, value in enumerate(result.router_entropy_sum):
                self.router_entropy_sum[layer] += float(value)
            self.routed_tokens += result.window_tokens

    def record(self) -> dict[str, Any]:
        """The interval's record, and a fresh start for the next one.

        `loss` and `grad_norm` are None when every step of the interval was skipped.

        Raises:
            ValueError: no step was added.
        """
        last = self.last
        if last is None:
            raise ValueError("an interval without steps has no record")
        record: dict[str, Any] = {
            "step": last.step,
            "tokens": last.tokens,
            "samples": last.samples,
            "steps": self.steps,
            "skipped": self.skipped,
            "interval_tokens": self.tokens,
            "batch_tokens": last.batch_tokens,
            "micro_batches": last.micro_batches,
            "sequence_length": last.sequence_length,
            "loss_sum": self.loss_sum,
            "loss_tokens": self.loss_tokens,
            "loss": self.loss_sum / self.loss_tokens if self.loss_tokens else None,
            "lr": last.lr,
            "weight_decay": last.weight_decay,
            "grad_norm": self.grad_norm_sum / self.grad_norms if self.grad_norms else None,
            "grad_norm_max": self.grad_norm_max if self.grad_norms else None,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.seconds > 0 else None,
        }
        if self.flops and self.seconds > 0:
            record["flops_per_second"] = self.flops / self.seconds
            if self.peak_flops:
                record["mfu"] = self.flops / self.seconds / self.peak_flops
        if self.expert_counts:
            loads = [expert_load(row) for row in self.expert_counts]
            record["expert_load_max_over_mean"] = [load["max_over_mean"] for load in loads]
            record["expert_load_entropy"] = [load["entropy"] for load in loads]
            record["dead_experts"] = [load["dead"] for load in loads]
        if self.routed_tokens:
            record["router_entropy"] = [
                total / self.routed_tokens for total in self.router_entropy_sum
            ]
        for key, total in self.extra_sums.items():
            record[key] = total / self.grad_norms
        self._reset()
        return record

    def state_dict(self) -> dict[str, Any]:
        """The open interval as JSON, without its last step's rates: those come with the next."""
        return {key: getattr(self, key) for key in _STATE_KEYS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the interval that `state_dict` described."""
        for key in _STATE_KEYS:
            setattr(self, key, state[key])


_STATE_KEYS = (
    "steps",
    "skipped",
    "tokens",
    "loss_sum",
    "loss_tokens",
    "grad_norm_sum",
    "grad_norm_max",
    "grad_norms",
    "seconds",
    "flops",
    "expert_counts",
    "router_entropy_sum",
    "routed_tokens",
    "extra_sums",
)
