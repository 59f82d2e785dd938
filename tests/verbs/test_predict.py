"""`megascale fit --law schedule` and `megascale predict`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from megascale.fitting.history_result import predict_history
from megascale.formats.schedule_law_file import read_schedule_law
from megascale.propose.schedule_law import ScheduleLaw
from tests.propose.known_law import SCALES, KnownLaw, known_plan
from tests.propose.test_replan import log
from tests.tiny_run import tiny_config
from tests.verbs.scene import call

RATE = ["--lr", "5e-3", "--warmup", "50K", "--tokens", "1M"]
MODEL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
}


@pytest.fixture
def law(schedule_law: Path) -> Path:
    return schedule_law


def test_a_law_is_fitted_and_shown(law: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = law.parent / "runs.csv"
    assert call(["fit", str(logs), "--law", "schedule", "--bootstrap", "30"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Schedules left out of the fit are predicted within 0.0")
    assert "8 runs of 8 schedules, validation losses from 120,000 tokens on." in said.out
    assert "all runs have one peak learning rate" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--smooth", "2M"], "--smooth = 2M: is for run logs; the paths hold run logs for --law"),
        (["--loss", "train"], "--loss"),
        (["--bootstrap", "5"], "takes 20 to 2,000 replicates. Nearest legal: 20"),
        (["--bootstrap", "5000"], "Nearest legal: 2000."),
        (["-o", "/nowhere/law.json"], "cannot be written"),
    ],
)
def test_what_the_law_does_not_look_at_is_refused(law: Path, words, says, capsys) -> None:
    assert call(["fit", str(law.parent / "runs.csv"), "--law", "schedule", *words]) in (3, 7)
    assert says in capsys.readouterr().err


def test_all_replicates_are_kept(law: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    logs = str(law.parent / "runs.csv")
    assert call(["fit", logs, "--law", "schedule", "--bootstrap", "90", "-o", str(path)]) == 0
    kept = ScheduleLaw.of_file(read_schedule_law(path))
    assert min(len(fit.bootstrap) for fit in kept.fits) > 80
    assert len(kept.draws().forms) == max(len(f.bootstrap) for f in kept.fits) * len(kept.fits)


def test_schedules_side_by_side(law: Path, tmp_path: Path, capsys) -> None:
    figure = tmp_path / "p.png"
    words = ["predict", "--law-file", str(law), "--batch", "0:512", "--batch", "0:256, 600K:1Ki"]
    assert call([*words, *RATE, "--plot", str(figure)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("0:256,600K:1Ki ends lowest, below 0:512 by 0.")
    assert figure.stat().st_size > 10_000
    assert call([*words, *RATE, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    plans = [known_plan(((0, 512),), 0), known_plan(((0, 256), (600_000, 1024)), 0)]
    true = KnownLaw(1).end_losses([plan.history() for plan in plans])[0]
    for one, value in zip(said["schedules"], true, strict=True):
        assert one["end"]["low"] < value < one["end"]["high"]
        assert one["curve"]["loss"][-1] == pytest.approx(one["end"]["value"], abs=0.005)
    assert said["verdict"] + "\n" in text


def test_a_config_and_a_run_under_way(law: Path, tmp_path: Path, capsys) -> None:
    """A run whose losses so far lie 0.05 above the law is predicted 0.05 higher."""
    config = tiny_config(
        tmp_path,
        name="grown",
        model=MODEL,
        train={"total_tokens": 1_000_000, "sequence_length": 32, "micro_batch_size": 1},
        batch={"schedule": "0: 256, 600K: 1Ki"},
        lr={"peak": 5e-3, "warmup_tokens": 50_000, "decay_tokens": 0},
        weight_decay={"value": 0.0},
    )
    content = config.model_dump(mode="json")
    path = tmp_path / "grown.yaml"
    path.write_text(yaml.safe_dump(content))
    assert call(["predict", "--law-file", str(law), str(path), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["schedules"][0]
    words = ["predict", "--law-file", str(law), "--batch", "0:256,600K:1Ki", *RATE, "--json"]
    assert call(words) == 0
    stated = json.loads(capsys.readouterr().out)["schedules"][0]
    assert planned["end"]["value"] == pytest.approx(stated["end"]["value"], abs=1e-3)


def test_a_command_line_of_megatron(law: Path, tmp_path: Path, capsys) -> None:
    """The same schedule from Megatron's arguments and from options; samples of 32 tokens."""
    script = tmp_path / "pretrain.sh"
    script.write_text(
        "torchrun pretrain_gpt.py --seq-length 32 --train-samples 31250 --lr 5e-3 "
        "--step-batch-size-schedule '0:8 600K:32' --lr-decay-style constant "
        "--lr-warmup-samples 1563 --weight-decay 0.1\n"
    )
    words = ["predict", "--law-file", str(law), "--batch", "0:256,600K:1Ki", *RATE]
    assert call([*words, "--megatron-args", str(script), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["schedules"]
    assert [one["name"] for one in said] == ["0:256,600K:1Ki", "pretrain"]
    assert said[1]["end"]["value"] == pytest.approx(said[0]["end"]["value"], abs=1e-3)
    assert said[1]["against_first"]["high"] < 0.005


def write_run(folder: Path, tokens: int, above: float) -> Path:
    """A run directory of `KnownLaw` with a batch of 256 under a decay of 200K, so far."""
    plan = known_plan(((0, 256),), 200_000)
    config = tiny_config(
        folder,
        name="under-way",
        model=MODEL,
        train={"total_tokens": 1_000_000, "sequence_length": 32, "micro_batch_size": 1},
        batch={"schedule": "0: 256"},
        lr={"peak": 5e-3, "warmup_tokens": 50_000, "decay_tokens": 200_000},
        weight_decay={"value": 0.3},
    )
    run = log(folder / "under-way", [256] * (tokens // 256))
    (run / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    with (run / "events.jsonl").open("a") as file:
        for at in range(128_000, tokens + 1, 12_800):
            values = KnownLaw(1).values
            loss = predict_history("power", values, plan.history(), [at], SCALES)[0][0, 0]
            event = {"kind": "evaluation", "step": at // 256, "tokens": at, "source": "web"}
            file.write(json.dumps(event | {"loss": loss + above}) + "\n")
    return run


def test_what_a_run_under_way_may_still_choose(law: Path, tmp_path: Path, capsys) -> None:
    """Losses 0.05 above the law move every choice by as much; their order is the law's."""
    run = write_run(tmp_path, 600_064, 0.05)
    words = ["predict", "--law-file", str(law), str(run)]
    then = ["--then", "keep", "--then", "1Ki", "--then", "keep; decay 350K", "--beyond-data"]
    assert call([*words, *then, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["schedules"]
    assert [one["name"] for one in said] == ["under-way", "keep", "1Ki", "keep; decay 350K"]
    plans = [
        known_plan(((0, 256),), 200_000),
        known_plan(((0, 256),), 200_000),
        known_plan(((0, 256), (600_064, 1024)), 200_000),
        known_plan(((0, 256),), 350_000),
    ]
    true = KnownLaw(1).end_losses([plan.history() for plan in plans])[0] + 0.05
    for one, value in zip(said, true, strict=True):
        assert one["end"]["value"] == pytest.approx(value, abs=0.01)
        assert one["measured_so_far"]["offset"] == pytest.approx(0.05, abs=0.01)
        assert one["end"]["low"] < value < one["end"]["high"]
    assert said[1]["against_first"]["value"] == pytest.approx(0, abs=1e-9)
    lowest = min(said, key=lambda one: one["end"]["value"])
    assert lowest["best"] == max(one["best"] for one in said)
    assert call([*words, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["schedules"][0]
    assert whole["end"] == said[0]["end"]
    assert call([*words, *then]) == 0
    shown = capsys.readouterr().out
    assert "nats above the law, by which the prediction is moved" in shown
    assert call([*words, "--then", "900K:512"]) == 2
    assert "goes beyond" in capsys.readouterr().err


def test_another_weight_decay_than_the_runs_is_warned_of(law: Path, tmp_path: Path, capsys) -> None:
    content = json.loads(law.read_text())
    content["weight_decay"] = 0.1
    other = tmp_path / "law.json"
    other.write_text(json.dumps(content))
    run = write_run(tmp_path, 300_032, 0.0)
    assert call(["predict", "--law-file", str(other), str(run)]) == 0
    said = "warning: under-way has weight decay 0.3, the law's runs have 0.1"
    assert said in capsys.readouterr().out


def test_predictions_are_held_against_their_runs(law: Path, tmp_path: Path, capsys) -> None:
    """Runs of the true law under names of schedules that were predicted before."""
    words = ["predict", "--law-file", str(law), "--batch", "0:512", "--batch", "0:256,600K:1Ki"]
    assert call([*words, *RATE, "--json"]) == 0
    text = capsys.readouterr().out
    written = tmp_path / "predictions.json"
    written.write_text(text)
    plans = [known_plan(((0, 512),), 0), known_plan(((0, 256), (600_000, 1024)), 0)]
    lines = ["run,tokens,batch_tokens,lr,validation_loss"]
    for plan, name in zip(plans, ("0:512", '"0:256,600K:1Ki"'), strict=True):
        for tokens in range(50_000, 1_000_001, 50_000):
            history = plan.scaled(tokens / 1e6).history() if tokens < 1e6 else plan.history()
            loss = KnownLaw(1).end_losses([history])[0][0]
            lines.append(f"{name},{tokens},512,0.005,{loss:.5f}")
    runs = tmp_path / "runs.csv"
    runs.write_text("\n".join(lines) + "\n")
    assert call(["predict", "--measured", str(written), str(runs)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 of 2 predicted ends hold the measured loss within the 90 % interval")
    assert "0:256,600K:1Ki against 0:512: predicted -0." in said
    assert call(["predict", "--measured", str(written), str(runs), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["schedules"]
    true = KnownLaw(1).end_losses([plan.history() for plan in plans])[0]
    assert [row["measured"] for row in rows] == pytest.approx(true, abs=1e-4)
    assert rows[1]["against_first"]["measured"] == pytest.approx(true[1] - true[0], abs=1e-4)
    runs.write_text("\n".join(lines[:30]) + "\n")
    assert call(["predict", "--measured", str(written), str(runs)]) == 3
    assert "of the 1,000,000 tokens predicted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batch", "0:64", *RATE], "outside what the law's runs have shown: a batch of 64"),
        (["--batch", "0:512", *RATE, "--decay", "900K"], "a decay over 0.9 of the run"),
        (["--batch", "0:512", "--lr", "5e-3"], "--tokens"),
        (["--batch", "0:512", "--tokens", "1M"], "need a peak"),
        (["--batch", "0:512, 2M:1Ki", *RATE], "after the end of the run"),
        ([], "says no schedule"),
        (["a.yaml", "--lr", "3e-3"], "--lr = 3e-3: means nothing beside configs, runs and"),
        (["--measured", "p.json", "--batch", "0:512"], "means nothing beside --measured"),
        (["gone.yaml"], "gone.yaml"),
        (["--batch", "0:512", *RATE, "--then", "keep"], "--then is about one run directory"),
        (["--measured", "p.json", "--then", "keep"], "means nothing beside --measured"),
        (["--megatron-args", "gone.sh"], "--megatron-args = gone.sh: cannot be read"),
        (["--batch", "0:512", "--batch", "0: 512", *RATE], "is given twice"),
    ],
)
def test_bad_words_are_one_message(law: Path, words, says, capsys) -> None:
    assert call(["predict", "--law-file", str(law), *words]) == 2
    assert says in capsys.readouterr().err


def test_what_was_not_seen_is_predicted_when_asked_for(law: Path, capsys) -> None:
    words = ["predict", "--law-file", str(law), "--batch", "0:64", *RATE, "--beyond-data"]
    assert call(words) == 0
    out = capsys.readouterr().out
    assert "0:64 is outside what the law's runs have shown: a batch of 64" in out


def test_another_law_file_is_refused(tmp_path: Path, capsys) -> None:
    path = tmp_path / "law.json"
    path.write_text('{"schema": "megascale.law/2"}')
    assert call(["predict", "--law-file", str(path), "--batch", "0:64", *RATE]) == 3
    assert "megascale fit RUNS --law schedule" in capsys.readouterr().err
