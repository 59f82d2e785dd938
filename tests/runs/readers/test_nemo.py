"""NeMo 2's console."""

from __future__ import annotations

import pytest

from megascale.runs.readers import nemo
from megascale.runs.readers.base import ReadOptions
from tests.runs.readers.helpers import kinds, read_as, recognised
from tests.runs.readers.samples import NEMO


def line(step: int, **fields: object) -> str:
    """A line at finished step `step`."""
    shown = {"global_step": step - 1, "reduced_train_loss": 5.0, **fields}
    cells = "".join(f" | {key}: {value}" for key, value in shown.items())
    return f"Training epoch 0, iteration {step - 1}/9999{cells}\n"


def test_it_is_not_megatrons():
    assert recognised(NEMO) == "nemo"
    found = read_as(nemo, NEMO, ReadOptions(seq_length=4096))
    columns = ("step", "samples", "tokens", "loss", "loss_kind", "lr", "seconds")
    assert found.table.select(columns).rows() == [
        (1, 512, 512 * 4096, 12.03, "interval_mean", 1.499e-07, 20.1),
        (2, 1024, 1024 * 4096, 12.02, "interval_mean", 2.999e-07, 4.1),
        (2, 1024, 1024 * 4096, 11.99, "validation", None, None),
        (3, 1536, 1536 * 4096, 11.98, "interval_mean", 4.498e-07, 4.1),
        (4, 2048, 2048 * 4096, 11.9, "interval_mean", 4.498e-07, 4.1),
    ]


@pytest.mark.parametrize("first_counts", [True, False])
def test_counts_that_are_means_over_ten_steps(first_counts):
    """What had been consumed at the line is the batch times the steps, not the mean printed."""
    batch = 512
    text = ""
    for end in (10, 20, 30):
        consumed = [batch * step for step in range(end - 9, end + 1)]
        if end == 10 and not first_counts:
            consumed[0] = 0
        mean = sum(consumed) / 10
        shown = int(mean) if mean.is_integer() else f"{mean:.4}"
        text += line(end, global_batch_size=batch, consumed_samples=shown)
    found = read_as(nemo, text)
    assert found.table["samples"].to_list() == [5120, 10240, 15360]


def test_means_over_a_batch_that_grows_are_left_empty():
    text = line(10, global_batch_size=512, consumed_samples=2816)
    text += line(20, global_batch_size=700, consumed_samples=9000)
    found = read_as(nemo, text)
    assert found.table["samples"].to_list() == [5120, None]
    assert "missing_field" in kinds(found)


def test_a_log_that_begins_in_the_middle():
    text = "".join(
        line(step, global_batch_size=8, consumed_samples=8 * step) for step in (101, 102, 103)
    )
    assert read_as(nemo, text).table["samples"].to_list() == [808, 816, 824]
    text = "".join(
        line(step, global_batch_size=8, consumed_samples=8 * step - 36) for step in (110, 120)
    )
    assert read_as(nemo, text).table["samples"].to_list() == [880, 960]


def test_a_restart_counts_from_where_it_goes_on():
    text = "".join(
        line(step, global_batch_size=8, consumed_samples=8 * step) for step in (1, 2, 3, 4, 3, 4, 5)
    )
    found = read_as(nemo, text)
    assert found.table.select("step", "samples").rows() == [
        (step, 8 * step) for step in (1, 2, 3, 4, 5)
    ]


def test_counts_that_a_float32_cannot_hold_are_none():
    big = 2**24 + 8
    found = read_as(
        nemo,
        line(7, global_batch_size=8, consumed_samples=0)
        + line(8, global_batch_size=8, consumed_samples=big),
    )
    assert found.table["samples"].to_list()[1] == big
    found = read_as(
        nemo, line(7, global_batch_size=5) + line(8, global_batch_size=5, consumed_samples=big)
    )
    assert found.table["samples"].to_list()[1] is None
