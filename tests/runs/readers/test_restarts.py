"""Histories that cannot be of one run."""

from __future__ import annotations

import polars as pl
import pytest

from megascale.runs.readers.base import rows_table
from megascale.runs.readers.restarts import keep_last


def table(steps, losses, sources=None) -> pl.DataFrame:
    return rows_table(
        {
            **{"step": step, "loss": loss, "loss_kind": "instantaneous", "line": line},
            "source": None if sources is None else sources[line - 1],
        }
        for line, (step, loss) in enumerate(zip(steps, losses, strict=True), start=1)
    )


def reasons(steps, losses=None, ordered=True, sources=None) -> list[str]:
    losses = losses or [float(line) for line in range(len(steps))]
    return [
        message for _, message in keep_last(table(steps, losses, sources), ordered=ordered).mixed
    ]


TURNS = [1, 2, 3, 1, 2, 4, 5, 3, 4, 6, 7, 5, 6, 8, 9, 7, 8]


def test_runs_that_take_turns_in_one_log():
    (message,) = reasons(TURNS)
    assert "losses that differ" in message or "take turns" in message
    (message,) = reasons([1, 10, 2, 11, 3, 12, 4, 13, 5, 14])
    assert "goes back 4 times" in message
    assert "take turns" in message


def test_ranks_that_each_print_their_own_loss():
    (message,) = reasons([1, 1, 2, 2, 3, 3])
    assert message.startswith("3 of 3 steps have several instantaneous losses that differ")
    assert reasons([1, 1, 2, 2, 3, 3], [5.0, 5.0, 4.0, 4.0, 3.0, 3.0]) == []


@pytest.mark.parametrize(
    "steps",
    [
        [1, 2, 3, 4, 5, 6],
        [1, 2, 3, 2, 3, 4, 5],
        [1, 2, 3, 1, 2, 3, 4],
        # fails again and again after the same checkpoint
        [10, 20, 30, 21, 30, 21, 30, 21, 30, 21, 30, 40, 50],
        # a long run with a restart every 20 rows
        [start + row for start in range(0, 300, 15) for row in range(20)],
    ],
)
def test_restarts_are_no_other_runs(steps):
    assert reasons(steps) == []


def test_a_log_that_starts_over_and_does_not_get_as_far():
    (message,) = reasons([1, 2, 3, 4, 1, 2])
    assert "starts over at step 1 and ends at step 2, before it had reached 4" in message
    two = [1, 2, 3, 1, 2, 3]
    assert reasons(two) == []
    (message,) = reasons(two, sources=["a"] * 3 + ["b"] * 3)  # both ended, so no restart
    assert "starts over" in message


def test_rows_in_any_order_repeat_a_step_once_at_most():
    steps = [1, 2, 3, 3, 4, 5, 6]
    assert reasons(steps, ordered=False) == []
    (message,) = reasons([1, 2, 3] * 20, ordered=False)
    assert "3 of 3 steps" in message
