"""`megascale schedule --optimize`: from logs to a verdict, a table, JSON, an export, a figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megascale.config import load_config
from tests.propose.test_replan import log
from tests.verbs.scene import call

LAYOUT = ["--seq-length", "32", "--micro-batch", "4", "--tokens", "1M"]


@pytest.fixture(scope="module")
def law(schedule_law: Path) -> Path:
    return schedule_law


@pytest.fixture(scope="module")
def logs(law: Path) -> Path:
    return law.parent / "runs.csv"


def words(law: Path, objective: str, *more: str) -> list[str]:
    less = [] if "--max-changes" in more else ["--max-changes", "1"]
    return ["schedule", "--optimize", objective, "--law-file", str(law), *LAYOUT, *less, *more]


@pytest.fixture(scope="module")
def found(law: Path) -> dict:
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert call(words(law, "tokens", "--decay", "0", "--max-changes", "2", "--json")) == 0
    return json.loads(text.getvalue())


def test_json_has_the_verdict_the_opponent_and_the_front(found) -> None:
    assert found["kind"] == "gain"
    assert 0 < found["law_error"] < 0.02
    assert found["recommended"]
    assert found["chosen"]["difference"]["high"] < 0
    assert len(found["opponent"]["batches"]) == 1
    assert found["opponent"]["difference"] == {"value": 0, "low": 0, "high": 0}
    assert found["tuned_opponent"]["lr"]["decay_tokens"] > 0
    assert set(found["rules"]) == {"remaining", "late", "follow"}
    assert "power" in found["chosen"]["difference_by_form"]
    costs = [one["steps"] for one in found["front"]]
    assert costs == sorted(costs, reverse=True)
    assert found["bounds"]["batch_tokens"] == [256, 2048]
    assert found["bounds"]["peak_lr"] == [0.005, 0.005]
    segments = [(s["start_tokens"], s["batch_tokens"]) for s in found["segments"]]
    chosen = [(b["start_tokens"], b["batch_tokens"]) for b in found["chosen"]["batches"]]
    assert segments == chosen  # switches stand where steps end
    assert any("tuned within what was seen" in said for said in found["verdict"])


def test_the_screen_says_the_verdict_first(logs, law, capsys, tmp_path) -> None:
    figure = tmp_path / "front.svg"
    more = ("--max-changes", "1", "--plot", str(figure), "--step-seconds", str(logs))
    assert call(words(law, "time", *more)) == 0
    shown = capsys.readouterr().out
    first = shown.splitlines()[0]
    assert "less time at no worse loss" in first or "no gain in time" in first.lower()
    assert "best fixed: batch" in shown
    assert "hours" in shown
    assert "step times known 256 to 2048" not in shown
    assert figure.read_text().startswith("<?xml")


def test_the_export_is_a_config(law, tmp_path, capsys) -> None:
    path = tmp_path / "plan.yaml"
    assert call(words(law, "steps", "--export", "yaml", "-o", str(path))) == 0
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
def test_refusals(law, more, said, capsys) -> None:
    assert call(words(law, "tokens", *more)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--optimize", "tokens"], "--law-file, --runs = None"),
        (["--table", "0:256", "--plot", "x.png"], "--plot = x.png: has no meaning with"),
        (["--table", "0:256", "--beyond-data"], "--beyond-data = True"),
    ],
)
def test_options_that_would_be_ignored_are_refused(line, said, capsys) -> None:
    assert call(["schedule", *LAYOUT, *line]) == 2
    assert said in capsys.readouterr().err


def test_time_needs_step_times_and_cost_a_price(law, capsys) -> None:
    assert call(words(law, "time")) == 2
    assert "--step-seconds = None" in capsys.readouterr().err
    assert call(words(law, "cost", "--step-seconds", "256:0.01,2048:0.03")) == 2
    assert "--price = None" in capsys.readouterr().err


def test_beyond_the_data_recommends_nothing(law, capsys) -> None:
    more = ("--min-batch", "128", "--decay", "200K", "--beyond-data", "--json")
    assert call(words(law, "tokens", *more)) == 0
    content = json.loads(capsys.readouterr().out)
    unseen = [one for one in content["outside_seen"] if "batch of 128" in one]
    small = any(b["batch_tokens"] < 256 for b in content["proposal"]["batches"])
    assert bool(unseen) == small
    assert content["recommended"] is False or not small


def test_the_rest_of_a_running_run_is_planned(law, tmp_path, capsys) -> None:
    run = log(tmp_path / "run", [256] * 1172 + [512] * 200)
    lr = {"kind": "wsd", "peak": 5e-3, "warmup_tokens": 50_000, "decay_tokens": 200_000}
    train = {"total_tokens": 1_000_000, "micro_batch_size": 1}
    content = {"train": train, "lr": lr | {"final_ratio": 0.1, "final_lr": None}}
    (run / "config.json").write_text(json.dumps(content))
    line = ["schedule", "--optimize", "tokens", "--law-file", str(law), "--replan", str(run)]
    line += ["--max-changes", "1"]
    assert call([*line, "--json", "--export", "yaml"]) == 0
    found = json.loads(capsys.readouterr().out)
    now = 1172 * 256 + 200 * 512
    for one in (found["opponent"], found["proposal"], *found["front"]):
        batches = [(b["start_tokens"], b["batch_tokens"]) for b in one["batches"]]
        assert batches[:2] == [(0, 256), (1172 * 256, 512)]
        assert all(start >= now for start, _ in batches[2:])
        assert one["lr"]["decay_tokens"] == 200_000
    assert found["segments"][0]["start_tokens"] == now
    assert "0: 256, 300_032: 512" in found["export"]
    assert call([*line, "--lr", "5e-3"]) == 2
    assert "has been run already" in capsys.readouterr().err
    assert call([*line, "--decay", "700K"]) == 2
    assert "longer than what is left of the run" in capsys.readouterr().err
    (run / "config.json").write_text(json.dumps({"train": train}))
    assert call(line) == 2
    assert "must have a config beside its log" in capsys.readouterr().err


def judged(law: Path, capsys, *more: str) -> dict:
    line = ["schedule", *more, *LAYOUT, "--law-file", str(law), "--json"]
    assert call(line) == 0
    return json.loads(capsys.readouterr().out)["against_fixed"]


def test_a_given_schedule_is_judged_against_the_best_fixed_batch(law, capsys) -> None:
    late = ["--rule", "late", "--initial", "256", "--max-batch", "2Ki", "--lr", "5e-3"]
    grown = judged(law, capsys, *late, "--decay", "0")
    assert grown["schedule"]["difference"]["high"] < 0
    assert "is better than the best fixed batch" in grown["verdict"][0]
    assert len(grown["opponent"]["batches"]) == 1
    shrunk = judged(law, capsys, "--table", "0:2Ki,500K:256", "--decay", "0")
    assert shrunk["schedule"]["difference"]["low"] > 0
    assert "is worse than the best fixed batch" in shrunk["verdict"][0]
    unseen = judged(law, capsys, "--table", "0:128,500K:512", "--decay", "200K")
    assert any("a batch of 128" in said for said in unseen["outside_seen"])
    assert "no recommendation" in unseen["verdict"][1]


def test_a_judged_schedule_starts_at_token_0(logs, tmp_path, capsys) -> None:
    run = log(tmp_path / "run", [256] * 10)
    line = ["schedule", "--table", "0:512", "--replan", str(run), "--runs", str(logs)]
    assert call(line) == 2
    assert "--optimize alone" in capsys.readouterr().err


def test_logs_give_the_plan_of_their_law_file(logs, tmp_path, capsys) -> None:
    """`--runs` fits what `fit --law schedule` fits."""
    path = tmp_path / "law.json"
    assert call(["fit", str(logs), "--law", "schedule", "-o", str(path)]) == 0
    capsys.readouterr()
    line = ["schedule", "--table", "0:256,700K:1Ki", *LAYOUT, "--decay", "200K", "--json"]
    said = []
    for source in (["--runs", str(logs)], ["--law-file", str(path)]):
        assert call([*line, *source]) == 0
        said.append(json.loads(capsys.readouterr().out)["against_fixed"])
    assert said[0] == said[1]


def test_a_law_file_plans_without_its_logs(law, capsys) -> None:
    line = ["schedule", "--optimize", "tokens", "--law-file", str(law), *LAYOUT]
    assert call([*line, "--decay", "0", "--max-changes", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommended"]
    assert found["source"]["law_from"] == str(law)
    assert found["opponent"]["lr"]["warmup_tokens"] == 50_000
    assert call([*line, "--weight-decay", "0.1"]) == 2
    assert "says the weight decay of its runs" in capsys.readouterr().err
    assert call([*line, "--runs", "x"]) == 2
    assert "one of --law-file and --runs" in capsys.readouterr().err


def test_a_law_file_judges_a_given_schedule(law, capsys) -> None:
    line = ["schedule", "--table", "0:2Ki,500K:256", "--law-file", str(law), *LAYOUT]
    assert call([*line, "--decay", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["against_fixed"]
    assert "is worse than the best fixed batch" in found["verdict"][0]


def test_a_law_of_fixed_batches_is_no_law_to_plan_under(capsys) -> None:
    assert call(["schedule", "--optimize", "tokens", "--law-file", "step-law", *LAYOUT]) != 0
    assert "is no law of whole schedules" in capsys.readouterr().err
