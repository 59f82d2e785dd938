"""Every reader's sample is recognised as its own, and refused by every other reader."""

from __future__ import annotations

import pytest

from megascale.runs.readers import detect
from tests.runs.test_readers_fuzz import REAL

GENERIC = {("megatron-golden", "jsonl"), ("megascale", "jsonl")}
"""Forms of JSON lines, whose readers are asked before the one of any such lines."""


@pytest.mark.parametrize("name", sorted(REAL))
def test_no_reader_takes_anothers_log(name):
    taken = {other for other, reader in detect.READERS.items() if reader.sniff(REAL[name], "log")}
    assert taken - {other for own, other in GENERIC if own == name} == {name}


@pytest.mark.parametrize("name", sorted(REAL))
def test_the_first_reader_that_takes_it_is_its_own(name):
    reader = detect.reader_of(REAL[name], "log")
    assert reader is not None
    assert name == reader.NAME


def test_every_reader_has_a_sample():
    assert set(REAL) == set(detect.READERS)


@pytest.mark.parametrize(
    "text",
    [
        b"{'loss': 'mean_squared_error', 'epoch': 3}\n",
        b"model = compile(**{'loss': 'mse', 'metrics': ['accuracy']})\n",
        b"Step 1 | of the installation: done\n",
        b"iteration 5: loss is large\n",
        b"12 train stations\n",
        b"val loss 3.2\n",
        b"[batch=1/100]: no metrics follow\n",
        b"Progress on:eval 3.00it/8.00it rate:1it/s postfix:loss=3\n",
    ],
)
def test_what_only_looks_alike_is_no_log(text):
    assert detect.reader_of(text, "log") is None
