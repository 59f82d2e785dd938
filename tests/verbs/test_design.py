"""`megascale design`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.propose.known_law import write_known_logs
from tests.verbs.scene import call


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("law")
    logs, path = write_known_logs(folder / "runs.csv"), folder / "law.json"
    assert call(["fit", str(logs), "--law", "schedule", "--bootstrap", "30", "-o", str(path)]) == 0
    return str(path)


def test_the_next_two_runs_come_as_configs(law, capsys) -> None:
    capsys.readouterr()
    assert call(["design", "--law-file", law, "--unit", "128"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Next: ")
    assert shown.count("schedule: ") == 2
    assert shown.count("total_tokens: ") == 2


def test_json_has_all_candidates(law, capsys) -> None:
    assert call(["design", "--law-file", law, "--unit", "128", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["ranked"]) == len(found["second"]) == 20
    assert found["ranked"][0]["name"] in found["verdict"]
    assert found["ranked"][0]["spread"] < found["spread"]
    warmups = {one["config"]["lr"]["warmup_tokens"] for one in found["ranked"]}
    assert warmups == {50_000}  # as in the runs that were fitted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--unit", "0"], "must be positive"),
        (["--unit", "1M"], "fewer than a hundred steps"),
        (["--tokens", "x"], "--tokens"),
    ],
)
def test_bad_input_says_what_to_do(law, words, said, capsys) -> None:
    assert call(["design", "--law-file", law, *words]) == 2
    assert said in capsys.readouterr().err


def test_runs_take_the_place_of_a_law(law: str, capsys) -> None:
    """The same candidates as by the law that `fit` writes for these runs."""
    logs = str(Path(law).parent / "runs.csv")
    capsys.readouterr()
    assert call(["design", logs, "--unit", "128", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["ranked"]) == 20
    assert call(["design", logs, "--law-file", law]) == 2
    assert "has its runs already" in capsys.readouterr().err
    assert call(["design", "--law-file", law, "--weight-decay", "0.1"]) == 2
    assert "weight decay" in capsys.readouterr().err


def test_a_law_is_needed(tmp_path: Path, capsys) -> None:
    assert call(["design"]) == 2
    assert "names the runs that are there" in capsys.readouterr().err
