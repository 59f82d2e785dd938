"""Stray files and copies among logs that a shell expanded from a pattern."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from megascale.errors import DataError
from megascale.runs.check import equal_curves
from megascale.runs.files import natural
from megascale.runs.table import load_runs
from tests.verbs.scene import call

LOG = "step,tokens,batch_tokens,loss\n1,10,10,3.0\n2,20,10,2.0\n"


def test_a_copy_is_no_further_run(tmp_path: Path, capsys) -> None:
    (tmp_path / "seed-1.csv").write_text(LOG)
    shutil.copy(tmp_path / "seed-1.csv", tmp_path / "seed-2.csv")
    (tmp_path / "seed-3.csv").write_text(LOG.replace("2.0", "2.5"))
    loaded = load_runs(tmp_path, cache=False)
    assert [run.run for run in loaded.runs] == ["seed-1", "seed-3"]
    assert loaded.table.height == 4
    assert call(["runs", "ls", str(tmp_path), "--no-cache"]) == 0
    said = capsys.readouterr().err
    assert f"passed over {tmp_path}/seed-2.csv: it is a copy of {tmp_path}/seed-1.csv" in said


def test_a_stray_file_does_not_stop_the_rest(tmp_path: Path, capsys) -> None:
    (tmp_path / "run.csv").write_text(LOG)
    stray = tmp_path / "README.txt"
    stray.write_text("what these runs are for\n")
    assert call(["runs", "ls", str(stray), str(tmp_path / "run.csv"), "--no-cache"]) == 0
    out, said = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "passed over a file in no known log format (README.txt)" in said
    with pytest.raises(DataError, match="in no format that is recognised"):
        load_runs(stray, cache=False)


@pytest.mark.parametrize(
    "names",
    [
        ["b-128", "b-512", "b-1Ki", "b-2Ki", "b-1Mi"],
        ["lr-0.0005", "lr-0.002", "lr-0.01"],
        ["d-900K", "d-1.5M", "d-2M", "d-1B"],
        ["checkpoint-500", "checkpoint-1000"],
        ["run-2h", "run-12h"],
        ["2026-09-30", "2026-10-01"],
    ],
)
def test_names_are_in_natural_order(names: list[str]) -> None:
    shuffled = names[::-1]
    assert sorted(shuffled, key=natural) == names


def test_of_a_copy_beside_its_original_the_original_is_kept(tmp_path: Path) -> None:
    for name in ("256", "256-copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text(LOG)
    loaded = load_runs(tmp_path, cache=False)
    assert [file.path.parent.name for file in loaded.files] == ["256"]


def test_equal_losses_in_other_bytes_are_warned_of(tmp_path: Path, capsys) -> None:
    rows = "".join(f"{n},{10 * n},10,{4 - 0.1 * n:.3f}\n" for n in range(1, 13))
    head = "step,tokens,batch_tokens,loss\n"
    (tmp_path / "seed-1.csv").write_text(head + rows)
    (tmp_path / "seed-2.csv").write_text(head + rows + "\n")
    (tmp_path / "seed-3.csv").write_text(head + rows.replace("2.800", "2.801"))
    assert equal_curves(load_runs(tmp_path, cache=False)) == [("seed-2", "seed-1")]
    assert call(["runs", "check", str(tmp_path), "--no-cache"]) == 3
    out, said = capsys.readouterr()
    assert "problem: has the losses of seed-1, all of them" in out
    assert "warning: seed-2 has the losses of seed-1" in said


def test_a_stray_file_does_not_stop_a_comparison(tmp_path: Path, capsys) -> None:
    for name, shift in (("a", 0.0), ("b", 0.2), ("c", 0.3)):
        rows = "".join(f"{n},{10 * n},10,{4 + shift - 0.1 * n:.3f}\n" for n in range(1, 25))
        (tmp_path / f"{name}.csv").write_text("step,tokens,batch_tokens,loss\n" + rows)
    stray = tmp_path / "README.txt"
    stray.write_text("what these runs are for\n")
    logs = [str(tmp_path / f"{name}.csv") for name in "abc"]
    assert call(["compare", *logs, str(stray), "--no-cache"]) == 0
    assert f"passed over {stray}" in capsys.readouterr().err
