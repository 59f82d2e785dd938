"""Sequences by number are the micro-batches of our own trainer, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megascale.data.batches import micro_batch
from megascale.integrations.sequences import StreamSequences
from megascale.integrations.token_clock import TokenClock
from tests.tiny_run import tiny_config


@pytest.mark.parametrize("ranks", [1, 2])
def test_sequences_are_our_own_rows(tmp_path: Path, ranks: int) -> None:
    config = tiny_config(tmp_path)
    sequences, clock = (
        StreamSequences.from_config(config),
        TokenClock.from_config(config, data_parallel=ranks),
    )
    for number in (0, 17, len(clock) - 1):
        step = clock[number]
        for rank in range(ranks):
            for index, rows in enumerate(step.sequences(rank)):
                ours = micro_batch(
                    sequences.stream, step.start, step.stop, sequence_length=32, index=index,
                    micro_batch_size=2, data_parallel=ranks, dp_rank=rank,
                )  # fmt: skip
                items = [sequences[row] for row in rows]
                assert np.array_equal([item["input_ids"] for item in items], ours.inputs)
                # A window's last target is the first token of the next window: it counts there too.
                assert np.array_equal([item["shift_labels"] for item in items], ours.targets)
    assert len(sequences) == 10_240 // 32
    with pytest.raises(IndexError):
        sequences[len(sequences)]
