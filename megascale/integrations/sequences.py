"""Our token files as a data set of numbered sequences, for any loader that asks by number."""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import NDArray

from megascale.config import RunConfig
from megascale.data.batches import micro_batch
from megascale.data.opening import open_stream
from megascale.data.stream import Stream


class StreamSequences:
    """Sequence i: the inputs [i S, (i + 1) S) of a stream, and the next token of each.

    Items are mappings of int64 arrays of length S: `input_ids`; `shift_labels`, the next tokens,
    -100 where none counts; and `labels`, the inputs again. Models of transformers take the loss
    from `shift_labels` where they are given.
    """

    def __init__(self, stream: Stream, *, sequence_length: int, total_tokens: int) -> None:
        """Args:
        stream: the training data.
        sequence_length: S, in tokens.
        total_tokens: the budget; the targets beyond it do not count.
        """
        self.stream, self.sequence_length = stream, sequence_length
        self.total_tokens = total_tokens

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """The sequences that our own trainer would run.

        Raises:
            DataError: whatever is wrong with the token files.
        """
        stream = open_stream(config.data, seed=config.seed, vocab_size=config.model.vocab_size)
        train = config.train
        return cls(stream, sequence_length=train.sequence_length, total_tokens=train.total_tokens)

    def __len__(self) -> int:
        length = self.sequence_length
        return (self.total_tokens + length - 1) // length

    def __getitem__(self, number: int) -> dict[str, NDArray[Any]]:
        if not 0 <= number < len(self):
            raise IndexError(f"sequence {number} of {len(self)}")
        batch = micro_batch(
            self.stream,
            number * self.sequence_length,
            self.total_tokens,
            sequence_length=self.sequence_length,
            micro_batch_size=1,
            data_parallel=1,
            dp_rank=0,
            index=0,
        )
        row, targets = batch.inputs[0], batch.targets[0]
        return {"input_ids": row, "labels": row, "shift_labels": targets}
