"""`megascale doctor`: what is missing, what is broken, and what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from megascale.extras import EXTRA_OF
from megascale.verbs import doctor_checks
from megascale.verbs.doctor_checks import CHECKS, USES
from tests.verbs.scene import call


@pytest.fixture(autouse=True)
def forget() -> None:
    doctor_checks._torch_facts.cache_clear()


def checks(capsys, *words: str, code: int = 0) -> dict[str, dict[str, str]]:
    capsys.readouterr()
    assert call(["doctor", "--json", *words]) == code
    return json.loads(capsys.readouterr().out)["checks"]


def test_this_machine_trains_and_fits(capsys) -> None:
    found = checks(capsys, "--require", "torch", "--require", "engine")
    assert list(found) == list(CHECKS)
    assert found["torch"]["state"] == found["engine"]["state"] == "ok"
    assert {one["state"] for one in found.values()} <= {"ok", "absent"}
    assert all(one["advice"] for one in found.values() if one["state"] == "absent")


def test_every_extra_has_a_check() -> None:
    assert set(EXTRA_OF) <= set(CHECKS)
    assert set(USES) == set(EXTRA_OF) - {"torch"}


def test_what_is_absent_is_wrong_where_it_is_required(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = checks(capsys)
    assert found["torch"]["state"] == found["cuda"]["state"] == "absent"
    assert "pip install 'megascale[train]'" in found["torch"]["advice"]
    assert checks(capsys, "--require", "torch", code=2)["torch"]["state"] == "wrong"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("raise OSError('libcudart.so.12: cannot open')", "libcudart.so.12: cannot open"),
        ("import os; os._exit(9)", "ended with 9"),
    ],
)
def test_a_torch_that_does_not_start_is_wrong(
    text: str, shown: str, capsys, monkeypatch, tmp_path: Path
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = checks(capsys, code=2)["torch"]
    assert found["state"] == "wrong"
    assert shown in found["found"]


@pytest.mark.parametrize(
    ("variable", "value", "check", "state"),
    [
        ("OMP_NUM_THREADS", "many", "threads", "wrong"),
        ("OMP_NUM_THREADS", "4096", "threads", "ok"),
        ("CXX", "no-such-compiler", "compiler", "absent"),
        ("CXX", "false", "compiler", "wrong"),
        ("MEGASCALE_CHROMIUM", "/no/such/browser", "browser", "wrong"),
    ],
)
def test_the_environment_is_examined(
    variable: str, value: str, check: str, state: str, capsys, monkeypatch
) -> None:
    monkeypatch.setenv(variable, value)
    found = checks(capsys, code=2 if state == "wrong" else 0)[check]
    assert found["state"] == state
    assert found["advice"]


def test_a_check_that_does_not_exist_is_refused(capsys) -> None:
    assert call(["doctor", "--require", "tourch"]) == 2
    assert "--require = tourch: must be a check" in capsys.readouterr().err


def test_the_text_begins_with_the_verdict(capsys) -> None:
    assert call(["doctor", "--require", "cuda"]) in (0, 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] in ("nothing is wrong", "wrong: cuda")
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == list(CHECKS)
