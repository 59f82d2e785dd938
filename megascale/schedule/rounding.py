"""From the batch somebody asked for to one the layout can cut into whole micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from megascale.errors import ScheduleError
from megascale.schedule.points import BatchPoint, format_table
from megascale.units import format_count

Rounding = Literal["nearest", "exact"]
Growth = Literal["micro_batches", "sequence_length"]


@dataclass(frozen=True, slots=True)
class RealisedBatch:
    """A global batch as the layout runs it: tokens, tokens per sequence, passes per rank."""

    batch_tokens: int
    sequence_length: int
    micro_batches: int


@dataclass(frozen=True, slots=True)
class BatchRule:
    """Which global batches are legal, and how far a request may be moved to reach one.

    Attributes:
        micro_batch_size: sequences per rank in one forward and backward pass.
        data_parallel: data-parallel degree.
        sequence_length: tokens, where a point does not set its own.
        rounding: `nearest` or `exact`.
        max_rounding: largest relative move under `nearest`.
        sequence_multiple: what every grown sequence length must be a multiple of.
        max_sequence_length: longest sequence (tokens) the model allows, or None.
        batch_multiple: what the number of sequences must be a multiple of, beside what the layout
            asks for.
        key: config key, for messages.
    """

    micro_batch_size: int
    data_parallel: int
    sequence_length: int
    rounding: Rounding = "nearest"
    max_rounding: float = 0.1
    sequence_multiple: int = 1
    max_sequence_length: int | None = None
    batch_multiple: int = 1
    key: str = "batch.schedule"

    def by_micro_batches(self, point: BatchPoint) -> RealisedBatch:
        """Keep the sequence length; the number of micro-batches carries the batch.

        Raises:
            ScheduleError: no legal batch is near enough; the legal ones around it are named.
        """
        sequence = point.sequence_length or self.sequence_length
        pass_sequences = self.micro_batch_size * self.data_parallel
        sequences = math.lcm(pass_sequences, self.batch_multiple)
        batch = self._multiple(point, sequences * sequence, lambda: self._pass_words(sequence))
        return RealisedBatch(batch, sequence, batch // (pass_sequences * sequence))

    def _pass_words(self, sequence: int) -> str:
        """What a batch of sequences this long must be a multiple of, in words."""
        pass_sequences = self.micro_batch_size * self.data_parallel
        sequences = math.lcm(pass_sequences, self.batch_multiple)
        words = (
            f"micro_batch_size {self.micro_batch_size} x sequence_length {sequence} x "
            f"data-parallel degree {self.data_parallel} = {format_count(pass_sequences * sequence)}"
            " tokens"
        )
        if sequences != pass_sequences:
            unit = format_count(sequences * sequence)
            words += f", and of {self.batch_multiple} sequences: {unit} tokens"
        return words

    def by_sequence_length(self, point: BatchPoint, first: RealisedBatch) -> RealisedBatch:
        """Keep the sequences and micro-batches of `first`; the sequence length carries the batch.

        Raises:
            ScheduleError: no legal batch is near enough, the sequence would be too long, or the
                point sets a sequence length of its own.
        """
        if point.sequence_length is not None:
            raise ScheduleError.of(
                self.key,
                format_table([point]),
                "growth: sequence_length derives the sequence length from the batch",
                format_table([BatchPoint(point.start_tokens, point.batch_tokens)]),
            )
        sequences = first.batch_tokens // first.sequence_length
        unit = sequences * self.sequence_multiple
        batch = self._multiple(
            point,
            unit,
            lambda: (
                f"{sequences} sequences x {self.sequence_multiple} = {format_count(unit)} tokens"
            ),
        )
        length = batch // sequences
        if self.max_sequence_length is not None and length > self.max_sequence_length:
            longest = self.max_sequence_length // self.sequence_multiple * unit
            raise ScheduleError.of(
                self.key,
                format_table([point]),
                f"{sequences} sequences of {length} tokens exceed the model's longest sequence, "
                f"{self.max_sequence_length}",
                format_count(longest),
            )
        return RealisedBatch(batch, length, first.micro_batches)

    def _multiple(self, point: BatchPoint, unit: int, words: Callable[[], str]) -> int:
        asked = point.batch_tokens
        below = asked // unit * unit
        above = below if below == asked else below + unit
        nearest = below if below and asked - below < above - asked else above
        exact = self.rounding == "exact"
        if nearest == asked or (not exact and abs(nearest - asked) <= self.max_rounding * asked):
            return nearest
        rule = "under rounding: exact a batch must be"
        if not exact:
            rule = (
                f"a batch must be within {self.max_rounding:.3g} (batch.max_rounding, relative) of"
            )
        legal = [format_count(size) for size in dict.fromkeys((below, above)) if size]
        raise ScheduleError.of(
            self.key, format_table([point]), f"{rule} a multiple of {words()}", legal
        )
