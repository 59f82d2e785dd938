"""Console and reporter: every number shown is in the log."""

from __future__ import annotations

import io
import re

import pytest

from megascale.formats.run_log import RunLog, read_run
from megascale.train.telemetry.interval import IntervalAccumulator
from megascale.train.telemetry.reporter import Reporter
from megascale.units import duration, short_count
from megascale.verbs.run_console import RunConsole, interval_line, summary_rows
from tests.train.telemetry.test_interval import result
from tests.train.telemetry.test_timing import GROWING


def some_records(count: int = 4):
    accumulator = IntervalAccumulator(peak_flops=1e10)
    for step in range(1, count + 1):
        accumulator.add(result(step, batch_tokens=100 if step < 3 else 200))
        yield accumulator.record()


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999"), (1000, "1K"), (12_345_678, "12.35M"), (15 * 10**11, "1.5T")]
)
def test_short_count(count, text):
    assert short_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (41.7, "42s"), (185, "3m05s"), (7620, "2h07m"), (273_600, "3d04h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_and_table(tmp_path):
    stream = io.StringIO()
    reporter = Reporter(
        RunLog(tmp_path), RunConsole(total_tokens=7050, stream=stream), schedule=GROWING
    )
    for record in some_records():
        reporter.interval(record)
    reporter.event("batch_change", step=2, tokens=200, message="batch 100 -> 200", batch_tokens=200)
    reporter.summary()
    reporter.close()
    text = stream.getvalue()
    lines = text.splitlines()
    assert re.match(r"step 1  100 tokens \(1\.4 %\)  loss 2\.2333  lr 1\.000e-02", lines[0])
    assert "MFU 20.0 %" in lines[0]
    assert "\x1b" not in text
    assert "batch 100 -> 200" in lines
    assert lines[-1].startswith("all")
    run = read_run(tmp_path)
    assert run.events[0]["message"] == "batch 100 -> 200"
    assert all(record["eta_seconds"] > 0 for record in run.records)
    assert [interval_line(record, 7050) for record in run.records] == lines[:4]


def test_rich_bar_shows_and_goes_away(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    console = RunConsole(total_tokens=7050, stream=stream)
    assert console.mode == "rich"
    console.start(0)
    for record in some_records():
        console.interval(record | {"eta_seconds": 61.0})
    console.table("summary", ("tokens", "steps"), [["0 - 400", "4"]])
    text = stream.getvalue()
    assert "loss 2.2333" in text
    assert "summary" in text
    assert "400/7.05K" in text


def test_off_prints_nothing():
    stream = io.StringIO()
    console = RunConsole(total_tokens=10, mode="off", stream=stream)
    console.start(0)
    console.line("something")
    console.interval(next(iter(some_records())))
    console.table("t", ("a",), [["b"]])
    assert stream.getvalue() == ""


def test_summary_groups_by_batch_size_and_averages_by_tokens():
    rows = summary_rows(list(some_records()))
    assert [row[0] for row in rows] == ["0 - 200", "200 - 400", "all"]
    assert [row[2] for row in rows] == ["100", "200", ""]
    assert rows[0][3] == f"{(201 + 202) / 180:.4f}"
    assert rows[-1][1] == "4"
    assert summary_rows([]) == []


def test_a_summary_of_many_stretches_is_folded(tmp_path):
    first = next(iter(some_records()))
    records = [first | {"batch_tokens": 100 + step % 2, "step": step} for step in range(1000)]
    stream = io.StringIO()
    RunConsole(total_tokens=10, mode="plain", stream=stream).summary(records)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 + 8 + 1 + 3  # title and columns, head, what is left out, tail
    assert lines[10].startswith("… 990 more")
    assert lines[-1].startswith("all")
