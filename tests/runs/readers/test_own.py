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


def long_log(size: int) -> list[str]:
    """Lines of a log of about so many bytes, without their ends."""
    width = len(json.dumps(record(10_000))) + 1
    return [HEADER.strip(), *(json.dumps(record(n)) for n in range(1, size // width + 1))]


TORN = {
    "cut": lambda line: line[: len(line) // 2],
    "cut in a number": lambda line: line[: line.index('"tokens": ') + 11],
    "empty object": lambda line: "{}",
    "run into the next": lambda line: line[: len(line) // 3] + line,
    "longer than a piece": lambda line: line[:-1] + ', "x": "' + "y" * (2 * own._PIECE_BYTES),
    "a record longer than a piece": lambda line: (
        line[:-1] + ', "x": "' + "y" * (2 * own._PIECE_BYTES) + '"}'
    ),
}


@pytest.mark.parametrize(
    ("size", "kind"),
    [(size, kind) for size in (300_000, 2_000_000) for kind in TORN] + [(20_000_000, "cut")],
)
def test_torn_lines_anywhere_in_a_long_log(tmp_path, size, kind):
    """A killed process leaves a torn line wherever it was: at the head, between, at the end."""
    rows = long_log(size)
    places = [1, len(rows) // 7, len(rows) // 2, len(rows) // 2 + 1, len(rows) - 2]
    for at in places:
        rows[at] = TORN[kind](rows[at])
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(rows) + "\n")
    found = read_as(own, path.read_bytes())
    whole = kind == "a record longer than a piece"
    torn = [] if whole else [at + 1 for at in places]
    assert [line.line for line in found.malformed] == torn
    expected = [n for n in range(1, len(rows)) if whole or n not in places]
    assert found.table["step"].to_list() == expected
    assert found.table["tokens"].to_list() == [n * 1000 for n in expected]


def test_a_long_log_that_ends_torn(tmp_path):
    rows = long_log(400_000)
    text = "\n".join(rows) + '\n{"step": 1'
    found = read_as(own, text)
    assert [(note.kind, note.line) for note in found.notes] == [("torn", len(rows) + 1)]
    assert found.table.height == len(rows) - 1


def test_the_plan_is_that_of_the_last_attempt(tmp_path):
    log = RunLog(tmp_path, {"name": "x", "total_tokens": 5000})
    log.start(total_tokens=5000)
    log.metrics(record(1))
    log.resume(1, 1000, total_tokens=8000)
    log.metrics(record(2))
    log.close()
    events = (tmp_path / "events.jsonl").read_bytes()
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    assert read_as(own, metrics, events_jsonl=events).runs[0].d_tokens == 8000
    assert read_as(own, metrics).runs[0].d_tokens == 5000
