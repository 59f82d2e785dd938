"""A run that is being planned: its batches and its learning rate by consumed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from megascale.fitting.history import History
from megascale.schedule.batch import BatchSchedule, Coupling
from megascale.schedule.lr import LRSchedule

CURVED = 24
"""Sections of a decay that is not linear in tokens."""

_POWER = {"constant": 0.0, "sqrt": 0.5, "linear": 1.0}


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """Batches and learning rate of a run from token 0 to its end.

    Attributes:
        batches: (start_tokens, batch_tokens) of each segment, the first from 0, starts increasing.
        lr: the learning rate of the first batch; its `total_tokens` is the run's budget.
        coupling: how the learning rate follows the batch after the first.
        weight_decay: of every step, for laws that look at it.
        n_params: parameters of the model, for laws over several sizes.
    """

    batches: tuple[tuple[int, int], ...]
    lr: LRSchedule
    coupling: Coupling = "constant"
    weight_decay: float = 0.0
    n_params: float | None = None

    @classmethod
    def of_schedule(
        cls,
        schedule: BatchSchedule,
        lr: LRSchedule,
        *,
        coupling: Coupling = "constant",
        weight_decay: float = 0.0,
        n_params: float | None = None,
    ) -> SchedulePlan:
        """The run of realised segments, which begin at token 0."""
        batches = tuple((s.start_tokens, s.batch_tokens) for s in schedule.segments)
        return cls(batches, lr, coupling, weight_decay, n_params)

    @property
    def total_tokens(self) -> int:
        return self.lr.total_tokens

    @property
    def changes(self) -> int:
        """How often the batch changes."""
        return len(self.batches) - 1

    @property
    def peak(self) -> float:
        """The largest learning rate that any segment runs at, coupling included."""
        first = self.batches[0][1]
        return self.lr.peak * max(
            (size / first) ** _POWER[self.coupling] for _, size in self.batches
        )

    @property
    def decay_share(self) -> float:
        """Share of the tokens that the final decay takes."""
        return self.lr.decay_tokens / self.total_tokens

    @property
    def final_ratio(self) -> float:
        """Learning rate at the last token over the peak."""
        return self.lr.final / self.lr.peak if self.lr.decay_tokens else 1.0

    def shares(self) -> tuple[tuple[int, int], ...]:
        """(tokens, batch_tokens) of each segment."""
        ends = [start for start, _ in self.batches[1:]] + [self.total_tokens]
        return tuple((end - start, b) for (start, b), end in zip(self.batches, ends, strict=True))

    @property
    def steps(self) -> float:
        """Optimiser steps, not rounded."""
        return sum(tokens / batch for tokens, batch in self.shares())

    def scaled(self, share: float, begin: int = 0) -> SchedulePlan:
        """The same plan over `share` of its tokens beyond `begin`: switches there and the decay
        move along, warmup and what was before stay."""

        def moved(tokens: int) -> int:
            return tokens if tokens <= begin else round(begin + (tokens - begin) * share)

        total = moved(self.total_tokens)
        decay = min(round(self.lr.decay_tokens * share), total - self.lr.warmup_tokens)
        if self.lr.kind == "cosine":
            decay = total - self.lr.warmup_tokens
        lr = replace(self.lr, total_tokens=total, decay_tokens=decay)
        batches = tuple((moved(start), batch) for start, batch in self.batches)
        return replace(self, batches=batches, lr=lr)

    def history(self, name: str = "") -> History:
        """Its history, for a law of whole schedules.

        Raises:
            FitError: the batches do not start at 0 or do not increase.
        """
        lr, total = self.lr, self.total_tokens
        cuts = {0, total, *(start for start, _ in self.batches), lr.warmup_tokens}
        if lr.decay_tokens:
            many = 1 if lr.decay_shape == "linear" else CURVED
            begin = lr.decay_start_tokens
            cuts |= {begin + lr.decay_tokens * i // many for i in range(many)}
        edges = sorted(cuts)
        starts = np.array([start for start, _ in self.batches])
        sizes = np.array([size for _, size in self.batches], float)
        at = np.searchsorted(starts, edges[:-1], side="right") - 1
        factor = (sizes[at] / sizes[0]) ** _POWER[self.coupling]
        rate = np.array([lr.at(tokens) for tokens in edges])
        return History.of_sections(
            edges,
            sizes[at],
            rate[:-1] * factor,
            rate[1:] * factor,
            weight_decay=self.weight_decay,
            name=name,
            n_params=self.n_params,
        )


def batch_words(plan: SchedulePlan, count: int = 6) -> str:
    """The batches in a few words: `256, 512 from 600K`; of many the first and the last.

    Args:
        plan: the run.
        count: how many segments are shown.
    """
    from megascale.units import short_count

    def word(segment: tuple[int, int]) -> str:
        start, size = segment
        return short_count(size) if not start else f"{short_count(size)} from {short_count(start)}"

    shown: Sequence[str] = [word(segment) for segment in plan.batches]
    if len(shown) > count:
        shown = [*shown[: count - 1], f"... {shown[-1]}"]
    return ", ".join(shown)
