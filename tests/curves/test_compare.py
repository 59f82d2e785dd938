"""Runs with known losses, compared; and real logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from megascale.cli import app
from megascale.curves.compare import compare_curves
from megascale.curves.curve import Curve, RecordCounts
from megascale.curves.reach import Reach, reach
from megascale.curves.table import curves_of_logs
from megascale.errors import ConfigError, DataError
from megascale.runs.table import load_runs
from tests.propose.test_replan import log

TOTAL = 1e9


def law(scale: float, power: float, shift: float = 0.0) -> Curve:
    """A run with loss 2 + scale tokens^-power, 400 records, batch of 1M, a step a second."""
    after = np.linspace(TOTAL / 400, TOTAL, 400)
    tokens = after - TOTAL / 800
    unknown = np.full(400, np.nan)
    clock = RecordCounts(after, after / 1e6, after / 1e6, np.full(400, 1e6))
    loss = 2 + scale * tokens**-power + shift
    return Curve(f"{scale:g}", tokens, loss, unknown, end=TOTAL, clock=clock)


def test_known_curves() -> None:
    a, b = law(50.0, 0.2), law(40.0, 0.2)
    found = compare_curves(a, b, losses=[2.5])
    for row in found.at_tokens:
        assert row.loss_a == pytest.approx(2 + 50 * row.tokens**-0.2, rel=1e-3)
        assert row.difference == pytest.approx(-10 * row.tokens**-0.2, rel=0.02)
        assert row.seconds_a == row.steps_a == pytest.approx(row.tokens / 1e6)
    (equal,) = compare_curves(a, b, losses=[2.9]).at_loss
    assert equal.tokens_a == pytest.approx((50 / 0.9) ** 5, rel=0.01)
    assert equal.tokens_ratio == pytest.approx(0.8**5, rel=0.01)
    assert found.crossings == ()
    few = compare_curves(a, b, rows=5)
    assert (len(few.at_tokens), len(few.at_loss)) == (5, 5)
    assert len(compare_curves(a, b, losses=3).at_loss) == 3


def test_losses_are_reached_where_the_curves_say() -> None:
    a, b = law(50.0, 0.2), law(40.0, 0.2)
    for row in compare_curves(a, b).at_loss:
        for curve, tokens in ((a, row.tokens_a), (b, row.tokens_b)):
            found = reach(curve, row.loss)
            assert isinstance(found, Reach)
            assert found.tokens == tokens
    lowest = compare_curves(a, b).at_loss[-1]
    assert lowest.loss == pytest.approx(max(a.final, b.final))


def test_stated_losses_come_in_order_and_none_is_dropped() -> None:
    a, b = law(50.0, 0.2), law(40.0, 0.2)
    found = compare_curves(a, b, losses=[2.85, 1.0, 2.9, 99.0, 2.85])
    assert [row.loss for row in found.at_loss] == [2.9, 2.85]
    assert found.not_reached == (99.0, 1.0)
    assert compare_curves(a, b).not_reached == ()


def test_crossing_is_found_where_it_is() -> None:
    tokens = 3e8
    a = law(50.0, 0.2)
    b = law(50.0 * tokens**0.1, 0.3)
    (found,) = compare_curves(a, b).crossings
    assert found.tokens == pytest.approx(tokens, rel=0.01)
    assert found.second_leads
    (mirrored,) = compare_curves(b, a).crossings
    assert mirrored.tokens == pytest.approx(found.tokens)
    assert not mirrored.second_leads


def test_runs_without_anything_in_common() -> None:
    a = law(50.0, 0.2)
    late = Curve("late", a.tokens + 2 * TOTAL, a.loss, a.error)
    with pytest.raises(DataError, match="no tokens in common"):
        compare_curves(a, late)
    assert compare_curves(a, law(50.0, 0.2, 100.0)).at_loss == ()


def invoked(*words: str | Path) -> str:
    result = CliRunner().invoke(app, ["compare", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def found(*words: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["compare", *map(str, words), "--json"])
    assert result.exit_code == 0
    return json.loads(result.stdout)  # warnings go to standard error


def test_own_logs_and_the_command(tmp_path: Path) -> None:
    one, two = log(tmp_path / "one", [64] * 40), log(tmp_path / "two", [64] * 10 + [128] * 15)
    kind, (_, curve) = curves_of_logs(
        [load_runs([one], cache=False), load_runs([two], cache=False)]
    )
    assert (kind, curve.loss_kind) == ("train", "interval_mean")
    assert curve.last == 640 + 15 * 128
    # the loss of a step is that of the model before it, whatever its batch
    assert curve.placed is not None
    assert (curve.placed.tokens[10], curve.placed.tokens[11]) == (640, 640 + 128)
    assert curve.clock is not None
    assert curve.clock.seconds[-1] == 25
    assert (curve.clock.batch[9], curve.clock.batch[10]) == (64, 128)
    plot = tmp_path / "figure.svg"
    shown = invoked(one, two, "--plot", plot)
    assert "At equal tokens" in shown
    assert "train losses (interval_mean), averaged over windows of 5 % of the tokens" in shown
    assert "batch 64 > 128" in shown
    assert plot.stat().st_size > 1000
    document = found(one, two)
    assert document["schema"] == "megascale.compare/2"
    assert document["smoothing"] == {"kind": "log", "size": 0.05}
    last = document["comparisons"][0]["at_tokens"][-1]
    assert last["tokens"] == 2560
    assert (last["steps_a"], last["steps_b"]) == (40, 25)
    assert (last["seconds_a"], last["seconds_b"]) == (40, 25)
    with pytest.raises(DataError, match=r"\.png"):
        invoked(one, two, "--plot", "x.nothing")
    with pytest.raises(DataError, match="no such file"):
        invoked(one, tmp_path / "none")
    with pytest.raises(DataError, match="needs 3 train losses"):
        invoked(one, log(tmp_path / "short", [64]), "--loss", "train")
    with pytest.raises(ConfigError, match="needs two runs"):
        invoked(one)


def evaluated(folder: Path, at: list[int], source: str = "web") -> Path:
    """A run of 40 steps of 64 tokens with evaluations after some of them."""
    path = log(folder, [64] * 40)
    with (path / "events.jsonl").open("a") as file:
        for step in at:
            event = {"kind": "evaluation", "step": step, "tokens": 64 * step, "source": source}
            file.write(json.dumps({**event, "loss": 4 - step / 40}) + "\n")
    return path


def test_validation_losses_where_all_runs_have_enough(tmp_path: Path) -> None:
    many = evaluated(tmp_path / "many", list(range(4, 41, 4)))
    again = evaluated(tmp_path / "again", list(range(5, 41, 5)))
    few = evaluated(tmp_path / "few", [20, 40])
    document = found(many, again)
    assert document["loss"] == "validation"
    row = document["comparisons"][0]["at_tokens"][-1]
    assert (row["tokens"], row["loss_a"], row["error"]) == (2560, pytest.approx(3), None)
    assert row["seconds_a"] == 40  # the steps' own clock
    assert "evaluations as they are" in invoked(many, again)
    assert found(many, again, "--loss", "train")["loss"] == "train"
    assert found(many, few)["loss"] == "train"
    with pytest.raises(DataError, match="needs 3 validation losses"):
        invoked(many, few, "--loss", "validation")
    plain = log(tmp_path / "plain", [64] * 40)
    with pytest.raises(DataError, match="plain = 0 losses: needs 3 validation losses"):
        invoked(many, plain, "--loss", "validation")
    with pytest.raises(ConfigError, match="validation:SET"):
        invoked(many, few, "--loss", "eval")


def test_more_runs_than_two_and_some_of_a_tree(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        evaluated(tmp_path / "tree" / name, list(range(4, 41, 4)))
    shown = invoked(tmp_path / "tree", "--plot", tmp_path / "three.png")
    assert shown.count("/tree/") == 0
    assert [line.split()[:2] for line in shown.splitlines() if " 2.56K " in f" {line} "] == [
        [letter, letter.lower()] for letter in "ABC"
    ]
    document = found(tmp_path / "tree", "--run", "c", "--run", "[ab]")
    assert [run["name"] for run in document["runs"]] == ["c", "a", "b"]
    assert [one["a"] for one in document["comparisons"]] == ["c", "c"]
    stated = invoked(tmp_path / "tree", "--target-loss", "3.4,3.2,1.0")
    assert stated.count("3.4000") == stated.count("3.2000") == 2
    assert stated.count("not reached by both") == 2
    with pytest.raises(ConfigError, match=r"--run = bb: .* Nearest legal: b"):
        invoked(tmp_path / "tree", "--run", "a", "--run", "bb")


def test_runs_of_one_name_keep_the_order_that_is_asked_for(tmp_path: Path) -> None:
    for name in ("one/x", "two/x", "two/y"):
        log(tmp_path / name, [64] * 40)
    paths = tmp_path / "one" / "x", tmp_path / "two"
    document = found(*paths, "--run", "x", "--run", "y")
    assert [run["name"].rsplit("/", 2)[-1] for run in document["runs"]] == ["x", "x", "y"]


def test_a_log_without_records_is_named(tmp_path: Path) -> None:
    one, two = (log(tmp_path / name, [64] * 40) for name in ("one", "two"))
    metrics = two / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    with pytest.raises(DataError, match="two = no records"):
        invoked(one, two)


STEPS = "".join(
    f"step:{step}/200 val_loss:{8 - step / 50} train_time:{step * 100}ms step_avg:1ms\n"
    for step in range(0, 201, 10)
)


def test_batches_are_stated_for_all_runs_or_one_by_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    for path in (first, second):
        path.write_text(STEPS)
    with pytest.raises(DataError, match="no consumed tokens; state its batch"):
        invoked(first, second)
    document = found(first, second, "--batch-tokens", "1Ki", "--batch-tokens", "0:512,100:2Ki")
    assert [run["tokens"] for run in document["runs"]] == [204_800, 51_200 + 204_800]
    (row,) = found(first, second, "--batch-tokens", "1Ki", "--rows", "1")["comparisons"][0][
        "at_tokens"
    ]
    assert (row["steps_b"], row["seconds_b"]) == (200, pytest.approx(20))
    with pytest.raises(ConfigError, match="is stated 3 times for 2 paths"):
        invoked(first, second, *["--batch-tokens", "1K"] * 3)
    for wrong in ("5:1K", "0:1K,0:2K", "0:1K,10:0"):
        with pytest.raises(ConfigError, match="--batch-tokens"):
            invoked(first, second, "--batch-tokens", wrong)


def test_the_speed_run_with_and_without_a_batch_schedule(shared_data: Path) -> None:
    folder, stem = shared_data / "modded_nanogpt", "2025-11-29_BatchSizeSchedule_val_every_five"
    document = found(
        folder / f"{stem}_before.txt.gz",
        folder / f"{stem}_after.txt.gz",
        *["--batch-tokens", "262144", "--batch-tokens", "0:131072,707:262144,1413:393216"],
        *["--target-loss", "4.0,3.28"],
    )
    assert document["loss"] == "validation"
    (one,) = document["comparisons"]
    assert one["at_tokens"][-1]["difference"] == pytest.approx(-0.0107, abs=2e-4)
    saved = [1 - row["tokens_ratio"] for row in one["at_loss"]]
    assert saved == pytest.approx([0.167, 0.022], abs=4e-3)
    # the log's own clock: 138.9 s and 136.4 s in all
    assert one["at_loss"][-1]["seconds_a"] == pytest.approx(138.4, abs=0.3)
    assert one["at_loss"][-1]["seconds_b"] == pytest.approx(136.0, abs=0.3)


def test_real_logs_of_other_formats(shared_data: Path) -> None:
    logs = sorted((shared_data / "megatron_logs").glob("datablations*"))
    (one,) = found(*logs, "--loss", "train")["comparisons"]
    last = one["at_tokens"][-1]
    assert last["tokens"] == 1_101_004_800
    assert last["steps_a"] == 4200
    assert 13_000 < last["seconds_a"] < 15_000  # 4,200 iterations of 3.2 to 3.4 s
    constant, cosine = (
        shared_data / "multipowerlaw" / "csv_25" / f"{name}_24000.csv"
        for name in ("constant", "cosine")
    )
    (one,) = found(constant, cosine, "--batch-tokens", "512Ki")["comparisons"]
    assert one["final_a"] - one["final_b"] == pytest.approx(0.043, abs=2e-3)
    (one,) = found(shared_data / "wandb_json", "--batch-samples", "100", "--seq-length", "512")[
        "comparisons"
    ]
    assert one["at_tokens"][-1]["tokens"] == 2_549_760_000
