"""Logs in the shape of other frameworks' public ones, from the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import load_runs

RIGHT = {
    "build_nanogpt.log": (
        "build-nanogpt",
        [
            *[(0, None, 10.9511), (1, None, 10.954952), (2, None, 10.532101)],
            *[(3, None, 10.112101), (250, None, 6.1501)],
        ],
    ),
    "composer.log": ("composer", [(1, 524288, 11.7641), (2, 1048576, 11.5121)]),
    "deepspeed.log": ("deepspeed", [(10, None, 9.8123), (20, None, 9.1123)]),
    "hf_stdout.log": (
        "hf-stdout",
        [(5, None, 9.1234), (10, None, 8.4321), (10, None, 8.2), (15, None, 7.9871)],
    ),
    "internevo.log": ("internevo", [(1, 131072, 11.53), (2, 262144, 11.21)]),
    "levanter_progress.log": ("levanter", [(101, None, 6.21), (201, None, 5.81)]),
    "maxtext.log": ("maxtext", [(1, 524288, 10.871), (2, 1048576, 10.512), (3, 1572864, 10.112)]),
    "mindformers.log": ("mindformers", [(2, None, 10.631), (4, None, 10.331)]),
    "nanogpt_karpathy.log": (
        "nanogpt-train",
        [
            *[(0, 0, 10.9878), (1, 491520, 10.9891), (11, 5406720, 10.3921)],
            *[(21, 10321920, 9.8712), (30, 14745600, 9.4502), (31, 15237120, 9.4398)],
            (41, 20152320, 9.1221),
        ],
    ),
    "nemo2.log": ("nemo", [(1, None, 12.03), (2, None, 12.02), (3, None, 11.98)]),
    "neox.log": ("megatron", [(10, None, 9.123456), (20, None, 8.123456)]),
    "paddlenlp.log": ("paddlenlp", [(1, None, 11.02), (2, None, 10.51)]),
    "torchtune.txt": ("torchtune", [(1, None, 2.5312), (2, None, 2.4312), (3, None, 2.3312)]),
}


def foreign(shared_data: Path, name: str) -> Path:
    path = shared_data / "foreign_small" / name
    if not path.is_file():
        pytest.skip(f"no {name} in the data folder")
    return path


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_steps_tokens_and_losses(shared_data, name):
    form, rows = RIGHT[name]
    loaded = load_runs(foreign(shared_data, name), cache=False)
    assert loaded.runs[0].format == form
    assert loaded.table.select("step", "tokens", "loss").rows() == rows
    assert not loaded.files[0].malformed_count


def test_the_users_batch_gives_tokens_where_a_log_has_none(shared_data):
    options = ReadOptions(batch_samples=64, seq_length=2048)
    loaded = load_runs(foreign(shared_data, "torchtune.txt"), options=options, cache=False)
    assert loaded.table["tokens"].to_list() == [131072, 262144, 393216]


def test_fairseq_in_nats(shared_data):
    loaded = load_runs(foreign(shared_data, "fairseq.log"), cache=False)
    assert loaded.table["loss"].to_list() == pytest.approx([7.21705, 5.83075], abs=1e-5)


def test_a_chart_of_two_runs(shared_data):
    loaded = load_runs(foreign(shared_data, "wandb_hf_chart.csv"), cache=False)
    assert loaded.table.select("run", "step", "loss").rows() == [
        *[("run-a", 10, 9.1), ("run-a", 20, 8.1), ("run-a", 30, 7.1)],
        *[("run-b", 10, 9.2), ("run-b", 20, 8.2)],
    ]
