"""MaxText's console."""

from __future__ import annotations

from megascale.runs.readers.maxtext import MAXTEXT
from tests.runs.readers.helpers import read_as
from tests.runs.readers.samples import MAXTEXT as SAMPLE


def test_tokens_are_the_sum_of_the_weights_of_steps_numbered_from_zero():
    found = read_as(MAXTEXT, SAMPLE)
    columns = ("step", "tokens", "batch_tokens", "samples", "loss", "loss_kind")
    assert found.table.select(columns).rows() == [
        (1, 512, 512, 4, 10.801, "instantaneous"),  # the loss without auxiliary ones
        (2, 1012, 500, 8, 10.512, "instantaneous"),  # 0.000: not computed
        (3, 1524, 512, 12, 9.855, "validation"),  # after the step of number 2
        (3, 1524, 512, 12, 10.112, "instantaneous"),
    ]
    (meta,) = found.runs
    assert (meta.seq_length, meta.d_tokens) == (128, 4 * 128 * 1000)


def test_a_restart_adds_to_what_it_kept():
    lines = SAMPLE.splitlines(keepends=True)
    again = lines[4].replace("total_weights: 500", "total_weights: 300")
    found = read_as(MAXTEXT, "".join(lines) + again)
    train = found.table.filter(loss_kind="instantaneous")
    assert train.select("step", "tokens").rows() == [(1, 512), (2, 812)]


def test_a_step_that_is_not_shown_leaves_tokens_to_the_stated_batch():
    lines = SAMPLE.splitlines(keepends=True)
    del lines[3]
    found = read_as(MAXTEXT, "".join(lines))
    assert found.table["tokens"].to_list() == [1024, 1536, 1536]
    found = read_as(MAXTEXT, "".join(lines[3:]))
    assert found.table["tokens"].null_count() == 3


def test_steps_whose_time_is_hidden_count():
    shown = SAMPLE.replace(
        "completed step: 1, seconds: 1.435,",
        "completed profiler activation/deactivation step: 1,",
    )
    assert read_as(MAXTEXT, shown).table["tokens"].to_list() == [512, 1012, 1524, 1524]
