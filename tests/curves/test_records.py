"""Where a loss stands on the token axis, and what stands behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from megascale.curves.records import Placed, Records, split_runs


def records(**columns: Any) -> Records:
    (found,) = split_runs(pl.DataFrame({"run": "a", **columns}))
    return found


def placed(run: Records, wanted: str = "train") -> Placed:
    found = run.losses_of(wanted)
    assert found is not None
    return found


def test_an_interval_stands_in_the_middle_of_its_steps() -> None:
    run = records(
        tokens=[40, 80, 120, 200], batch_tokens=[10, 10, 10, 20], loss=[4.0, 3, 2, 1],
        loss_kind="interval_mean",
    )  # fmt: skip
    found = placed(run)
    # steps 1 to 4 saw 0 to 30 tokens; the last four 120 to 180
    assert found.tokens.tolist() == [15, 55, 95, 150]
    assert found.weight.tolist() == [40, 40, 40, 80]
    assert found.after.tolist() == [40, 80, 120, 200]


@pytest.mark.parametrize(
    ("kind", "places"),
    [("instantaneous", [30, 70]), ("ema", [30, 70]), ("validation", [40, 80])],
)
def test_a_single_step_stands_before_it_and_an_evaluation_where_it_was_made(
    kind: str, places: list[float]
) -> None:
    run = records(tokens=[40, 80], batch_tokens=[10, 10], loss=[4.0, 3.0], loss_kind=kind)
    found = placed(run, "validation" if kind == "validation" else "train")
    assert found.tokens.tolist() == places
    assert found.weight.tolist() == [1, 1]


def test_a_branch_does_not_begin_at_nothing() -> None:
    tokens = np.arange(1010, 1110, 10)
    run = records(tokens=tokens, batch_tokens=5, loss=3.0, loss_kind="interval_mean")
    found = placed(run)
    assert found.tokens[0] == (1000 + 1005) / 2
    assert found.weight.tolist() == [10] * 10
    whole = records(tokens=[20, 30, 40], batch_tokens=5, loss=3.0, loss_kind="interval_mean")
    assert placed(whole).weight.tolist() == [20, 10, 10]


def test_the_last_of_equal_counts_and_no_loss_that_is_none() -> None:
    run = records(
        tokens=[10, 10, 20, 30], batch_tokens=10, loss=[4.0, 5.0, None, 2.0],
        loss_kind="instantaneous",
    )  # fmt: skip
    found = placed(run)
    assert found.loss.tolist() == [5, 2]
    assert found.rows.tolist() == [1, 3]
    assert run.kinds == {"instantaneous": 2}
    assert run.losses_of("validation") is None
