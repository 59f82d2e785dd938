"""Schedules for this trainer and for others: what loads back, and what cannot be said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from typer.testing import CliRunner

from megascale.cli import app
from megascale.config import load_config
from megascale.config.schedules import batch_schedule_from_config, lr_schedule_from_config
from megascale.errors import ScheduleError, UserError
from megascale.propose.export import export
from megascale.propose.export_megatron import CannotExport
from megascale.schedule.batch import BatchSchedule, build_batch_schedule
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import parse_table
from tests.config.documents import small, write
from tests.schedule.strategies import Case, cases


def built(table: str, total: int, **changes: object) -> BatchSchedule:
    layout: dict[str, object] = {"sequence_length": 256, "micro_batch_size": 1, "data_parallel": 2}
    return build_batch_schedule(
        parse_table(table),
        total_tokens=total,
        **(layout | changes),  # type: ignore[arg-type]
    )


def shape(schedule: BatchSchedule) -> list[tuple[int, ...]]:
    return [
        (s.start_tokens, s.end_tokens, s.batch_tokens, s.sequence_length, s.micro_batches, s.steps)
        for s in schedule.segments
    ]


@given(cases())
def test_yaml_asks_for_the_same_segments(case: Case) -> None:
    schedule = case.build()
    said = yaml.safe_load(export(schedule, "yaml"))
    again = build_batch_schedule(
        parse_table(said["batch"]["schedule"]),
        total_tokens=case.total_tokens,
        sequence_length=said["train"]["sequence_length"],
        micro_batch_size=said["train"]["micro_batch_size"],
        data_parallel=case.data_parallel,
        rounding=said["batch"]["rounding"],
    )
    assert shape(again) == shape(schedule)


@pytest.mark.parametrize("coupling", ["constant", "sqrt", "linear"])
def test_yaml_is_a_base_that_the_trainer_loads(tmp_path: Path, coupling: str) -> None:
    schedule = built("0:16K,2M:40K,5M:33K @ 512", 10_000_000, lr_coupling=coupling)
    lr = LRSchedule("wsd", 3e-3, 10_000_000, 100_000, 0.0, 1_000_000, "1-sqrt", 3e-4)
    text = export(schedule, "yaml", lr=lr, lr_coupling=coupling)  # type: ignore[arg-type]
    (tmp_path / "schedule.yaml").write_text(text, encoding="utf-8")
    base = small()
    base.pop("lr")
    write(tmp_path / "rest.yaml", base)
    whole = tmp_path / "run.yaml"
    whole.write_text("base: [rest.yaml, schedule.yaml]\n", encoding="utf-8")
    config = load_config(whole)
    again = batch_schedule_from_config(config, 2)
    assert shape(again) == shape(schedule)
    assert [s.lr_scale for s in again.segments] == pytest.approx(
        [s.lr_scale for s in schedule.segments]
    )
    assert lr_schedule_from_config(config) == lr


def test_olmo_core_takes_integer_ratios_under_the_root_only() -> None:
    sqrt = built("0:16Ki,2M:32Ki,5M:128Ki", 10_000_000, lr_coupling="sqrt")
    text = export(sqrt, "olmo-core", lr_coupling="sqrt")
    assert "batch_sizes=[16384, 32768, 131072]" in text
    assert "Duration.tokens(0), Duration.tokens(2015232)" in text
    with pytest.raises(CannotExport, match="integer ratios"):
        export(built("0:16Ki,2M:40Ki", 10_000_000), "olmo-core", lr_coupling="sqrt")
    with pytest.raises(CannotExport, match="--lr-coupling sqrt"):
        export(built("0:16Ki,2M:32Ki", 10_000_000), "olmo-core")


@pytest.mark.parametrize("to", ["torchtitan", "hf"])
def test_trainers_without_a_batch_schedule_say_so(to: str) -> None:
    with pytest.raises(CannotExport, match=r"no batch schedule .*one batch"):
        export(built("0:16Ki,2M:32Ki", 10_000_000), to)  # type: ignore[arg-type]


def test_one_batch_is_said_to_the_hugging_face_trainer() -> None:
    schedule = built("0:16Ki", 10_000_000)
    lr = LRSchedule("wsd", 3e-3, 10_000_000, 163_840, 0.0, 1_638_400, "linear", 3e-4)
    said = json.loads(export(schedule, "hf", lr=lr))
    assert said["gradient_accumulation_steps"] == 32
    assert said["max_steps"] == schedule.total_steps
    assert said["warmup_steps"] == 10
    assert said["lr_scheduler_kwargs"]["num_decay_steps"] == 100
    assert said["lr_scheduler_kwargs"]["min_lr_ratio"] == pytest.approx(0.1)
    shaped = LRSchedule("wsd", 3e-3, 10_000_000, 0, 0.0, 10**6, "exponential", 3e-4)
    with pytest.raises(CannotExport, match="exponential"):
        export(schedule, "hf", lr=shaped)


def test_one_batch_is_said_to_torchtitan() -> None:
    text = export(built("0:16Ki", 10_000_000), "torchtitan")
    assert "num_tokens_per_train_step = 16384" in text
    assert "num_tokens_per_microbatch_per_dp_rank = 256" in text


def test_batches_can_be_multiples_of_a_number_of_sequences() -> None:
    schedule = built("0:16K,2M:40K", 10_000_000, batch_multiple=24, max_rounding=0.5)
    assert [s.batch_tokens // 256 % 24 for s in schedule.segments] == [0, 0]
    assert [s.micro_batches * 2 * 256 for s in schedule.segments] == [
        s.batch_tokens for s in schedule.segments
    ]
    with pytest.raises(ScheduleError, match="and of 24 sequences"):
        built("0:16K", 10_000_000, batch_multiple=24, rounding="exact")


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["schedule", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


PAPER = ("--table", "0:2M,125B:4M,250B:5M,375B:6M", "--tokens", "500B", "--dp", "64")


def test_command_shows_requested_and_realised_and_steps() -> None:
    text = run(*PAPER, "--fixed", "4M")
    assert "137,223 steps" in text
    assert "+4.86%" in text
    assert "fewer steps than 125,000 at a fixed 4M" in text or "more steps than 125,000" in text
    assert "only steps are compared" in text


def test_command_json_and_file(tmp_path: Path) -> None:
    file = tmp_path / "schedule.yaml"
    found = json.loads(
        run(*PAPER, "--json", "--export", "yaml", "-o", str(file)).split("\n}")[0] + "\n}"
    )
    assert [s["requested_batch_tokens"] for s in found["segments"]] == [2e6, 4e6, 5e6, 6e6]
    assert yaml.safe_load(file.read_text())["train"]["total_tokens"] == "500B"


def test_command_follows_a_law_and_carries_its_interval(repository: Path) -> None:
    law = str(repository / "configs/laws/step-law.json")
    words = ("--law-file", law, "--tokens", "80B", "--interval", "20B", "--initial", "256Ki")
    found = json.loads(run(*words, "--momentum", "0.5", "--dp", "4", "--json"))
    segments = found["segments"]
    assert segments[0]["batch_band_tokens"] is None
    expected = 262_144.0
    for segment in segments[1:]:
        expected += 0.5 * (0.58 * segment["requested_start_tokens"] ** 0.571 - expected)
        assert segment["requested_batch_tokens"] == round(expected)
        low, high = segment["batch_band_tokens"]
        assert low <= segment["requested_batch_tokens"] <= high
    assert found["source"]["sha256"]
    assert "best for the whole budget" in found["fixed_batches"][0]["meaning"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tokens", "1B"), "exactly one of"),
        (("--table", "0:2M", "--law-file", "x", "--tokens", "1B"), "exactly one of"),
        (("--table", "0:2M"), "--tokens"),
        (("--table", "0:2M", "--tokens", "1B", "-o", "x"), "give --export"),
        (("--table", "0:2M", "--tokens", "1B", "--export", "yaml", "--decay", "1M"), "--lr"),
        (("--table", "0:2M", "--tokens", "1B", "--export", "yaml", "--lr", "-1"), "peak"),
        (("--megatron-rampup", "1 1 9", "--tokens", "1B"), "--global-batch-size"),
        (("--megatron-steps", "0:2", "--tokens", "1B", "--dp", "4"), "Nearest legal: 4"),
    ],
)
def test_command_refusals(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        CliRunner().invoke(app, ["schedule", *words], catch_exceptions=False)
