"""`runs ls --sort --filter --limit`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.verbs.scene import call

RUNS = {"b-1Ki": (1024, 1e-3, 2.5), "b-128": (128, 3e-3, 2.75), "b-2Ki": (2048, 1e-3, 2.0)}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Three runs of other batches, and one that states neither batch nor rate."""
    for name, (batch, lr, loss) in RUNS.items():
        rows = [f"{n},{n * batch},{batch},{lr * n / 4},{loss + 4 - n}" for n in range(1, 5)]
        text = "step,tokens,batch_tokens,lr,loss\n" + "\n".join(rows) + "\n"
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "bare.csv").write_text("step,tokens,loss\n1,10,3.5\n2,20,3.25\n")
    return tmp_path


def listed(capsys, logs: Path, *words: str) -> list[str]:
    capsys.readouterr()
    assert call(["runs", "ls", str(logs), "--no-cache", "--json", *words]) == 0
    return [run["name"] for run in json.loads(capsys.readouterr().out)]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ["b-128", "b-1Ki", "b-2Ki", "bare"]),
        (("--sort", "loss"), ["b-2Ki", "b-1Ki", "b-128", "bare"]),
        (("--sort", "-batch"), ["b-2Ki", "b-1Ki", "b-128", "bare"]),
        (("--sort", "-run", "--limit", "2"), ["bare", "b-2Ki"]),
        (("--filter", "lr>=2e-3"), ["b-128"]),
        (("--filter", "batch<2Ki", "--filter", "loss < 2.6"), ["b-1Ki"]),
        (("--filter", "run~Ki"), ["b-1Ki", "b-2Ki"]),
        (("--filter", "format!=csv"), []),
        (("--filter", "steps=2"), ["bare"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_runs_are_chosen_and_ordered(capsys, logs: Path, words: tuple, names: list[str]) -> None:
    assert listed(capsys, logs, *words) == names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sort", "losss"), "--sort = losss: must name a column of `runs ls`"),
        (("--filter", "loss"), "--filter = loss: must be FIELD OP VALUE"),
        (("--filter", "loss~2"), "--filter = loss~2: loss is a number"),
        (("--filter", "loss<many"), "--filter = many"),
    ],
)
def test_what_has_no_meaning_is_refused(
    capsys, logs: Path, words: tuple[str, str], message: str
) -> None:
    assert call(["runs", "ls", str(logs), "--no-cache", *words]) in (2, 3)
    assert message in capsys.readouterr().err


def test_the_table_has_size_and_rate(capsys, logs: Path) -> None:
    assert call(["runs", "ls", str(logs), "--no-cache"]) == 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:6] == ["run", "format", "N", "lr", "steps", "tokens"]
    assert first.split()[:6] == ["b-128", "csv", "-", "0.003", "4", "512"]
