"""`megascale config`: what it prints is what the functions behind it return."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from megascale.config import dump_yaml, load_config
from megascale.config.export import reference_text, schema_text
from tests.config.documents import small, write
from tests.verbs.scene import call


def test_show_resolves_and_its_output_is_the_same_config(tmp_path: Path, capsys) -> None:
    file = write(tmp_path / "run.yaml", small())
    assert call(["config", "show", str(file), "lr.peak=2e-3"]) == 0
    shown = capsys.readouterr().out
    expected = load_config(file, ["lr.peak=2e-3"])
    assert yaml.safe_load(shown)["lr"]["peak"] == 2e-3
    assert load_config(write(tmp_path / "again.yaml", shown)).digest() == expected.digest()


def test_show_as_json_has_integers(tmp_path: Path, capsys) -> None:
    file = write(tmp_path / "run.yaml", small())
    assert call(["config", "show", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"]["total_tokens"] == 10_000_000
    assert shown == load_config(file).model_dump(mode="json")


def test_check_prints_the_digest(tmp_path: Path, capsys) -> None:
    file = write(tmp_path / "run.yaml", dump_yaml(load_config(write(tmp_path / "a.yaml", small()))))
    assert call(["config", "check", str(file)]) == 0
    assert load_config(file).digest() in capsys.readouterr().out


def test_schema_and_reference_are_printed_whole(capsys) -> None:
    assert call(["config", "schema"]) == 0
    assert capsys.readouterr().out == schema_text()
    assert call(["config", "reference"]) == 0
    assert capsys.readouterr().out == reference_text()
