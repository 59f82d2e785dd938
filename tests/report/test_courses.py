"""What goes along the runs: binned as their logs say it, the noise scale from our own logs."""

from __future__ import annotations

import json

import pytest

from megascale.formats.run_log import METRICS_FILE
from megascale.report import courses
from megascale.report.courses import run_courses
from megascale.runs.table import load_runs
from tests.report.samples import write_log


def test_a_course_has_what_the_log_says(tmp_path):
    (course,) = run_courses(load_runs(write_log(tmp_path / "a"), cache=False))
    assert course["tokens"] == [1000 * n for n in range(1, 21)]
    assert course["lr"] == [0.1] * 20
    assert course["batch"] == [1000.0] * 20
    assert course["grad_norm"] == [1.0] * 20
    assert course["throughput"] == [2000.0] * 20
    assert course["seconds"][-1] == 10.0
    assert course["noise_scale"] is None


def test_many_records_are_binned_to_their_last_and_their_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(courses, "POINTS_A_RUN", (2, 4))
    folder = write_log(tmp_path / "a")
    path = folder / METRICS_FILE
    lines = path.read_text().splitlines()
    changed = [json.loads(line) for line in lines[1:]]
    for n, record in enumerate(changed):
        record["grad_norm"], record["lr"] = float(n), 0.01 * n
    path.write_text("\n".join([lines[0], *map(json.dumps, changed)]) + "\n")
    (course,) = run_courses(load_runs(folder, cache=False))
    assert course["tokens"] == [5000, 10000, 15000, 20000]
    assert course["grad_norm"] == [2.0, 7.0, 12.0, 17.0]
    assert course["lr"] == pytest.approx([0.04, 0.09, 0.14, 0.19])
    assert course["seconds"] == [2.5, 5.0, 7.5, 10.0]


def test_the_noise_scale_has_its_interval(tmp_path):
    folder = write_log(tmp_path / "a")
    path = folder / METRICS_FILE
    lines = path.read_text().splitlines()
    for n in (5, 9):
        record = json.loads(lines[n])
        record |= {"noise_scale": 100.0 * n, "noise_scale_low": 50.0, "noise_scale_high": None}
        lines[n] = json.dumps(record, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")
    (course,) = run_courses(load_runs(folder, cache=False))
    assert course["noise_scale"] == {
        "tokens": [5000, 9000], "value": [500.0, 900.0], "low": [50.0, 50.0], "high": [None, None],
    }  # fmt: skip
