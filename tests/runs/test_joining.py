"""Files that make one run, and files that only lie side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megascale.errors import DataError
from megascale.laws.from_logs import fit_logs
from megascale.laws.law_files import Naming
from megascale.runs.check import check_runs, refuse_mixed
from megascale.runs.overview import overviews
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import RunTable, load_runs
from tests.runs.readers.test_megatron import line
from tests.runs.readers.test_separation import BELOW, arguments, begun, iteration, titan
from tests.runs.readers.test_tensorboard import event, megatron_file


def problems(loaded: RunTable) -> list[str]:
    return [one.kind for one in check_runs(loaded) if one.severity == "problem"]


def state(path: Path, losses: dict[int, float], **more: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    history = [{"step": step, "loss": loss} for step, loss in losses.items()]
    path.write_text(json.dumps({"log_history": history, **more}))


def test_states_of_two_runs_in_a_folder_are_two_runs(tmp_path):
    state(tmp_path / "small_trainer_state.json", {10: 5.0, 20: 4.0, 30: 3.5})
    state(tmp_path / "large_trainer_state.json", {10: 4.5, 20: 3.5})
    loaded = load_runs(tmp_path, cache=False)
    assert {run.run: loaded.rows(run.run)["loss"].to_list() for run in loaded.runs} == {
        "small_trainer_state": [5.0, 4.0, 3.5],
        "large_trainer_state": [4.5, 3.5],
    }


def test_states_that_go_on_from_each_other_are_one_run(tmp_path):
    state(tmp_path / "checkpoint-10" / "trainer_state.json", {10: 5.0})
    state(tmp_path / "checkpoint-20" / "trainer_state.json", {10: 5.0, 20: 4.0})
    state(tmp_path / "trainer_state.json", {30: 3.0})  # resumed without its history
    loaded = load_runs(tmp_path, cache=False)
    assert len(loaded.runs) == 1
    assert loaded.table["step"].to_list() == [10, 20, 30]


def test_joined_launches_count_each_its_own_batch(tmp_path):
    (tmp_path / "job-1.log").write_text(begun(4) + titan(10, 5) + titan(20, 4) + titan(25, 9))
    (tmp_path / "job-2.log").write_text(begun(8, checkpoint=20) + titan(30, 3) + titan(40, 2))
    apart = load_runs(tmp_path, cache=False)
    assert len(apart.runs) == 2
    joined = load_runs(tmp_path, join=True, cache=False)
    rows = [(10, 400, 40), (20, 800, 40), (30, 1600, 80), (40, 2400, 80)]
    columns = ("step", "tokens", "batch_tokens")
    assert joined.table.select(columns).rows() == rows  # 25 lies beyond the checkpoint
    assert joined.files[1].superseded == 1
    assert problems(joined) == []


def test_joined_launches_count_each_its_own_length(tmp_path):
    first = arguments(10, 4) + iteration(5, 90, 4) + iteration(10, 90, 4)
    (tmp_path / "job-1.log").write_text(first)
    (tmp_path / "job-2.log").write_text(arguments(30, 4) + iteration(15, 90, 4))
    joined = load_runs(tmp_path, join=True, cache=False)
    assert joined.table.select("step", "tokens").rows() == [(5, 200), (10, 400), (15, 1000)]


@pytest.mark.parametrize("total", [20, 60])
def test_joined_files_of_two_runs_are_a_problem(tmp_path, total):
    """The second begins anew: after the end of the first, or with another plan."""
    (tmp_path / "job-1.log").write_text(iteration(10, 20, 4) + iteration(20, 20, 4))
    again = [iteration(step, total, 4) for step in (10, 20, 30) if step <= total]
    (tmp_path / "job-2.log").write_text("".join(again))
    joined = load_runs(tmp_path, join=True, cache=False)
    assert "mixed_runs" in problems(joined)
    with pytest.raises(DataError, match=r"job-2\.log begins another run"):
        refuse_mixed(joined)
    refuse_mixed(load_runs(tmp_path, cache=False))


def test_event_files_of_two_runs_in_a_folder_are_a_problem(tmp_path):
    (tmp_path / "events.out.tfevents.1.a").write_bytes(megatron_file((10, 20, 30)))
    (tmp_path / "events.out.tfevents.2.a").write_bytes(megatron_file((10, 20, 30), start=9.0))
    assert "mixed_runs" in problems(load_runs(tmp_path, cache=False))


def test_event_files_of_torchtitan_have_a_folder_a_launch(tmp_path):
    for name, steps in (("20260101-1000", (10, 20, 30)), ("20260102-0930", (25, 35))):
        (tmp_path / name).mkdir()
        data = b"".join(event(step, "loss_metrics/global_avg_loss", 9 - step / 9) for step in steps)
        (tmp_path / name / "events.out.tfevents.1.a").write_bytes(data)
    options = ReadOptions(batch_tokens=100)
    assert len(load_runs(tmp_path, options=options, cache=False).runs) == 2
    joined = load_runs(tmp_path, join=True, options=options, cache=False)
    assert len(joined.runs) == 1
    assert joined.table.select("step", "tokens").rows() == [
        (10, 1000),
        (20, 2000),
        (25, 2500),
        (35, 3500),
    ]


def test_a_file_of_several_runs_is_part_of_no_other(tmp_path):
    (tmp_path / "a.log").write_text(BELOW)
    (tmp_path / "b.log").write_text(iteration(5, 10, 4))
    names = [run.run for run in load_runs(tmp_path, join=True, cache=False).runs]
    assert names[:2] == ["a/run-1", "a/run-2"]
    assert len(names) == 3


def test_attempts_are_those_of_each_run(tmp_path):
    path = tmp_path / "job.log"
    again = iteration(5, 10, 4) + iteration(10, 10, 4)
    path.write_text(BELOW + iteration(5, 20, 2) + iteration(10, 20, 2))
    assert [one.attempts for one in overviews(load_runs(path, cache=False))] == [1, 1]
    path.write_text(arguments(10, 4) + iteration(5, 10, 4) + again + BELOW + again)
    assert [one.attempts for one in overviews(load_runs(path, cache=False))] == [1, 1, 1, 1]


def test_fit_refuses_a_log_that_several_runs_share(tmp_path):
    path = tmp_path / "job.log"
    steps = [10, 20, 30, 10, 20, 40, 50, 30, 40, 60, 70, 50, 60, 80, 90, 70, 80]
    path.write_text("".join(line(step, loss=9 - n / 7) for n, step in enumerate(steps)))
    loaded = load_runs(path, options=ReadOptions(seq_length=10), cache=False)
    assert "mixed_runs" in problems(loaded)
    with pytest.raises(DataError, match=r"job\.log:\d+.*several runs"):
        fit_logs(loaded, "auto", Naming("x"))


def test_the_main_validation_set_is_the_one_that_is_listed(tmp_path):
    path = tmp_path / "job.log"
    text = " validation loss at iteration 10 on {} set | lm loss value: {}.0E+00 |\n"
    path.write_text(line(10) + text.format("validation", 3) + text.format("test", 2))
    loaded = load_runs(path, cache=False)
    assert set(loaded.table["loss_kind"]) == {"interval_mean", "validation", "validation:test"}
    assert [one.validation_loss for one in overviews(loaded)] == [3.0]
