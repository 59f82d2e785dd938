"""Logs in the shape of public ones that were read wrong, from the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from megascale.errors import DataError
from megascale.runs.check import check_runs
from megascale.runs.readers import detect
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import load_runs
from tests.runs.readers.helpers import read_as
from tests.runs.test_readers_foreign import foreign

INTERVAL, STEP, EMA, VALIDATION = "interval_mean", "instantaneous", "ema", "validation"
RIGHT = {
    "mlperf_step_is_samples.txt": [
        ("", 1, 524_288, 12.5, STEP),
        ("", 2, 1_048_576, 12.1, STEP),
        ("", 2, 1_048_576, 12.0, VALIDATION),
    ],
    "mlperf_gpt3.txt": [
        ("", 1, 4_194_304, 2.78, STEP),
        ("", 12, 50_331_648, 2.75, VALIDATION),
    ],
    "tt_restart.log": [
        ("", 100, 13_107_200, 6.5, STEP),
        ("", 200, 26_214_400, 5.5, STEP),
        ("", 300, 52_428_800, 5.0, STEP),
        ("", 400, 78_643_200, 4.8, STEP),
    ],
    "meg_two_runs.log": [
        ("run-1", 100, 52_428_800, 7.64356, INTERVAL),
        ("run-1", 200, 104_857_600, 6.64356, INTERVAL),
        ("run-1", 300, 157_286_400, 6.14356, INTERVAL),
        ("run-2", 100, 52_428_800, 7.74356, INTERVAL),
        ("run-2", 200, 104_857_600, 6.84356, INTERVAL),
    ],
    "meg2.log": [
        ("", 100, 52_428_800, 7.64356, INTERVAL),
        ("", 100, 52_428_800, 7.314413, VALIDATION),
        ("", 200, 104_857_600, 6.64356, INTERVAL),
        ("", 200, 104_857_600, 6.580711, VALIDATION),
        ("", 200, 104_857_600, 6.52914, f"{VALIDATION}:test"),
    ],
    "nanochat2.log": [
        *[("run-1", step, step * 1000, 10.5 - step / 10, EMA) for step in (1, 2, 3, 4)],
        *[("run-2", step, step * 1000, 10.55 - step / 20, EMA) for step in (1, 2, 3)],
    ],
    "nanochat.log": [
        ("", 1, 524_288, 11.090355, EMA),
        ("", 2, 1_048_576, 10.808654, EMA),
        ("", 3, 1_572_864, 10.179083, EMA),
        ("", 4, 2_097_152, 9.449214, EMA),
    ],
    "llmc_main.log": [
        ("", 0, None, 11.0, VALIDATION),
        ("", 1, None, 11.0, STEP),
        ("", 2, None, 10.0, STEP),
        ("", 3, None, 9.0, STEP),
        ("", 3, None, 8.1, VALIDATION),
    ],
    "litgpt_metrics.csv": [
        ("", None, 4_194_304, 9.812, STEP),
        ("", None, 8_388_608, 8.912, STEP),
        ("", None, 12_582_912, 8.012, STEP),
    ],
    # The first place of the list, 0, is that of step 1.
    "golden_old.json": [
        ("", 1, None, 10.4, STEP),
        ("", 6, None, 9.4, STEP),
        ("", 11, None, 8.9, STEP),
    ],
    "lf_trainer_log.jsonl": [("", 10, None, 2.31, INTERVAL), ("", 20, None, 2.21, INTERVAL)],
    "lightning_metrics.csv": [
        ("", 50, None, 9.81, STEP),
        ("", 100, None, 8.72, STEP),
        ("", 100, None, 8.51, VALIDATION),
        ("", 150, None, 8.01, STEP),
    ],
    "megatron_eot.log": [
        ("", 100, 52_428_800, 7.64356, INTERVAL),
        ("", 100, 52_428_800, 7.314413, VALIDATION),
        ("", 200, 104_857_600, 6.64356, INTERVAL),
        ("", 200, 104_857_600, 6.580711, VALIDATION),
        ("", 200, 104_857_600, 6.52914, f"{VALIDATION}:test"),
    ],
}


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_steps_tokens_losses_and_runs(shared_data, name):
    path = foreign(shared_data, name)
    loaded = load_runs(path, cache=False)
    rows = loaded.table.select("run", "step", "tokens", "loss", "loss_kind").rows()
    named = [(run or path.name.partition(".")[0], *rest) for run, *rest in RIGHT[name]]
    assert [(*row[:3], row[4]) for row in rows] == [(*row[:3], row[4]) for row in named]
    assert [row[3] for row in rows] == pytest.approx([row[3] for row in named])
    assert not loaded.files[0].malformed_count


def test_columns_on_json_lines(shared_data):
    path = foreign(shared_data, "flat.jsonl")
    options = ReadOptions(columns=(("loss", "train_mean_nll"), ("tokens", "num_tokens")))
    loaded = load_runs(path, options=options, cache=False)
    assert loaded.table.select("step", "tokens", "loss").rows() == [(1, 930, 2.45), (2, 3070, 2.35)]


def test_points_are_no_run(shared_data):
    loaded = load_runs(foreign(shared_data, "nearN.csv"), cache=False)
    assert "mixed_runs" in {one.kind for one in check_runs(loaded)}


def test_mutated_inputs_end_in_one_message(shared_data):
    """Bytes that ended in a traceback once, under every reader."""
    folder: Path = shared_data / "fault_inputs"
    paths = [path for path in folder.iterdir() if path.name.startswith(("own", "readers"))]
    if not paths:
        pytest.skip("no mutated inputs in the data folder")
    stated = (("loss", "loss"), ("tokens", "step"))
    longest = 0
    for path in paths:
        raw = path.read_bytes()
        _, cut, body = raw.partition(b"\n----\n")
        for data in {raw, body if cut else raw}:
            for reader in detect.READERS.values():
                for columns in ((), stated):
                    try:
                        read_as(reader, data, ReadOptions(columns=columns))
                    except DataError as error:
                        longest = max(longest, len(str(error)))
    assert 0 < longest < 2000
