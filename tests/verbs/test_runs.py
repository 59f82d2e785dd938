"""`megascale runs`: runs of many batch sizes are folded on the screen and whole in JSON."""

from __future__ import annotations

import json

import pytest

from tests.verbs.scene import call

CHANGES = 1000


@pytest.fixture
def path(tmp_path):
    """A log whose batch changes at every row."""
    rows, tokens = ["step,tokens,batch_tokens,loss"], 0
    for step in range(1, CHANGES + 1):
        batch = 100 + step % 7
        tokens += batch
        rows.append(f"{step},{tokens},{batch},{4 - step / CHANGES!r}")
    path = tmp_path / "grown.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_show_folds_its_segments(path, capsys):
    assert call(["runs", "show", str(path), "--no-cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    assert any(line.startswith("… 989 more") for line in lines)
    assert call(["runs", "show", str(path), "--no-cache", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["segments"]) == CHANGES


def test_ls_keeps_a_run_to_a_line(path, capsys):
    assert call(["runs", "ls", str(path), "--no-cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert len(lines[1]) < 300
    assert "> … 989 more … >" in lines[1]


def test_check_counts_the_changes_it_does_not_list(path, capsys):
    call(["runs", "check", str(path), "--no-cache"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 15
    assert any("999 batch changes in all, to between 100 and 106 tokens" in line for line in lines)
