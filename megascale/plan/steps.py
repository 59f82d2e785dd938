"""Work of a whole run, segment by segment."""

from __future__ import annotations

from dataclasses import dataclass

from megascale.model.config import ModelConfig
from megascale.plan.flops import flops_per_token
from megascale.schedule.batch import BatchSchedule


@dataclass(frozen=True, slots=True)
class SegmentWork:
    """Model FLOPs of one segment of a batch schedule.

    Attributes:
        tokens: consumed in the segment.
        steps: optimizer steps in it.
        flops: model FLOPs of all of them, forward and backward.
    """

    tokens: int
    steps: int
    flops: int


def segment_work(model: ModelConfig, schedule: BatchSchedule) -> tuple[SegmentWork, ...]:
    """Work of each segment, in the order of `schedule.segments`."""
    work = []
    for segment in schedule.segments:
        tokens = segment.end_tokens - segment.start_tokens
        flops = flops_per_token(model, segment.sequence_length).total * tokens
        work.append(SegmentWork(tokens, segment.steps, flops))
    return tuple(work)
