"""`fit` and `report` take every table for the same thing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import megascale.report.inputs
import megascale.verbs.fit_grid
import megascale.verbs.fit_points
import megascale.verbs.reading
from megascale.runs.inputs import GRID, LOGS, POINTS, TABLE
from tests.report.samples import write_grid, write_runs, write_study
from tests.runs.test_inputs import TABLES, write
from tests.verbs.scene import call

PAGE = {"report": ("-o", os.devnull)}
OTHER = "a table of another kind: "


class Taken(Exception):
    """A verb has decided what a path holds."""


def taken_by(verb: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the verb takes a path for, seen in the function that it hands the path to."""

    def take(kind: str) -> Any:
        def stop(*args: Any, **options: Any) -> Any:
            raise Taken(kind)

        return stop

    with monkeypatch.context() as patch:
        patch.setattr(megascale.verbs.fit_grid, "fit_grid_table", take(GRID))
        patch.setattr(megascale.verbs.fit_points, "fit_points", take(POINTS))
        patch.setattr(megascale.verbs.reading, "load_logs", take(LOGS))
        patch.setattr(megascale.report.inputs, "grid_table", take(GRID))
        patch.setattr(megascale.report.inputs, "point_rows", take(POINTS))
        patch.setattr(megascale.report.inputs, "load_runs", take(LOGS))
        try:
            call(
                [
                    verb,
                    str(path),
                    *(["-o", str(path.parent / "r.html")] if verb == "report" else []),
                ]
            )
        except Taken as taken:
            return str(taken)
    return TABLE


@pytest.mark.parametrize(("name", "rows", "holds"), TABLES, ids=[name for name, *_ in TABLES])
def test_fit_and_report_agree(name, rows, holds, tmp_path, monkeypatch, capsys) -> None:
    path = write(rows, tmp_path / "table.csv")
    said = {}
    for verb in ("fit", "report"):
        assert taken_by(verb, path, monkeypatch) == holds
        said[verb] = capsys.readouterr().err
    if holds == TABLE:
        reasons = {text.partition(OTHER)[2] for text in said.values()}
        assert len(reasons) == 1
        assert "it lacks" in reasons.pop()


@pytest.mark.parametrize("make", [write_runs, write_grid, write_study])
def test_samples_too(make, tmp_path, monkeypatch) -> None:
    path = make(tmp_path)
    if make is write_study:
        path = tmp_path
    kinds = {taken_by(verb, path, monkeypatch) for verb in ("fit", "report")}
    assert kinds == {GRID if make is write_grid else LOGS}


def test_public_tables(shared_data: Path, monkeypatch, tmp_path) -> None:
    known = {"steplaw/dense_lr_bs_loss.csv": GRID, "steplaw/steplaw_ES_points.csv": POINTS}
    seen = {}
    for path in sorted(shared_data.rglob("*.csv")):
        if path.stat().st_size > 20e6:
            continue
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        kinds = {taken_by(verb, copy, monkeypatch) for verb in ("fit", "report")}
        assert len(kinds) == 1, path
        seen[str(path.relative_to(shared_data))] = kinds.pop()
    assert {name: seen[name] for name in known} == known


def test_a_table_of_points_is_fitted_and_drawn_by_any_names(tmp_path, capsys) -> None:
    batch = [2.0**k for k in range(12, 20)]
    rows = {
        "target_loss": [3.0] * 8,
        "batch_size": [int(b / 1024) for b in batch],
        "steps_to_loss": [1e9 / b + 1000 for b in batch],
    }
    path = tmp_path / "points.csv"
    pl.DataFrame(rows).write_csv(path)
    assert call(["fit", str(path), "--law", "classic"]) == 7
    assert "counts sequences: --seq-length" in capsys.readouterr().err
    assert call(["fit", str(path), "--law", "classic", "--seq-length", "1024"]) == 0
    out = capsys.readouterr().out
    assert "1e+09" in out  # E_min
    page = tmp_path / "r.html"
    assert call(["report", str(path), "--seq-length", "1024", "-o", str(page)]) == 0
    assert page.is_file()


def test_one_table_alone_and_no_law_file(tmp_path, capsys) -> None:
    grid = str(write_grid(tmp_path))
    runs = str(write_runs(tmp_path))
    assert call(["fit", grid, runs]) == 7
    assert "a table is fitted alone" in capsys.readouterr().err
    law = tmp_path / "law.json"
    law.write_text('{"schema": "megascale.law/1"}')
    assert call(["fit", str(law)]) == 7
    assert "is a law file, fitted already" in capsys.readouterr().err
    assert call(["compare", runs, grid]) == 3
    assert (
        "holds a table of final losses (its columns N, D, loss, lr, batch_tokens are"
        in capsys.readouterr().err
    )
