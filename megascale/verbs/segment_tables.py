"""What a table of segments does not show when it is folded."""

from __future__ import annotations

from collections.abc import Sequence

from megascale.schedule.batch import Segment
from megascale.units import format_count
from megascale.verbs.tables import folded


def segments_between(segments: Sequence[Segment]) -> list[str]:
    """What changes between the head and the tail of a folded table; no line where all is shown."""
    _, middle, _ = folded(segments)
    if not middle:
        return []
    sizes = [segment.batch_tokens for segment in middle]
    batches = " to ".join(format_count(size) for size in sorted({min(sizes), max(sizes)}))
    steps = sum(segment.steps for segment in middle)
    said = f"… {len(middle):,} more segments: batch {batches} tokens, {steps:,} steps"
    moved = [abs(s.batch_tokens / s.requested_batch_tokens - 1) for s in middle]
    if max(moved):
        said += f", moved by {max(moved):.2%} at most"
    return [f"{said}; --json has them all"]
