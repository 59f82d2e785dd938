"""Our own log: the vectorised reader gives what the plain one gives."""

from __future__ import annotations

import json
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import DataError
from megascale.formats.run_log import RunLog, read_run
from megascale.runs.readers import own
from tests.formats.test_run_log import record
from tests.runs.readers.helpers import kinds, read_as, recognised

HEADER = '{"schema":"megascale.run/1","name":"x","n_params":12,"total_tokens":9000}\n'


def lines(*records) -> str:
    return HEADER + "".join(json.dumps(one) + "\n" for one in records)


def test_rows_carry_exact_counts_and_line_numbers():
    found = read_as(own, lines(record(1), record(2, loss=0.1 + 0.2, tokens=10**15 + 7)))
    row = found.table.row(1, named=True)
    assert (row["step"], row["tokens"], row["samples"]) == (2, 10**15 + 7, 20)
    assert (row["batch_tokens"], row["batch_samples"], row["line"]) == (1000, 10, 3)
    assert row["loss"] == 0.1 + 0.2
    assert row["loss_kind"] == "interval_mean"
    meta = found.runs[0]
    assert (meta.n_params, meta.d_tokens, meta.seq_length) == (12, 9000, 100)
    assert recognised(lines(record(1))) == "megascale"


MESS = st.lists(
    st.one_of(
        st.integers(1, 12).map(lambda step: json.dumps(record(step, loss=step / 7))),
        st.integers(0, 12).map(
            lambda step: json.dumps({"resumed_at_step": step, "resumed_at_tokens": step * 1000})
        ),
        st.sampled_from(
            [
                *("", "{", "[1]", "null", "12", '{"loss": 1}', "\ufffd"),
                json.dumps(record(3) | {"step": "4"}),
                json.dumps(record(5, tokens=1.5)),
                json.dumps(record(2, loss=None)),
            ]
        ),
    ),
    max_size=40,
)


@given(MESS, st.booleans())
def test_agrees_with_the_plain_reader_on_any_log(tmp_path_factory, body, ended):
    path = tmp_path_factory.mktemp("own") / "metrics.jsonl"
    path.write_text(HEADER + "\n".join(body) + ("\n" if ended else ""), encoding="utf-8")
    plain = read_run(path)
    found = read_as(own, path.read_bytes())
    with mock.patch.object(own, "SMALL_BYTES", 0):  # the way of large logs
        large = read_as(own, path.read_bytes())
    assert large.table.equals(found.table)
    assert large.runs == found.runs
    assert (large.superseded, large.notes) == (found.superseded, found.notes)
    assert sorted(map(str, large.malformed)) == sorted(map(str, found.malformed))
    assert found.table["step"].to_list() == plain.column("step")
    assert found.table["tokens"].to_list() == plain.column("tokens")
    assert found.table["loss"].to_list() == plain.column("loss")
    assert found.superseded == plain.superseded
    reported = [line.line for line in found.malformed]
    reported += [note.line for note in found.notes if note.kind == "torn"]
    assert sorted(reported) == [line.number for line in plain.malformed]


def test_evaluations_become_validation_rows(tmp_path):
    log = RunLog(tmp_path, {"name": "x"})
    log.start()
    for step in range(1, 5):
        log.metrics(record(step))
    for step, loss in ((2, 3.5), (4, 3.0)):
        log.event("evaluation", step=step, tokens=step * 1000, source="held-out", loss=loss)
    log.resume(3, 3000)
    log.metrics(record(4))
    log.event("end", step=4, tokens=4000, exit_code=0)
    log.close()
    found = read_as(
        own,
        (tmp_path / "metrics.jsonl").read_bytes(),
        events_jsonl=(tmp_path / "events.jsonl").read_bytes(),
    )
    validation = found.table.filter(found.table["loss_kind"] == "validation")
    assert validation.select("step", "tokens", "samples", "batch_tokens", "loss").rows() == [
        (2, 2000, 20, 1000, 3.5)
    ]  # that of step 4 was of a future which the resume took back
    assert found.runs[0].extra["attempts"] == 2
    assert found.runs[0].extra["exit_code"] == 0
    assert "restart" in kinds(found)


def test_other_schema_is_a_user_error():
    with pytest.raises(DataError, match=r"megascale\.run/1"):
        read_as(own, '{"schema": "megascale.run/9"}\n')
