"""The run log: exact, append-only, readable after any crash."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import RunError
from megascale.formats.run_log import SCHEMA, RunLog, read_run


def record(step: int, **changes):
    values = {
        "step": step,
        "tokens": step * 1000,
        "samples": step * 10,
        "batch_tokens": 1000,
        "micro_batches": 2,
        "sequence_length": 100,
        "loss_sum": step * 1234.5,
        "loss_tokens": 990,
        "loss": step * 1234.5 / 990,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "grad_norm": 0.5,
        "seconds": 0.25,
    }
    return values | changes


def write(directory: Path, *records) -> RunLog:
    log = RunLog(directory, {"name": "test"})
    for one in records:
        log.metrics(one)
    return log


def test_round_trip_is_exact(tmp_path):
    awkward = record(1, loss_sum=0.1 + 0.2, loss_tokens=2**60 + 1, tokens=10**15 + 7)
    log = write(tmp_path, awkward)
    log.start(config_digest="abc")
    log.close()
    run = read_run(tmp_path)
    assert run.header["schema"] == SCHEMA
    assert run.header["name"] == "test"
    assert run.records == [awkward | {"attempt": 1}]
    assert [(event["kind"], event["config_digest"]) for event in run.events] == [("start", "abc")]
    assert run.malformed == []


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**63 - 1))
def test_every_finite_float_and_count_survives(tmp_path_factory, loss_sum, loss_tokens):
    directory = tmp_path_factory.mktemp("run")
    write(directory, record(1, loss_sum=loss_sum, loss_tokens=loss_tokens)).close()
    (read,) = read_run(directory).records
    assert math.copysign(1, read["loss_sum"]) == math.copysign(1, loss_sum)
    assert read["loss_sum"] == loss_sum
    assert read["loss_tokens"] == loss_tokens


def test_non_finite_numbers_stay_valid_json(tmp_path):
    log = write(tmp_path)
    log.event("skip", step=3, tokens=10, value=math.nan, limit=-math.inf)
    log.close()
    line = (tmp_path / "events.jsonl").read_text().splitlines()[1]
    parsed = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert math.isnan(float(parsed["value"]))
    assert float(parsed["limit"]) == -math.inf


@pytest.mark.parametrize("key", ["step", "tokens", "loss_tokens", "micro_batches"])
@pytest.mark.parametrize("value", [1.0, "1", True, None])
def test_counts_must_be_exact_integers(tmp_path, key, value):
    with pytest.raises(ValueError, match=key):
        write(tmp_path, record(1) | {key: value})


def test_missing_key_and_unknown_event_are_refused(tmp_path):
    log = write(tmp_path)
    incomplete = record(1)
    del incomplete["loss_sum"]
    with pytest.raises(ValueError, match="loss_sum"):
        log.metrics(incomplete)
    with pytest.raises(ValueError, match="checkpiont"):
        log.event("checkpiont", step=1, tokens=1)


def test_resume_truncates_nothing_and_drops_the_abandoned_future(tmp_path):
    write(tmp_path, record(10), record(20), record(30, loss=9.0)).close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    log = RunLog(tmp_path)
    log.resume(step=15, tokens=15_000)
    log.metrics(record(20, loss=2.0))
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(before)
    run = read_run(tmp_path)
    assert [one["step"] for one in run.records] == [10, 20]
    assert run.column("loss")[1] == 2.0
    assert run.superseded == 2


def test_last_record_of_a_step_wins_without_a_marker(tmp_path):
    write(tmp_path, record(1, lr=1.0), record(2), record(1, lr=2.0)).close()
    run = read_run(tmp_path)
    assert run.column("step") == [1, 2]
    assert run.column("lr")[0] == 2.0
    assert run.superseded == 1


def test_attempts_are_counted(tmp_path):
    log = write(tmp_path)
    assert log.attempt == 1
    log.start()
    log.close()
    log = RunLog(tmp_path)
    assert log.attempt == 2
    log.resume(step=0, tokens=0)
    log.metrics(record(1))
    log.close()
    assert read_run(tmp_path).records[0]["attempt"] == 2


def test_a_branch_is_an_attempt_too(tmp_path):
    log = write(tmp_path)
    log.event("branch", step=10, tokens=100)
    log.close()
    assert RunLog(tmp_path).attempt == 2


def test_starting_again_after_a_death_before_the_first_checkpoint(tmp_path):
    log = write(tmp_path)
    log.start()
    for step in (1, 2, 3):
        log.metrics(record(step))
    log.close()
    log = RunLog(tmp_path)
    log.start()
    log.metrics(record(1))
    log.close()
    assert read_run(tmp_path).column("step") == [1]


def test_torn_last_line_is_tolerated_and_reported_with_its_number(tmp_path):
    write(tmp_path, record(1), record(2)).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run = read_run(tmp_path)
    assert run.column("step") == [1]
    (torn,) = run.malformed
    assert (torn.number, torn.reason) == (3, "torn last line")
    # the next attempt ends the torn line and goes on below it
    log = RunLog(tmp_path)
    log.metrics(record(2))
    log.close()
    run = read_run(tmp_path)
    assert run.column("step") == [1, 2]
    assert [line.number for line in run.malformed] == [3]


@pytest.mark.parametrize("kept", [0, 1, 30])
def test_a_torn_first_line_costs_nothing_but_the_header(tmp_path, kept):
    """A kill in the very first write: the next attempt writes a header, and all records count."""
    write(tmp_path).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:kept])
    write(tmp_path, record(1), record(2)).close()
    run = read_run(tmp_path)
    assert run.column("step") == [1, 2]
    assert run.header["schema"] == "megascale.run/1"
    assert len(run.malformed) == (kept > 0)


def test_records_below_a_header_that_was_damaged_count(tmp_path):
    write(tmp_path, record(1), record(2)).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\0" * 40 + b"\n" + path.read_bytes().partition(b"\n")[2])
    assert read_run(tmp_path).column("step") == [1, 2]
    write(tmp_path, record(3)).close()
    assert read_run(tmp_path).column("step") == [1, 2, 3]
    assert path.read_bytes().count(b'"schema"') == 1
    write(tmp_path, record(4)).close()
    assert path.read_bytes().count(b'"schema"') == 1


def test_lines_wait_for_room_on_a_full_disk(tmp_path, monkeypatch):
    log = write(tmp_path, record(1))
    room, real = [10], os.write

    def write_some(descriptor, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write_some)
    log.metrics(record(2))
    log.metrics(record(3))
    assert log.waiting > 0
    assert read_run(tmp_path).column("step") == [1]
    room[0] = 10**9
    log.metrics(record(4))
    assert log.waiting == 0
    assert read_run(tmp_path).column("step") == [1, 2, 3, 4]
    room[0] = 0
    log.metrics(record(5))
    with pytest.raises(RunError, match="the disk or quota is full"):
        log.close()


@given(cut=st.integers(1, 400))
def test_any_truncation_keeps_all_whole_lines(tmp_path_factory, cut):
    directory = tmp_path_factory.mktemp("run")
    write(directory, *(record(step) for step in range(1, 6))).close()
    path = directory / "metrics.jsonl"
    data = path.read_bytes()[:-cut]
    path.write_bytes(data)
    whole = data.count(b"\n") - 1  # without the header
    # a line that lost nothing but its newline still counts
    whole += data.rpartition(b"\n")[2].endswith(b"}")
    assert read_run(directory).column("step") == list(range(1, whole + 1))


def test_foreign_lines_are_reported(tmp_path):
    write(tmp_path, record(1)).close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('[1]\n{"step": "two"}\nnot json\n')
    reasons = [str(line) for line in read_run(tmp_path).malformed]
    assert len(reasons) == 3
    assert all(f":{number}:" in reason for number, reason in zip((3, 4, 5), reasons))


def test_missing_log_and_other_schema_are_user_errors(tmp_path):
    with pytest.raises(RunError, match="no such file"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"schema":"megascale.run/9"}\n')
    with pytest.raises(RunError, match=r"megascale\.run/9.*Nearest legal: megascale\.run/1"):
        read_run(tmp_path)


def _write_until_full(directory: Path) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = RunLog(directory)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for step in range(1, 100):
        log.metrics(record(step))


def test_full_disk_is_one_message_and_keeps_whole_records(tmp_path):
    """A file size limit makes `write` fail in the kernel, as a full disk does."""
    child = os.fork()
    if child == 0:
        try:
            _write_until_full(tmp_path)
        except (RunError, OSError) as failure:
            (tmp_path / "message").write_text(f"{type(failure).__name__}: {failure}")
        os._exit(0)
    os.waitpid(child, 0)
    message = (tmp_path / "message").read_text()
    assert message.startswith("RunError: run log = ")
    steps = read_run(tmp_path).column("step")
    assert steps == list(range(1, len(steps) + 1))
    assert steps


def test_offline_modules_do_not_import_torch(tmp_path):
    pytest.importorskip("tensorboard")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import megascale.formats.run_log, megascale.verbs.run_console\n"
        "import megascale.train.telemetry.timing, megascale.train.telemetry.interval\n"
        "import megascale.train.telemetry.sinks, megascale.train.telemetry.reporter\n"
        "megascale.train.telemetry.sinks.TensorBoardSink(sys.argv[1]).close()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
