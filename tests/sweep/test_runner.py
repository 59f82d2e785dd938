"""Sweeps of real runs in their own processes: killed, interrupted, failing, continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megascale.errors import RunError
from megascale.formats.run_log import read_run
from megascale.machine import usable_cores
from megascale.sweep.progress import LoggedProgress, check_same_run, read_progress
from megascale.sweep.runner import share_cores, thread_limits
from megascale.train.rundir import saved_form
from tests.sweep.small_study import write_study
from tests.sweep.test_study import runs_of

TIMEOUT = 240


def start(study: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "megascale", "sweep", str(study), "-o", out(study)]
    return subprocess.Popen(
        [*command, "--jobs", "2", *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def out(study: Path) -> str:
    return str(study.parent / "out")


def sweep(study: Path, *words: str) -> tuple[int, str, str]:
    process = start(study, *words)
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    return process.returncode, stdout, stderr


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not what():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def events(study: Path, run: str) -> list[str]:
    return [event["kind"] for event in read_run(Path(out(study)) / run).events]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_does_nothing_twice(tmp_path):
    long = {"train.total_tokens": 393_216, "checkpoint.interval_steps": 200}
    study = write_study(
        tmp_path,
        arms={
            "short": {},
            "long": {"settings": long},
            "decay": {"branch_from": "long", "settings": {"lr.decay_tokens": 1024}},
        },
    )
    folder = Path(out(study))
    process = start(study)
    wait_for(lambda: read_progress(folder / "long").tokens > 60_000, process)
    wait_for(lambda: "end" in events(study, "short"), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.communicate()
    assert "end" not in events(study, "long") or read_progress(folder / "long").tokens < 393_216

    code, stdout, stderr = sweep(study, "--json")
    assert code == 0, stderr
    assert events(study, "short").count("start") == 1
    assert "resume" not in events(study, "short")
    assert events(study, "long").count("start") == 1
    assert events(study, "long").count("resume") == 1
    assert events(study, "decay").count("branch") == 1
    result = json.loads(stdout)
    assert {run["run"]: run["state"] for run in result["runs"]} == dict.fromkeys(
        ("short", "long", "decay"), "done"
    )
    assert {run["run"]: run["attempts"] for run in result["runs"]}["short"] == 0
    assert [group["group"] for group in result["answers"][0]["data"]] == ["short", "long", "decay"]
    assert read_run(folder / "decay").records[-1]["tokens"] == 393_216 + 1024

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.jsonl")}
    code, stdout, stderr = sweep(study)
    assert code == 0
    assert "Runs compared" in stdout
    assert stderr.count("found finished") == 3
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/*.jsonl")}


@pytest.mark.slow
def test_a_signal_lets_runs_save_and_the_sweep_leave_with_75(tmp_path):
    study = write_study(
        tmp_path,
        base={"train": {"total_tokens": 1_310_720}, "checkpoint": {"interval_steps": None}},
        axes={"seed": {"seeds": 2}},
        arms={"only": {}},
    )
    folder = Path(out(study))
    process = start(study)
    names = ["only_seed-1", "only_seed-2"]
    wait_for(lambda: all(read_progress(folder / name).tokens > 5000 for name in names), process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, stderr
    assert stderr.count("interrupted (exit code 75)") == 2
    assert "go on" in stderr
    for name in names:
        assert "signal" in events(study, name)
        saved = list((folder / name / "checkpoints").glob("step-*"))
        assert len(saved) == 1


@pytest.mark.slow
def test_a_run_that_fails_is_started_once_more_and_shown_and_the_rest_goes_on(tmp_path):
    study = write_study(
        tmp_path,
        arms={
            "bad": {"settings": {"lr.peak": 1e30, "guard.nonfinite_budget": 0}},
            "good": {},
            "child": {"branch_from": "bad", "settings": {"lr.decay_tokens": 256}},
        },
    )
    code, stdout, stderr = sweep(study)
    assert code == 6
    assert "bad: waiting (exit code 6; once more)" in stderr
    assert "bad failed (exit code 6)" in stderr
    assert "non-finite" in stderr.split("bad failed")[1]  # the last lines of its log
    assert "child: skipped (needs bad)" in stderr
    assert "good: done" in stderr
    table = stdout.split("Runs compared")[1]
    assert "good" in table
    assert "bad" not in table
    result = json.loads((Path(out(study)) / "sweep" / "results.json").read_text())
    assert result["answers"][0]["columns"][0] == "run"
    assert [row[0] for row in result["answers"][0]["rows"]] == ["good"]
    assert {run["run"]: run["attempts"] for run in result["runs"]} == {
        "bad": 2,
        "good": 1,
        "child": 0,
    }


@pytest.mark.slow
def test_a_study_of_the_project_passes_at_smoke_scale(tmp_path):
    study = Path("configs/studies/sequence_length.yaml")
    command = [sys.executable, "-m", "megascale", "sweep", str(study), "--json"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out")],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    groups = {group["group"]: group for group in result["answers"][0]["data"]}
    assert set(groups) == {"fixed", "micro-batches", "sequence-length"}
    assert groups["micro-batches"]["steps"] == groups["sequence-length"]["steps"]
    assert groups["sequence-length"]["baseline"] == "micro-batches"
    assert all(5 < group["loss"]["mean"] < 8 for group in groups.values())
    read = {name: read_run(tmp_path / "out" / name).records for name in groups}
    assert {record["sequence_length"] for record in read["sequence-length"]} == {64, 128}
    assert len(set(hashes_in(tmp_path / "out", groups).values())) == 1  # the same tokens for all


def hashes_in(folder: Path, names) -> dict[str, str]:
    return {name: read_run(folder / name).events[-1]["token_hash"] for name in names}


def test_a_directory_with_another_run_is_refused(tmp_path):
    study = write_study(tmp_path)
    config = runs_of(study)[0].config
    folder = Path(config.output_dir) / config.name
    folder.mkdir(parents=True)
    check_same_run(config)  # nothing in it yet
    saved = saved_form(config.model_copy(update={"output_dir": "elsewhere"}))
    (folder / "config.json").write_text(json.dumps(saved))
    check_same_run(config)
    saved["lr"]["peak"] = 0.5
    (folder / "config.json").write_text(json.dumps(saved))
    with pytest.raises(RunError, match=r"lr\.peak: 0\.5 -> 0\.01"):
        check_same_run(config)


def test_progress_is_read_from_the_end_of_a_log_even_of_a_torn_one(tmp_path):
    assert read_progress(tmp_path) == LoggedProgress()
    lines = [json.dumps({"schema": "megascale.run/1"})]
    lines += [json.dumps({"tokens": n, "loss": "nan", "filler": "x" * 200}) for n in range(500)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"tokens": 500, "lo')
    found = read_progress(tmp_path)
    assert found.tokens == 499
    assert found.loss != found.loss


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_jobs_share_the_cores(jobs):
    cores = usable_cores()
    shares = share_cores(jobs)
    assert len(shares) == jobs
    assert all(shares)
    assert {core for share in shares for core in share} <= set(cores)
    if jobs <= len(cores):  # no core twice
        assert sum(len(share) for share in shares) == len({c for s in shares for c in s})


def test_threads_of_a_run_are_those_the_user_states():
    """A run that takes more threads than it was given waits for them, ten times slower."""
    assert thread_limits({}, 2) == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert thread_limits({}, 0)["OMP_NUM_THREADS"] == "1"
    assert set(thread_limits({"OMP_NUM_THREADS": "1"}, 2).values()) == {"1"}
    stated = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "1"}
    assert thread_limits(stated, 2) == stated
