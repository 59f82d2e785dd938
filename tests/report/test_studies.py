"""The section of studies: a sweep's own tables, found beside its runs."""

from __future__ import annotations

import json

import pytest

from megascale.report.inputs import read_inputs
from megascale.report.studies import find_studies
from tests.report.samples import documented, write_log, write_study


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "lr-smoke"
    write_study(folder)
    write_log(folder / "lr-0.1")
    return folder


@pytest.mark.parametrize("place", [".", "lr-smoke", "lr-*", "lr-smoke/sweep/results.json"])
def test_a_study_is_found_in_trees_globs_and_by_name(folder, place):
    results = folder / "sweep" / "results.json"
    assert find_studies([folder.parent / place]) == [results]


def test_its_tables_are_kept_as_printed_and_its_folder_holds_no_logs(folder):
    (folder / "sweep" / "logs").mkdir()
    (folder / "sweep" / "logs" / "lr-0.1.log").write_text("what the run printed\n")
    inputs = read_inputs([folder], cache=False)
    assert inputs.runs is not None
    assert [run.run for run in inputs.runs.runs] == ["lr-0.1"]
    assert inputs.notes == []
    (study,) = documented([folder])["studies"]
    assert study["question"] == "Where is the best rate?"
    compared, best = study["answers"]
    assert compared["rows"] == [["lr-0.1", "3.1000"], ["lr-0.2", "3.0000"]]
    assert compared["curves"] == []
    assert best["curves"][0]["losses"] == [3.1, 3.0]


def test_results_alone_make_a_report(folder):
    document = documented([folder / "sweep" / "results.json"])
    assert "empty" in document["curves"]
    assert document["studies"][0]["study"] == "lr"


def test_results_that_are_none_are_named(folder):
    path = folder / "sweep" / "results.json"
    path.write_text(json.dumps({"schema": "megascale.sweep/9"}))
    inputs = read_inputs([folder], cache=False)
    assert inputs.studies == []
    assert "megascale.sweep/9" in inputs.notes[0]
