"""Megatron's text log in its dialects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.runs.readers import megatron
from megascale.runs.readers.base import ReadOptions
from tests.runs.readers.helpers import kinds, read_as, recognised

NOW = (
    " [2026-08-22 15:22:22.123456] iteration {step:8d}/  100000 | consumed samples: {samples:12d} "
    "| elapsed time per iteration (ms): 1234.5 | throughput per GPU (TFLOP/s/GPU): 456.7 | "
    "learning rate: 3.000000E-04 | global batch size: {batch:5d} | lm loss: {loss:.6E} | "
    "load_balancing_loss: 1.000000E+00 | loss scale: 1.0 | grad norm: 0.123 | "
    "number of skipped iterations:   0 | number of nan iterations:   0 |\n"
)
BLOCK = (
    "------------------------ arguments ------------------------\n"
    "  seq_length ...................................... 4096\n"
    "  train_samples ................................... 1000\n"
    "-------------------- end of arguments ---------------------\n"
    " > number of parameters on (tensor, pipeline) model parallel rank (0, 0): 1234\n"
)


def line(step: int, batch: int = 8, loss: float = 2.5, samples: int | None = None) -> str:
    return NOW.format(step=step, samples=samples or step * batch, batch=batch, loss=loss)


def test_current_form_with_arguments():
    text = BLOCK + line(10) + line(20, loss=2.25)
    found = read_as(megatron, text)
    row = found.table.row(1, named=True)
    assert (row["step"], row["samples"], row["tokens"]) == (20, 160, 160 * 4096)
    assert (row["batch_samples"], row["batch_tokens"]) == (8, 8 * 4096)
    assert (row["loss"], row["lr"], row["grad_norm"], row["line"]) == (2.25, 3e-4, 0.123, 7)
    assert row["loss_kind"] == "interval_mean"
    meta = found.runs[0]
    assert (meta.seq_length, meta.d_tokens, meta.n_params) == (4096, 4_096_000, 1234)
    assert recognised(text) == "megatron"
    assert not found.malformed_count


DIALECTS = {
    "v1.0": " iteration       10/    1000 | elapsed time per iteration (ms): 31.3 | "
    "learning rate: 1.500E-04 | lm loss: 1.210588E+01 | loss scale: 32768.0 |\n",
    "rank prefix": "[rank-31/32] 0:  iteration       10/    1000 | consumed samples:          40 | "
    "learning rate: 1.500E-04 | lm loss: 1.210588E+01 | grad norm: 1.0 |\n",
    "seconds and tokens": "0:  iteration       10/ 148693 | consumed samples:        40 | "
    "consumed tokens:     81920 | elapsed time per iteration (s): 3.70 | "
    "learning rate: 1.500E-04 | lm loss: 1.210588E+01 | samples per second: 34.6 | TFLOPs: 31 |\n",
    "lm-loss": " iteration 10/1000 | consumed samples: 40 | learning rate: 1.5E-4 | "
    "lm-loss: 1.210588E+01 |\n",
    "loss value, windows line end": " iteration 10/1000 | consumed samples: 40 | "
    "learning rate: 1.5E-4 | lm loss value: 1.210588E+01 | \r\n",
    "pairs": " iteration 10/1000 | consumed samples: 40 | elapsed time per iteration (ms): "
    "2701.3/2712.7 | learning rate: 1.5E-4 | lm loss: 1.210588E+01 |\n",
    "rate first": " samples/sec: 51.2 | iteration       10/  1000 | elapsed time per "
    "iteration (ms): 5.1 | learning rate: 1.500E-04 | lm_loss: 1.210588E+01 | "
    "number of skipped iterations: 0 |\n",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(dialect):
    text = DIALECTS[dialect]
    found = read_as(megatron, text * 2)
    row = found.table.row(0, named=True)
    assert (row["step"], row["lr"], row["loss"]) == (10, 1.5e-4, 12.10588)
    assert row["samples"] == (40 if "consumed samples" in text else None)
    assert row["tokens"] == (81920 if "consumed tokens" in text else None)
    assert found.table.height == 1  # the same step twice
    assert recognised(text) == "megatron"
    assert not found.malformed_count


def test_lines_of_several_layouts_in_one_log():
    text = line(1) + DIALECTS["seconds and tokens"] + line(20) + DIALECTS["rate first"]
    text += line(30).replace("lm loss: 2.500000E+00 | ", "")
    found = read_as(megatron, text)
    assert found.table["step"].to_list() == [1, 10, 30]
    assert found.table["loss"].to_list() == [2.5, 12.10588, None]
    assert "nonfinite_loss" in kinds(found)


def test_restart_keeps_the_last_occurrence_and_drops_the_abandoned_future():
    first = [line(step, loss=5) for step in (10, 20, 30, 35)]
    again = [line(step, loss=4) for step in (20, 30, 40)]
    found = read_as(megatron, "".join(first + again))
    assert found.table["step"].to_list() == [10, 20, 30, 40]
    assert found.table["loss"].to_list() == [5, 4, 4, 4]
    assert found.superseded == 3


def test_torn_and_interleaved_lines_are_reported_with_their_numbers():
    whole = line(30)
    text = line(10) + whole[:150] + "\n" + whole[:160] + line(40) + line(50) + line(60)[:200]
    found = read_as(megatron, text)
    assert found.table["step"].to_list() == [10, 50]
    assert [bad.line for bad in found.malformed] == [2, 3]
    assert [(note.kind, note.line) for note in found.notes if note.kind == "torn"] == [("torn", 5)]


def test_validation_lines_get_the_samples_that_follow_exactly():
    text = (
        " validation loss at iteration 5 | lm loss value: 4.0E+00 | lm loss PPL: 5.4E+01 | \n"
        + line(10)
        + "0: valid loss at iteration 15 | lm loss value: 3.5E+00 | lm loss PPL: 3.3E+01 | \n"
        + line(20)
        + line(30, batch=16, samples=240)
        + " validation loss at iteration 25 | lm loss value: 3.2E+00 | lm loss PPL: 2E+01 | \n"
    )
    found = read_as(megatron, text, ReadOptions(seq_length=4))
    rows = found.table.filter(found.table["loss_kind"] == "validation")
    assert rows.select("step", "samples", "tokens", "loss").rows() == [
        (5, 40, 160, 4.0),
        (15, 120, 480, 3.5),
        (25, None, None, 3.2),  # the batch changed between 20 and 30
    ]


def test_named_validation_sets_are_kept_apart():
    text = line(10) + "".join(
        f" validation{name} loss at iteration 10 | lm loss value: {loss}E+00 | \n"
        for name, loss in (("-web", 3), ("-code", 2))
    )
    found = read_as(megatron, text)
    assert set(found.table["loss_kind"]) == {"interval_mean", "validation:web", "validation:code"}


STEPS = st.lists(
    st.tuples(st.integers(1, 10**9), st.integers(1, 4096), st.floats(1e-3, 1e3)),
    min_size=1,
    max_size=30,
    unique_by=lambda item: item[0],
)


@given(STEPS)
def test_every_printed_number_comes_back(rows):
    rows = sorted(rows)
    text = "".join(line(step, batch, loss, samples=step * 3) for step, batch, loss in rows)
    table = read_as(megatron, text).table
    assert table["step"].to_list() == [step for step, _, _ in rows]
    assert table["samples"].to_list() == [step * 3 for step, _, _ in rows]
    assert table["batch_samples"].to_list() == [batch for _, batch, _ in rows]
    assert table["loss"].to_list() == [float(f"{loss:.6E}") for _, _, loss in rows]
