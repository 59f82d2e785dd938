"""What else held in the runs behind a law, and where another run differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megascale.errors import FitError
from megascale.formats.schedule_law_file import SettingsOfRuns
from megascale.propose.run_settings import (
    logged_settings,
    other_settings,
    settings_of_config,
    settings_of_mapping,
    stated_weight_decay,
)
from megascale.runs.table import RunTable, load_runs
from tests.propose.test_replan import log
from tests.tiny_run import tiny_config

CONTENT = {
    "weight_decay": {"value": 0.1},
    "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.95},
    "train": {"sequence_length": 64},
    "model": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128,
              "vocab_size": 512},
    "data": {"sources": {"web": {"path": ["/a/corpus"]}}},
}  # fmt: skip


def table_of(folder: Path, *contents: dict) -> RunTable:
    for i, content in enumerate(contents):
        run = log(folder / f"run{i}", [256] * 10)
        (run / "config.json").write_text(json.dumps(content))
    return load_runs(folder, cache=False)


def test_what_all_runs_have_is_known(tmp_path: Path) -> None:
    other = CONTENT | {"train": {"sequence_length": 128}}
    found = logged_settings(table_of(tmp_path, CONTENT, other))
    assert found.weight_decay == 0.1
    assert found.sequence_length is None
    assert found.optimizer == "adamw with beta1 0.9, beta2 0.95"
    assert found.architecture == "of 2 layers of width 64, vocabulary 512, dense of width 128"
    assert found.data == "web (corpus)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight_decay": {"value": 0.2}}, "weight decay 0.2, the law's runs have 0.1"),
        ({"optimizer": {"name": "sgd", "beta1": 0.9}}, "optimizer sgd with beta1 0.9, the law's"),
        ({"train": {"sequence_length": 128}}, "sequences of 128, the law's runs have 64"),
        ({"data": {"sources": {"web": {"path": "code"}}}}, "data web (code), the law's runs have"),
        ({"model": CONTENT["model"] | {"num_experts": 8, "num_experts_per_tok": 2,
                                       "moe_intermediate_size": 32}}, "2 of 8 experts of width 32"),
    ],
)  # fmt: skip
def test_another_setting_is_said(change: dict, said: str) -> None:
    law, run = settings_of_mapping(CONTENT), settings_of_mapping(CONTENT | change)
    (words,) = other_settings(law, run)
    assert said in words
    assert other_settings(law, law) == ()


def test_what_is_not_known_is_not_compared() -> None:
    assert other_settings(SettingsOfRuns(), settings_of_mapping(CONTENT)) == ()
    assert settings_of_mapping({"weight_decay": {"value": 0.1, "schedule": "linear"}}) == (
        SettingsOfRuns()
    )


def test_a_config_and_its_run_directory_have_the_same_settings(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    saved = settings_of_mapping(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert settings_of_config(config) == saved
    assert None not in saved.model_dump().values()


def test_a_weight_decay_that_the_logs_contradict_is_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, CONTENT)
    assert stated_weight_decay(table, None) == stated_weight_decay(table, 0.1) == 0.1
    with pytest.raises(FitError, match=r"another weight decay.*0\.1"):
        stated_weight_decay(table, 0.3)
