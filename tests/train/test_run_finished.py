"""What a complete run does at its end, and when it is looked at again."""

from __future__ import annotations

from pathlib import Path

from megascale.formats.run_log import read_run
from megascale.train.telemetry import figure
from tests.tiny_run import MODEL, log_of, run_ranks, tiny_config


def test_a_finished_run_does_not_grow_when_it_is_looked_at(tmp_path):
    for ranks in (1, 2):
        batch = {"schedule": "0: 512"}
        config = tiny_config(tmp_path, name=f"finished-{ranks}", model=MODEL, batch=batch)
        assert run_ranks(config, ranks) == [0] * ranks
        path = Path(config.output_dir) / config.name
        before = {name: (path / name).read_bytes() for name in ("metrics.jsonl", "events.jsonl")}
        assert run_ranks(config, ranks) == [0] * ranks
        assert {name: (path / name).read_bytes() for name in before} == before


def test_an_error_while_drawing_does_not_make_a_complete_run_fail(tmp_path, capfd):
    config = tiny_config(tmp_path, name="no-plot", model=MODEL, log={"console": "plain"})

    def spoil() -> None:
        def draw_run(*_):
            raise RuntimeError("no fonts")

        figure.draw_run = draw_run

    assert run_ranks(config, prepare=spoil) == [0]
    out = capfd.readouterr()
    assert "the run is complete, but its summary and loss plot are not" in out.out + out.err
    assert read_run(Path(config.output_dir) / config.name).events[-1]["exit_code"] == 0


def test_two_segments_of_one_batch_are_no_change(tmp_path):
    config = tiny_config(tmp_path, name="same", model=MODEL, batch={"schedule": "0: 256, 4K: 256"})
    assert run_ranks(config) == [0]
    assert not [event for event in log_of(config).events if event["kind"] == "batch_change"]
    assert log_of(config).records[-1]["tokens"] == 10240
