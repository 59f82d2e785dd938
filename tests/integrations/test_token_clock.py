"""The token clock: steps of a foreign loop are those of our own trainer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ScheduleError
from megascale.integrations.token_clock import TokenClock
from megascale.schedule.lr import LRSchedule

RATE = LRSchedule("wsd", peak=1e-3, total_tokens=8192, warmup_tokens=512, decay_tokens=1024)


def clock(table: str = "0: 256, 2048: 512", ranks: int = 1, total: int = 8192) -> TokenClock:
    lr = LRSchedule("wsd", 1e-3, total, warmup_tokens=512, decay_tokens=1024)
    return TokenClock.from_table(
        table, lr, sequence_length=32, micro_batch_size=2, data_parallel=ranks
    )


@given(
    st.sampled_from([1, 2, 4]), st.sampled_from(["0: 256", "0: 256, 2048: 512", "0: 512, 4K: 256"])
)
def test_ranks_share_every_sequence_once(ranks: int, table: str) -> None:
    made = clock(table, ranks)
    taken = [
        number
        for step in made
        for index in range(step.micro_batches)
        for rank in range(ranks)
        for number in step.sequences(rank)[index]
    ]
    assert taken == list(range(8192 // 32))
    assert [step.start for step in made][1:] == [step.stop for step in made][:-1]
    assert made[len(made) - 1].stop == 8192


def test_the_rate_is_that_of_the_middle_of_a_step() -> None:
    made = clock()
    assert made[0].lr == RATE.at(128)
    assert made[len(made) - 1].lr == RATE.at(8192 - 256)
    assert made[0].lr < made[3].lr


def test_a_short_last_step_takes_whole_micro_batches() -> None:
    assert [step.micro_batches for step in clock("0: 256", total=2048 + 64)][-2:] == [4, 1]
    with pytest.raises(ScheduleError, match=r"Nearest legal: 2048 or 2112") as raised:
        clock("0: 256", total=2048 + 32)
    assert "total_tokens = 2080" in str(raised.value)
    assert len(clock("0: 256", total=2112)) == 9


def test_sequences_of_changing_length_are_refused() -> None:
    with pytest.raises(ScheduleError, match="their length is one for the run"):
        clock("0: 256, 2048: 256 @ 64")


def test_budgets_must_agree() -> None:
    with pytest.raises(ScheduleError, match=r"lr.total_tokens = 4096"):
        TokenClock(clock().batch, LRSchedule("constant", 1e-3, 4096))
