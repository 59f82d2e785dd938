"""Extras: the table is that of pyproject.toml, and what is missing is said with its command."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from megascale.errors import ConfigError
from megascale.extras import EXTRA_OF, is_installed, pip_command, require_torch


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0]


def test_every_package_is_in_the_extra_that_the_message_names(project: dict) -> None:
    extras = project["optional-dependencies"]
    for package, extra in EXTRA_OF.items():
        assert package in {name_of(word) for word in extras[extra]}


def test_torch_is_asked_for_in_one_place(project: dict) -> None:
    assert not [word for word in project["dependencies"] if name_of(word) == "torch"]
    asking = {
        extra
        for extra, words in project["optional-dependencies"].items()
        if any(name_of(word) == "torch" for word in words)
    }
    assert asking == {"train"}


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "submitit_of_nobody").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("submitit_of_nobody")
    assert is_installed("json")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not is_installed("torch")


def test_the_message_has_the_command(monkeypatch) -> None:
    require_torch("train")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=re.escape("`megascale sweep` needs it")) as raised:
        require_torch("sweep")
    assert "pip install 'megascale[train]'" in str(raised.value)
    assert pip_command("zstandard") == "pip install 'megascale[zstd]'"
