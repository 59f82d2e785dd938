"""Consoles of nanoGPT, build-nanogpt and llm.c."""

from __future__ import annotations

import pytest

from megascale.runs.readers import karpathy
from megascale.runs.readers.base import FileRead
from tests.runs.readers import samples
from tests.runs.readers.helpers import read_as

COLUMNS = ("step", "tokens", "loss", "loss_kind")


def seconds(found: FileRead) -> list[float | None]:
    return found.table["seconds"].to_list()


def test_nanogpt_numbers_its_steps_from_zero():
    """`iter 0` is the loss of the first step: one batch is consumed after it."""
    found = read_as(karpathy.NANOGPT_TRAIN, samples.NANOGPT_TRAIN)
    batch = 491520
    assert found.table.select(COLUMNS).rows() == [
        (0, 0, 10.9878, "validation"),
        (1, batch, 10.9891, "instantaneous"),
        (2, 2 * batch, 10.3921, "instantaneous"),
        (10, 10 * batch, 9.4502, "validation"),
        (11, 11 * batch, 9.4398, "instantaneous"),
    ]
    # the time of that step alone is not the time since the one nine before
    assert seconds(found) == [None, pytest.approx(49.87306), pytest.approx(1.51011), None, None]
    assert found.runs[0].n_params is None  # 123.59M is no count


def test_build_nanogpt():
    found = read_as(karpathy.BUILD_NANOGPT, samples.BUILD_NANOGPT)
    assert found.table.select(*COLUMNS, "lr", "grad_norm").rows() == [
        (0, 0, 10.9511, "validation", None, None),
        (1, 524288, 10.954952, "instantaneous", 8.3916e-07, 15.3411),
        (2, 2 * 524288, 10.532101, "instantaneous", 1.6783e-06, 14.2001),
        (2, 2 * 524288, 9.5, "validation", None, None),
        (3, 3 * 524288, 9.512101, "instantaneous", 2.5175e-06, 9.1001),
    ]
    assert seconds(found) == [None, 0.5, 0.25, None, 0.9]


def test_build_nanogpt_file():
    found = read_as(karpathy.BUILD_NANOGPT, samples.BUILD_NANOGPT_FILE)
    assert found.table.select(COLUMNS).rows() == [
        (0, None, 10.9511, "validation"),
        (1, None, 10.954952, "instantaneous"),
        (2, None, 10.5, "instantaneous"),
        (250, None, 6.15, "validation"),
    ]


def test_llmc_numbers_its_steps_from_one():
    found = read_as(karpathy.LLMC, samples.LLMC)
    assert found.table.select(*COLUMNS, "lr", "grad_norm").rows() == [
        (0, 0, 11.006021, "validation", None, None),
        (1, 524288, 11.007906, "instantaneous", 2.86e-6, 16.3235),
        (2, 2 * 524288, 10.829729, "instantaneous", 5.71e-6, 15.0011),
        (2, 2 * 524288, 10.609921, "validation", None, None),
    ]
    assert seconds(found) == [None, pytest.approx(2.73472), pytest.approx(2.39152), None]
    (meta,) = found.runs
    assert (meta.n_params, meta.seq_length, meta.d_tokens) == (124475904, 1024, 4 * 524288)


@pytest.mark.parametrize(
    "line",
    [
        "step    1/60 | train loss 5.2812 | norm 9.5 | lr 1.00e-04 | (123.40 ms | 33216 tok/s)",
        "step    1/60 | train loss 5.2812 | norm 9.5 | lr 1.00e-04 | 123.40 ms | 33216 tok/s",
    ],
)
def test_llmc_in_python_and_older_ones(line):
    found = read_as(karpathy.LLMC, f"total desired batch size: 4096\n{line}\n")
    row = found.table.row(0, named=True)
    assert (row["step"], row["tokens"], row["loss"], row["seconds"]) == (
        *(1, 4096, 5.2812),
        pytest.approx(0.1234),
    )
    assert (row["lr"], row["grad_norm"]) == (1e-4, 9.5)


def test_a_launch_with_another_batch_counts_it_from_where_it_goes_on():
    again = samples.BUILD_NANOGPT.replace("524288", "1048576")
    again = again[: again.index("validation")]
    text = samples.BUILD_NANOGPT + again + "step     3 | loss: 9.0 | lr 1e-5 | norm: 1.0 |\n"
    found = read_as(karpathy.BUILD_NANOGPT, text)
    train = found.table.filter(loss_kind="instantaneous")
    assert train.select("step", "tokens", "batch_tokens").rows() == [
        (1, 524288, 524288),
        (2, 2 * 524288, 524288),
        (3, 3 * 524288, 524288),
        (4, 3 * 524288 + 1048576, 1048576),
    ]
