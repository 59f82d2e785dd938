"""Levanter's console."""

from __future__ import annotations

from megascale.runs.readers import levanter
from tests.runs.readers import samples
from tests.runs.readers.helpers import kinds, read_as, recognised


def test_progress_lines_count_while_their_step_is_exact():
    found = read_as(levanter, samples.LEVANTER)
    assert found.table.select("step", "loss", "loss_kind").rows() == [(101, 6.21, "instantaneous")]
    assert "coarse_precision" in kinds(found)
    short = "Progress on:train 4.00it/500it rate:1.0s/it postfix:loss=9.5\n"
    assert read_as(levanter, short).table["step"].to_list() == [4]


def test_the_tracker_knows_every_step():
    text = samples.LEVANTER_TRACKER + samples.LEVANTER
    assert recognised(text) == "levanter"
    found = read_as(levanter, text)
    columns = ("step", "tokens", "loss", "loss_kind", "lr", "grad_norm")
    assert found.table.select(columns).rows() == [
        (1, 65536, 10.5, "instantaneous", 1e-4, 2.5),
        (2, 131072, 9.5, "instantaneous", None, None),
        (2, 131072, 9.7, "validation:c4", None, None),
    ]
