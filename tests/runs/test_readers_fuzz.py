"""Whatever the bytes, a reader gives rows and a report, or one message for the user."""

from __future__ import annotations

import gzip
import json
from unittest import mock

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megascale.errors import DataError
from megascale.runs.readers import detect, megatron
from megascale.runs.readers.base import SCHEMA, ReadOptions
from megascale.runs.table import load_runs
from tests.formats.test_run_log import record
from tests.runs.readers.helpers import read_as
from tests.runs.readers.samples import CONSOLES
from tests.runs.readers.test_consoles import NANOTRON, OLMO, TITAN
from tests.runs.readers.test_megatron import BLOCK, DIALECTS, line
from tests.runs.readers.test_own import HEADER
from tests.runs.readers.test_tabular import HISTORY, STATE, mllog
from tests.runs.readers.test_tensorboard import megatron_file

REAL: dict[str, bytes] = {
    "megascale": (HEADER + "".join(json.dumps(record(n)) + "\n" for n in (1, 2, 3))).encode(),
    "megatron": (BLOCK + line(10) + "".join(DIALECTS.values())).encode()
    + b" validation loss at iteration 10 | lm loss value: 4.0E+00 | \n",
    "tensorboard": megatron_file(),
    "torchtitan": TITAN.encode(),
    "nanotron": NANOTRON.encode(),
    "olmo": OLMO.encode(),
    "nanogpt": b"step:0/9 val_loss:10.8 train_time:0ms\ns:1 trl:10.95 lr:0.1 norm:12.3\n",
    "litgpt": b"Epoch 1 | iter 4 step 1 | loss train: 10.1, val: n/a |\niter 8: val loss 9.2, v\n",
    "nanochat": b"step 00010/01000 (1.00%) | loss: 5.1 | lrm: 1.00 | dt: 10.00ms |\n",
    "mlperf": mllog("eval_accuracy", 5.5, samples_count=12).encode() * 2,
    "hf": json.dumps(STATE).encode(),
    "megatron-golden": b'{"lm loss":{"step_interval":5,"values":{"1":12.9,"5":"nan"}}}',
    "wandb": json.dumps(HISTORY).encode(),
    "jsonl": b'{"global_step":1,"loss/out":2.5}\n{"global_step":2,"loss/out":2.4}\n',
    "csv": b"step,lr,loss\n1,0.1,5\n2,0.1,4\n",
    **{name: text.encode() for name, text in CONSOLES.items()},
}
SPICE = [
    *(b"\n", b"|", b":", b"\0", b"\xff", b'"', b"{", b"}", b"[" * 2000, b",", b"\r\n", b"\x80" * 9),
    *(b"nan", b"1e999", b"-1", b"9" * 30, b"9" * 5000, b"null", b"true", b"loss", b"step"),
    *(b" iteration 5/6 |", b"\x1b[31m", b"PAR1", b"\x1f\x8b", b"\xef\xbb\xbf"),
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """Bytes of one format with pieces cut out, put in, overwritten, or cut off."""
    name = draw(st.sampled_from(sorted(REAL)))
    data = REAL[name]
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["cut", "insert", "overwrite", "truncate", "mix"]))
        if kind == "cut":
            data = data[:at] + data[at + draw(st.integers(1, 60)) :]
        elif kind == "insert":
            data = data[:at] + draw(st.sampled_from(SPICE)) + data[at:]
        elif kind == "overwrite":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif kind == "mix":
            other = REAL[draw(st.sampled_from(sorted(REAL)))]
            data = data[:at] + other[: draw(st.integers(1, 200))] + data[at:]
        else:
            data = data[:at]
    return name, data


OPTIONS = st.sampled_from(
    [
        ReadOptions(),
        ReadOptions(seq_length=2**40, batch_samples=2**30),
        ReadOptions(columns=(("loss", "loss"), ("tokens", "step"))),
    ]
)


def check(reader, data: bytes, options: ReadOptions) -> None:
    reader.sniff(data, "log")
    try:
        found = read_as(reader, data, options)
    except DataError:
        return
    table = found.table
    assert dict(table.schema) == SCHEMA
    assert table["loss"].drop_nulls().is_finite().all()
    assert found.malformed_count >= len(found.malformed)


@settings(max_examples=400)
@given(mutated(), OPTIONS)
def test_mutated_logs(case, options):
    name, data = case
    check(detect.READERS[name], data, options)


@settings(max_examples=200)
@given(
    st.permutations(REAL["megatron"].split(b"\n")),
    st.integers(0, 60),
    st.sampled_from(["x | y |", "iteration 3/9", " iteration 5/9 | lm loss: 2.5 | lm loss: 3 |"]),
)
def test_megatron_line_by_line_and_by_layout(lines, cut, between):
    data = b"\n".join([*lines[:5], between.encode(), *lines[5:]])
    data = data[: len(data) - cut]
    small = read_as(megatron, data)
    with mock.patch.object(megatron, "SMALL_BYTES", 0):
        large = read_as(megatron, data)
    assert small.table.equals(large.table)
    assert {(line.line, line.reason) for line in small.malformed} == {
        (line.line, line.reason) for line in large.malformed
    }
    assert set(small.notes) == set(large.notes)


@settings(max_examples=60)
@given(st.one_of(st.binary(max_size=300), mutated().map(lambda case: case[1])), OPTIONS)
def test_any_bytes_through_every_reader(data, options):
    for reader in detect.READERS.values():
        check(reader, data, options)


@settings(max_examples=80)
@given(mutated(), st.sampled_from(["", ".gz", ".zst"]), st.integers(0, 400), st.booleans())
def test_files_that_are_cut_or_packed(tmp_path_factory, case, packing, cut, in_tree):
    _, data = case
    if packing == ".gz":
        data = gzip.compress(data)
    elif packing == ".zst":
        data = zstandard.compress(data)
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / f"run.log{packing}"
    path.write_bytes(data[: max(0, len(data) - cut)])
    message = ""
    try:
        loaded = load_runs(folder if in_tree else path, cache=False)
    except DataError as error:
        message = str(error)
    if message:
        assert str(folder) in message
        return
    assert dict(loaded.table.schema) == SCHEMA
    assert loaded.table["run"].null_count() == 0


@pytest.mark.parametrize("name", sorted(REAL))
def test_every_sample_is_read(name):
    assert read_as(detect.READERS[name], REAL[name]).table.height
