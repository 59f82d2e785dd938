"""`megascale schedule --optimize`: from logs to a verdict, a table, JSON, an export, a figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megascale.config import load_config
from tests.propose.known_law import write_known_logs
from tests.verbs.scene import call

LAYOUT = ["--seq-length", "32", "--micro-batch", "4", "--tokens", "1M"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_known_logs(tmp_path_factory.mktemp("logs") / "runs.csv", seconds=True)


def words(logs: Path, objective: str, *more: str) -> list[str]:
    less = [] if "--max-changes" in more else ["--max-changes", "1"]
    less += [] if "--calibrate" in more else ["--no-calibrate"]
    return ["schedule", "--optimize", objective, "--runs", str(logs), *LAYOUT, *less, *more]


@pytest.fixture(scope="module")
def found(logs: Path) -> dict:
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert (
            call(
                words(logs, "tokens", "--decay", "0", "--max-changes", "2", "--calibrate", "--json")
            )
            == 0
        )
    return json.loads(text.getvalue())


def test_json_has_the_verdict_the_opponent_and_the_front(found) -> None:
    assert found["kind"] == "gain"
    assert 1 <= found["inflation"] < 2
    assert found["recommended"]
    assert found["chosen"]["difference"]["high"] < 0
    assert len(found["opponent"]["batches"]) == 1
    assert found["opponent"]["difference"] == {"value": 0, "low": 0, "high": 0}
    assert found["tuned_opponent"]["lr"]["decay_tokens"] > 0
    assert set(found["rules"]) == {"remaining", "late", "follow"}
    assert set(found["chosen"]["difference_by_form"]) == {"theta", "snr", "power"}
    costs = [one["steps"] for one in found["front"]]
    assert costs == sorted(costs, reverse=True)
    assert found["bounds"]["batch_tokens"] == [256, 2048]
    assert found["bounds"]["peak_lr"] == [0.005, 0.005]
    segments = [(s["start_tokens"], s["batch_tokens"]) for s in found["segments"]]
    chosen = [(b["start_tokens"], b["batch_tokens"]) for b in found["chosen"]["batches"]]
    assert segments == chosen  # switches stand where steps end
    assert any("tuned within what was seen" in said for said in found["verdict"])


def test_the_screen_says_the_verdict_first(logs, capsys, tmp_path) -> None:
    figure = tmp_path / "front.svg"
    more = ("--max-changes", "1", "--plot", str(figure), "--step-seconds", str(logs))
    assert call(words(logs, "time", *more)) == 0
    shown = capsys.readouterr().out
    first = shown.splitlines()[0]
    assert "less time at no worse loss" in first or "no gain in time" in first.lower()
    assert "best fixed: batch" in shown
    assert "hours" in shown
    assert "step times known 256 to 2048" not in shown
    assert figure.read_text().startswith("<?xml")


def test_the_export_is_a_config(logs, tmp_path, capsys) -> None:
    path = tmp_path / "plan.yaml"
    assert call(words(logs, "steps", "--export", "yaml", "-o", str(path))) == 0
    shown = capsys.readouterr().out
    assert f"{path}: written" in shown
    config = path.read_text()
    assert "decay_tokens" in config
    base = "train: {total_tokens: 1M}\nmodel: {preset: models/qwen3-0.6b.yaml}\n"
    (tmp_path / "run.yaml").write_text(
        f"base: plan.yaml\n{base}data: {{sources: {{a: {{path: x}}}}}}\n"
    )
    loaded = load_config(tmp_path / "run.yaml", ["model.vocab_size=512"])
    assert loaded.batch.rounding == "exact"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--lr", "1e-2"], "--lr = 0.01: the law's runs have 0.005"),
        (["--tokens", "10M"], "--tokens = 10M: the law's longest run has 1M tokens"),
        (["--min-batch", "64", "--max-batch", "128"], "the law's runs have 256 to 1.024K"),
        (["--decay", "700K"], "--decay = 700000"),
        (["--lr-kind", "cosine"], "--lr-kind = cosine"),
        (["--initial", "256"], "--initial = 256: has no meaning with --optimize"),
        (["--lr", "2e-2:1e-2"], "the lower end first. Nearest legal: 1e-2:2e-2"),
        (["--final-ratio", "x"], "--final-ratio = x: must be a number, or LOW:HIGH"),
        (["--min-gap", "900K"], "--min-gap = 900000"),
        (["--lr-kind", "constant", "--decay", "1K"], "no decay of its own length"),
        (["--output", "x"], "says where an export goes"),
    ],
)
def test_refusals(logs, more, said, capsys) -> None:
    assert call(words(logs, "tokens", *more)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--optimize", "tokens"], "--runs = None"),
        (["--table", "0:256", "--plot", "x.png"], "--plot = x.png: has no meaning with"),
        (["--table", "0:256", "--beyond-data"], "--beyond-data = True"),
    ],
)
def test_options_that_would_be_ignored_are_refused(line, said, capsys) -> None:
    assert call(["schedule", *LAYOUT, *line]) == 2
    assert said in capsys.readouterr().err


def test_time_needs_step_times_and_cost_a_price(logs, capsys) -> None:
    assert call(words(logs, "time")) == 2
    assert "--step-seconds = None" in capsys.readouterr().err
    assert call(words(logs, "cost", "--step-seconds", "256:0.01,2048:0.03")) == 2
    assert "--price = None" in capsys.readouterr().err


def test_beyond_the_data_recommends_nothing(logs, capsys) -> None:
    more = ("--min-batch", "128", "--decay", "200K", "--beyond-data", "--json")
    assert call(words(logs, "tokens", *more)) == 0
    content = json.loads(capsys.readouterr().out)
    unseen = [one for one in content["outside_seen"] if "batch of 128" in one]
    small = any(b["batch_tokens"] < 256 for b in content["proposal"]["batches"])
    assert bool(unseen) == small
    assert content["recommended"] is False or not small
