"""The generated files are current, complete, legal, and agree with each other."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from megascale.config import dump_yaml, load_config
from megascale.config.export import EXAMPLE, main, reference_text, schema_text


def test_committed_files_are_current(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--directory", str(repository / "configs")]) == 0, capsys.readouterr()


def test_stale_files_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--directory", str(tmp_path)]) == 1
    assert "out of date" in capsys.readouterr().out
    assert main(["--directory", str(tmp_path)]) == 0
    assert main(["--check", "--directory", str(tmp_path)]) == 0


def test_reference_loads_names_every_key_and_fits_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "reference.yaml"
    path.write_text(reference_text(), encoding="utf-8")
    config = load_config(path)
    shown, resolved = yaml.safe_load(reference_text()), yaml.safe_load(dump_yaml(config))
    assert {s: set(v) for s, v in shown.items() if isinstance(v, dict)} == {
        s: set(v) for s, v in resolved.items() if isinstance(v, dict)
    }
    assert shown["train"]["total_tokens"] == EXAMPLE["train"]["total_tokens"]
    jsonschema.validate(shown, json.loads(schema_text()))
    jsonschema.validate(resolved, json.loads(schema_text()))


@pytest.mark.parametrize(
    "bad",
    [
        {"train": {"total_tokens": "2m"}},
        {"train": {"total_tokens": -1}},
        {"trian": {}},
        {"lr": {"kind": "wds"}},
        {"model": {"hiden_size": 4}},
    ],
)
def test_schema_refuses_what_loading_refuses(bad: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, json.loads(schema_text()))


def test_schema_takes_partial_files_with_bases_and_presets() -> None:
    good = {
        "base": ["a.yaml"],
        "model": {"preset": "models/x.yaml", "num_hidden_layers": 2},
        "data": {"sources": {"a": None}},
        "batch": {"schedule": {"0": "2M", "125B": "4M"}},
    }
    jsonschema.validate(good, json.loads(schema_text()))
