"""What is odd about logs, and the command line around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from megascale.errors import EXIT_DATA
from megascale.runs.check import NOTE, PROBLEM, Finding, check_runs
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import load_runs
from megascale.verbs.runs import app
from tests.runs.readers.test_consoles import NANOTRON
from tests.runs.readers.test_megatron import BLOCK, line


def findings(path: Path, **options) -> list[Finding]:
    return check_runs(load_runs(path, cache=False, **options))


def curve(losses, **columns) -> str:
    names = ["step", "tokens", "lr", "batch_tokens", "loss"]
    rows = []
    for index, loss in enumerate(losses):
        step = index + 1
        values = {"step": step, "tokens": step * 100, "lr": 0.1, "batch_tokens": 100}
        values |= {name: column[index] for name, column in columns.items()}
        rows.append(",".join(str((values | {"loss": loss})[name]) for name in names))
    return ",".join(names) + "\n" + "\n".join(rows) + "\n"


def clean(count: int = 200) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.01, count)
    return 2 + 3 * np.exp(-np.arange(count) / 50) + noise


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.csv"


def test_nothing_odd(path):
    path.write_text(curve(clean()))
    assert findings(path) == []


def test_spikes_are_found_where_they_are(path):
    losses = clean()
    losses[120:123] += [1.0, 2.0, 1.2]
    losses[160] += 0.7
    path.write_text(curve(losses))
    found = findings(path)
    assert [(one.kind, one.severity, one.line) for one in found] == [
        ("spike", NOTE, 123),
        ("spike", NOTE, 162),
    ]
    assert "3 rows long" in found[0].message


def test_batch_changes_and_tokens_that_go_back(path):
    tokens = [(index + 1) * 100 for index in range(200)]
    tokens[50] = 10
    batch = [100] * 100 + [200] * 100
    path.write_text(curve(clean(), tokens=tokens, batch_tokens=batch))
    found = findings(path)
    assert [(one.kind, one.severity, one.line) for one in found] == [
        ("non_monotone", PROBLEM, 52),
        ("batch_change", NOTE, 102),
    ]
    assert "from 100 to 200 tokens" in found[1].message


@pytest.mark.parametrize(("digits", "coarse"), [(1, True), (2, True), (3, False), (5, False)])
def test_coarse_losses_are_found_by_their_values(path, digits, coarse):
    path.write_text(curve(np.round(clean(), digits)))
    assert [one.kind for one in findings(path)] == ["coarse_precision"] * coarse


def test_missing_fields(path):
    path.write_text("step,loss\n1,2.123\n2,2.012\n")
    assert [(one.kind, one.severity) for one in findings(path)] == [("missing_tokens", PROBLEM)]
    path.write_text("tokens,loss\n1,2.123\n2,2.012\n")
    (note,) = findings(path)
    assert note.message == "the log does not say: step, batch_tokens, lr"


def test_malformed_lines_restarts_and_torn_ends_have_file_and_line(tmp_path):
    path = tmp_path / "job.out"
    broken = line(30)[:180] + "\n"
    path.write_text(BLOCK + line(10) + line(20) + broken + line(10) + line(20) + line(30)[:200])
    shown = [str(one) for one in findings(path)]
    assert shown[0].startswith(f"{path}:8: problem: an iteration line that does not end")
    assert any(text.startswith(f"{path}:9: note: the step goes back") for text in shown)
    assert any(text.startswith(f"{path}:11: note: the last line was cut off") for text in shown)
    path.write_text(BLOCK + line(10) + broken * 500)
    many = [one for one in findings(path) if one.kind == "malformed"]
    assert len(many) == 6
    assert "500 malformed lines in all" in many[-1].message


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments] + ["--no-cache"])


def test_the_users_word_fills_no_gaps_of_a_log(tmp_path):
    """A batch that is stated counts only where the log says nothing about it at all."""
    path = tmp_path / "job.out"
    path.write_text(line(10) + " validation loss at iteration 15 | lm loss value: 2.0E+00 |\n")
    loaded = load_runs(path, options=ReadOptions(batch_samples=3, seq_length=2), cache=False)
    columns = ("step", "samples", "tokens", "batch_samples")
    assert loaded.table.select(columns).rows() == [(10, 80, 160, 8), (15, None, None, None)]


def test_check_verb_and_its_exit_codes(path, tmp_path):
    path.write_text(curve(clean()))
    assert run("check", path).exit_code == 0
    batch = [100] * 100 + [200] * 100
    path.write_text(curve(clean(), batch_tokens=batch))
    done = run("check", path)
    assert done.exit_code == 0
    assert "1 runs, 200 rows: 0 problems, 1 notes" in done.output
    assert run("check", path, "--strict").exit_code == EXIT_DATA
    coarse = tmp_path / "nanotron.log"
    coarse.write_text(NANOTRON)
    done = run("check", coarse, "--json", "--batch-tokens", 1024)
    assert done.exit_code == EXIT_DATA
    assert {one["kind"] for one in json.loads(done.stdout)} >= {"coarse_precision"}


def test_ls_show_and_export_verbs(tmp_path):
    log = tmp_path / "job-7.out"
    log.write_text(BLOCK + line(10) + line(20, loss=2.25) + line(30, batch=16, samples=320))
    (row,) = json.loads(run("ls", tmp_path, "--json").stdout)
    assert (row["name"], row["format"], row["steps"]) == ("job-7", "megatron", 30)
    assert row["tokens"] == 320 * 4096
    assert [segment["batch_tokens"] for segment in row["segments"]] == [8 * 4096, 16 * 4096]
    assert row["segments"][0]["loss"] == pytest.approx(2.375)
    table = run("ls", tmp_path).output
    assert "32.77K > 65.54K" in table
    shown = json.loads(run("show", log, "--json").stdout)
    assert (shown["n_params"], shown["d_tokens"], shown["seq_length"]) == (1234, 4096000, 4096)
    assert len(shown["provenance"][0]["sha256"]) == 64
    assert "1,234" in run("show", log).output
    done = run("export", tmp_path, "-o", tmp_path / "t.csv")
    assert done.exit_code == 0
    assert (tmp_path / "t.csv").read_text().startswith("run,step,tokens,samples,batch_tokens,")
    refused = run("ls", tmp_path, "--columns", "loss")
    assert "must be OUR=THEIRS" in str(refused.exception)
