"""What a training loop needs of a schedule, step by step: sequences, micro-batches, learning rate.

Sequence i of the data is tokens [i S, (i + 1) S) of its stream. A step that consumes the tokens
[start, stop) takes sequences start / S to stop / S; micro-batch m of data-parallel rank r takes
those from (m * ranks + r) * micro_batch_size on, as this project's own trainer does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from megascale.config import RunConfig
from megascale.config.schedules import batch_schedule_from_config, lr_schedule_from_config
from megascale.errors import ScheduleError
from megascale.schedule.batch import BatchSchedule, build_batch_schedule
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import parse_table


@dataclass(frozen=True, slots=True)
class ClockStep:
    """One optimizer step.

    Attributes:
        number: from 0.
        start, stop: consumed tokens before and after it.
        batch_tokens: global batch of its segment; `stop - start` falls short of it only at the end.
        sequence_length: tokens of a sequence.
        micro_batch_size: sequences of a rank in one forward and backward pass.
        micro_batches: passes of each rank.
        data_parallel: ranks.
        lr: learning rate, at the middle of the step's tokens.
    """

    number: int
    start: int
    stop: int
    batch_tokens: int
    sequence_length: int
    micro_batch_size: int
    micro_batches: int
    data_parallel: int
    lr: float

    def sequences(self, rank: int = 0) -> list[range]:
        """Numbers of the sequences of each of a rank's micro-batches."""
        first, size = self.start // self.sequence_length, self.micro_batch_size
        begins = (
            first + (index * self.data_parallel + rank) * size
            for index in range(self.micro_batches)
        )
        return [range(begin, begin + size) for begin in begins]


class TokenClock(Sequence[ClockStep]):
    """All steps of a run: `clock[n]` is step n.

    Attributes:
        batch: the batch schedule.
        lr: the learning-rate schedule.
        data_parallel: ranks.
    """

    def __init__(self, batch: BatchSchedule, lr: LRSchedule, *, data_parallel: int = 1) -> None:
        """Args:
        batch: laid out for `data_parallel` ranks.
        lr: of the same budget.
        data_parallel: ranks.

        Raises:
            ScheduleError: the budgets differ; the sequence length changes on the way; the last
                step is cut short of a whole number of micro-batches on every rank.
        """
        self.batch, self.lr, self.data_parallel = batch, lr, data_parallel
        if lr.total_tokens != batch.total_tokens:
            rule = f"the batch schedule has {batch.total_tokens} tokens"
            raise ScheduleError.of("lr.total_tokens", lr.total_tokens, rule, batch.total_tokens)
        lengths = sorted({segment.sequence_length for segment in batch.segments})
        if len(lengths) > 1:
            rule = "sequences are numbered, so their length is one for the run"
            raise ScheduleError.of("sequence_length", lengths, rule, lengths[0])
        for segment in batch.segments:
            unit = segment.sequence_length * segment.micro_batch_size * data_parallel
            if segment.batch_tokens != unit * segment.micro_batches:
                rule = f"the schedule was not laid out for {data_parallel} data-parallel ranks"
                raise ScheduleError.of("batch_tokens", segment.batch_tokens, rule)
            left = (segment.end_tokens - segment.start_tokens) % unit
            if left:
                rule = f"the last step must be whole micro-batches of {unit} tokens on all ranks"
                total = batch.total_tokens
                raise ScheduleError.of(
                    "total_tokens", total, rule, [total - left, total - left + unit]
                )

    @classmethod
    def from_config(cls, config: RunConfig, *, data_parallel: int = 1) -> Self:
        """The clock of a run config, as this project's trainer would run it.

        Raises:
            ScheduleError: the schedule is illegal on so many ranks, or as `TokenClock` says.
        """
        batch = batch_schedule_from_config(config, data_parallel)
        return cls(batch, lr_schedule_from_config(config), data_parallel=data_parallel)

    @classmethod
    def from_table(
        cls,
        table: str,
        lr: LRSchedule,
        *,
        sequence_length: int,
        micro_batch_size: int,
        data_parallel: int = 1,
    ) -> Self:
        """The clock of a batch table such as `0: 2M, 125B: 4M`, until `lr.total_tokens`.

        Raises:
            ScheduleError: the table is illegal for this layout, or as `TokenClock` says.
        """
        batch = build_batch_schedule(
            parse_table(table, "table"),
            total_tokens=lr.total_tokens,
            sequence_length=sequence_length,
            micro_batch_size=micro_batch_size,
            data_parallel=data_parallel,
            key="table",
        )
        return cls(batch, lr, data_parallel=data_parallel)

    def __len__(self) -> int:
        return self.batch.total_steps

    def __getitem__(self, number: int) -> ClockStep:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(f"step {number} of {len(self)}")
        segment = self.batch.segment_at_step(number)
        start, stop = self.batch.window(number)
        unit = segment.sequence_length * segment.micro_batch_size * self.data_parallel
        return ClockStep(
            number=number,
            start=start,
            stop=stop,
            batch_tokens=segment.batch_tokens,
            sequence_length=segment.sequence_length,
            micro_batch_size=segment.micro_batch_size,
            micro_batches=(stop - start) // unit,
            data_parallel=self.data_parallel,
            lr=self.lr.at((start + stop) / 2) * segment.lr_scale,
        )

    def __iter__(self) -> Iterator[ClockStep]:
        return map(self.__getitem__, range(len(self)))
