"""The section of loss curves: what is drawn of a table, and when each point was reached."""

from __future__ import annotations

import polars as pl
import pytest

from megascale.report.curves import drawn_curves, run_rows
from megascale.runs.readers.base import FileRead, RunMeta, as_table
from megascale.runs.table import LoadedRun, RunTable, load_runs
from tests.report.samples import write_log


def loaded(**columns):
    rows = len(columns["step"])
    whole = {"run": ["a"] * rows, "source": ["a.csv"] * rows, "tokens": columns["step"], **columns}
    return RunTable(
        as_table(whole), [LoadedRun(RunMeta("a"), "csv", [0])], [FileRead(path="a.csv")]
    )


def test_time_is_the_sum_of_what_the_log_says_also_over_records_without_a_loss():
    table = loaded(
        step=[1, 2, 3, 4], loss=[5.0, None, 4.0, 3.0], loss_kind=["interval_mean"] * 4,
        seconds=[None, 2.0, 3.0, 4.0],
    )  # fmt: skip
    (curve,) = drawn_curves(table)
    assert curve["seconds"] == [0.0, 5.0, 9.0]
    assert run_rows(table)[0]["seconds"] == 9.0


def test_a_log_with_a_gap_in_its_times_has_none():
    table = loaded(
        step=[1, 2, 3], loss=[5.0, 4.0, 3.0], loss_kind=["interval_mean"] * 3,
        seconds=[1.0, None, 1.0],
    )  # fmt: skip
    assert drawn_curves(table)[0]["seconds"] is None
    assert run_rows(table)[0]["seconds"] is None


def test_validation_losses_stand_at_the_training_clock():
    table = loaded(
        step=[10, 20, 15], loss=[5.0, 4.0, 4.4],
        loss_kind=["interval_mean", "interval_mean", "validation"], seconds=[10.0, 30.0, None],
    )  # fmt: skip
    assert drawn_curves(table)[0]["validation"]["seconds"] == [25.0]


def test_of_several_kinds_the_one_with_most_records_is_drawn():
    table = loaded(
        step=[1, 1, 2, 3], loss=[5.0, 9.0, 4.0, 3.0],
        loss_kind=["validation:a", "validation:b", "validation:a", "validation:a"],
        batch_tokens=[8, 8, 8, 16],
    )  # fmt: skip
    (curve,) = drawn_curves(table)
    assert curve["loss"] == [5.0, 4.0, 3.0]
    assert curve["validation"] is None
    assert run_rows(table)[0]["batch_tokens"] == [8, 16]


def test_batch_changes_stand_where_they_began():
    table = loaded(
        step=[10, 20, 30, 40], loss=[5.0, 4.0, 3.0, 2.5], loss_kind=["interval_mean"] * 4,
        batch_tokens=[8, 8, 16, 8],
    )  # fmt: skip
    assert drawn_curves(table)[0]["batches"] == [[0, 8], [20, 16], [30, 8]]


def test_a_thousand_batch_changes_are_thinned():
    count = 1000
    table = loaded(
        step=list(range(1, count + 1)), loss=[3.0] * count, loss_kind=["interval_mean"] * count,
        batch_tokens=[100 + step for step in range(count)],
    )  # fmt: skip
    (row,) = run_rows(table)
    assert row["batch_tokens"] == [100, 101, 102, 103, 1099]
    assert row["batch_sizes"] == count
    stairs = drawn_curves(table)[0]["batches"]
    assert 300 < len(stairs) <= 401
    assert (stairs[0][1], stairs[-1][1]) == (100, 1099)


def test_our_own_log_has_its_time(tmp_path):
    table = load_runs(write_log(tmp_path / "run"), cache=False)
    (curve,) = drawn_curves(table)
    assert curve["seconds"] == pytest.approx([0.5 * n for n in range(1, 21)])


@pytest.mark.parametrize(
    ("folder", "seconds"), [("megatron_logs", 13818.0), ("modded_nanogpt", 132.194)]
)
def test_real_logs_have_their_time(shared_data, folder, seconds):
    table = load_runs(shared_data / folder, cache=False)
    assert seconds in [row["seconds"] for row in run_rows(table)]
    assert pl.Series([c["seconds"][-1] for c in drawn_curves(table)]).min() > 60
