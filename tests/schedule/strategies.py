"""Random but legal batch tables and layouts."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from megascale.schedule.batch import BatchSchedule, build_batch_schedule
from megascale.schedule.points import BatchPoint


@dataclass(frozen=True)
class Case:
    """A request, a layout it is legal on, and the run's budget."""

    points: tuple[BatchPoint, ...]
    total_tokens: int
    sequence_length: int
    micro_batch_size: int
    data_parallel: int

    def build(self, **changes: object) -> BatchSchedule:
        arguments: dict[str, object] = {
            "total_tokens": self.total_tokens,
            "sequence_length": self.sequence_length,
            "micro_batch_size": self.micro_batch_size,
            "data_parallel": self.data_parallel,
            "max_rounding": 1.0,
        }
        return build_batch_schedule(self.points, **(arguments | changes))  # type: ignore[arg-type]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Tables of 1 to 8 batches, growing and shrinking, each alive for at least one step."""
    sequence = draw(st.sampled_from([1, 8, 128, 1000]))
    micro = draw(st.integers(1, 4))
    ranks = draw(st.sampled_from([1, 2, 3, 8]))
    unit = sequence * micro * ranks
    start, points = 0, []
    for _ in range(draw(st.integers(1, 8))):
        batch = draw(st.integers(unit, 20 * unit))
        points.append(BatchPoint(start, batch))
        start += 21 * unit + draw(st.integers(0, 400 * unit))
    return Case(tuple(points), start + draw(st.integers(0, unit)), sequence, micro, ranks)
