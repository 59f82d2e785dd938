"""fairseq's JSON lines."""

from __future__ import annotations

import math

import pytest

from megascale.runs.readers import fairseq
from tests.runs.readers.helpers import kinds, read_as
from tests.runs.readers.samples import FAIRSEQ


def test_bits_become_nats():
    found = read_as(fairseq, FAIRSEQ)
    nat = math.log(2)
    assert found.table["loss"].to_list() == [
        pytest.approx(value * nat)
        for value in (16, 12, 8)  # the inner loss of experts
    ]
    assert found.table.select("step", "loss_kind", "lr", "seconds").rows() == [
        (1, "interval_mean", 2e-5, None),
        (2, "interval_mean", 4e-5, 56.0),
        (2, "validation", None, None),
    ]
    assert found.runs[0].n_params == 13110865920
    assert "missing_field" in kinds(found)
