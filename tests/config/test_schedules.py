"""Schedules of a configured run: every source of batches, and what is asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megascale.config import RunConfig, load_config
from megascale.config.schedules import (
    batch_schedule_from_config,
    lr_schedule_from_config,
    phases_from_config,
    weight_decay_from_config,
)
from megascale.errors import ConfigError, DataError, ScheduleError
from megascale.formats.law_file import LawFile, write_law_file
from megascale.model.count import count_parameters
from tests.config.documents import small, write


def config(folder: Path, *overrides: str) -> RunConfig:
    return load_config(write(folder / "run.yaml", small()), overrides)


def law(folder: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "name": "toy",
        "version": "1",
        "form": "power",
        "output": "batch_tokens",
        "parameters": {"coef": {"value": 32.0}, "a": {"value": 0.0}, "b": {"value": 0.5}},
        "n_kind": "total",
        "d_kind": "consumed",
    }
    write_law_file(LawFile.model_validate(content | changes), folder / "law.json")
    return folder / "law.json"


def test_table(tmp_path: Path) -> None:
    schedule = batch_schedule_from_config(config(tmp_path), 4)
    assert [s.batch_tokens for s in schedule.segments] == [64_000, 131_072]
    assert schedule.source == {"kind": "schedule", "text": "0: 64K, 5M: 131_072"}


def test_remaining_tokens_set_the_batch(tmp_path: Path) -> None:
    run = config(tmp_path, "batch.remaining={initial_tokens: 64K, max_tokens: 256K}")
    decay = run.lr.decay_tokens
    assert 0 < decay < run.train.total_tokens
    schedule = batch_schedule_from_config(run, 4)
    assert [s.batch_tokens for s in schedule.segments] == [64_000, 128_000, 256_000]
    assert schedule.source["kind"] == "remaining"
    assert schedule.source["initial_tokens"] == 64_000
    starts = [s.requested_start_tokens / run.train.total_tokens for s in schedule.segments]
    assert starts == pytest.approx([0, 1 - 2**-0.5, 1 - 2**-1.5], abs=1e-6)


def test_law_is_followed_and_its_hash_kept(tmp_path: Path) -> None:
    path = law(tmp_path)
    run = config(tmp_path, f"batch.law={{file: {path}, interval_tokens: 1M, initial_tokens: 16Ki}}")
    schedule = batch_schedule_from_config(run, 2)
    assert len(schedule.segments) == 10
    for segment in schedule.segments[1:]:
        exact = 32 * segment.requested_start_tokens**0.5
        assert segment.requested_batch_tokens == round(exact)
        assert abs(segment.batch_tokens - exact) <= 256 / 2 + 0.5
    assert len(schedule.source["sha256"]) == 64
    assert schedule.source["outside_fitted_range"] == []


def test_law_file_is_found_beside_the_config(tmp_path: Path) -> None:
    law(tmp_path)
    content = small()
    del content["batch"]["schedule"]
    content["batch"]["law"] = {
        "file": "law.json",
        "interval_tokens": "1M",
        "initial_tokens": "16Ki",
    }
    run = load_config(write(tmp_path / "run.yaml", content))
    assert batch_schedule_from_config(run, 1).source["name"] == "toy"
    shipped = load_config(tmp_path / "run.yaml", ["batch.law.file=laws/step-law.json"])
    source = batch_schedule_from_config(
        shipped.model_copy(
            update={"batch": shipped.batch.model_copy(update={"max_rounding": 1.0})}
        ),
        1,
    ).source
    assert source["name"] == "step-law-batch"
    assert any("D = " in said for said in source["outside_fitted_range"])


def test_law_takes_n_from_the_model_and_must_give_a_batch(tmp_path: Path) -> None:
    parameters = {"coef": {"value": 1.0}, "a": {"value": 0.5}, "b": {"value": 0.0}}
    path = law(tmp_path, parameters=parameters)
    override = f"batch.law={{file: {path}, interval_tokens: 1M, initial_tokens: 16Ki}}"
    run = config(tmp_path, override, "batch.max_rounding=1.0")
    schedule = batch_schedule_from_config(run, 1)
    total = count_parameters(run.model).total
    assert schedule.source["n_params"] == total
    assert schedule.segments[-1].requested_batch_tokens == round(total**0.5)
    schedule = batch_schedule_from_config(config(tmp_path, override), 1, n_params=10**8)
    assert schedule.segments[-1].requested_batch_tokens == 10_000
    law(tmp_path, output="peak_lr")
    with pytest.raises(ConfigError, match="gives peak_lr, not a batch"):
        batch_schedule_from_config(config(tmp_path, override), 1)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"megascale\.law/2"):
        batch_schedule_from_config(config(tmp_path, override), 1)


def test_megatron_sources(tmp_path: Path) -> None:
    run = config(tmp_path, "batch.megatron_steps=0:64 1M:128")
    schedule = batch_schedule_from_config(run, 2)
    assert [s.batch_tokens for s in schedule.segments] == [64 * 128, 128 * 128]
    ramp = "start_samples: 16, increment_samples: 16, ramp_samples: 1K, global_batch_samples: 64"
    run = config(tmp_path, f"batch.megatron_rampup={{{ramp}}}")
    schedule = batch_schedule_from_config(run, 2)
    assert [s.batch_tokens // 128 for s in schedule.segments] == [16, 32, 48, 64]
    exact = config(tmp_path, f"batch.megatron_rampup={{{ramp}}}", "batch.rounding=exact")
    with pytest.raises(ScheduleError, match=r"batch\.megatron_rampup = 0: 2_048"):
        batch_schedule_from_config(exact, 5)


def test_sequence_growth_respects_sequence_parallel(tmp_path: Path) -> None:
    growth = ["batch.growth=sequence_length", "batch.schedule=0: 64K, 5M: 131_072"]
    free = batch_schedule_from_config(config(tmp_path, *growth), 2)
    assert free.segments[1].sequence_length == 262
    bound = batch_schedule_from_config(
        config(tmp_path, *growth, "parallel.tensor=4", "parallel.sequence_parallel=true"), 2
    )
    assert bound.segments[1].sequence_length == 264


def test_lr_weight_decay_and_phases(tmp_path: Path) -> None:
    run = config(
        tmp_path,
        "weight_decay={schedule: linear, value: 0.1, end_value: 0.0}",
        "data.phases=[{start_tokens: 0, mixture: {text: 1}},"
        " {start_tokens: 8M, mixture: {text: 1}}]",
    )
    assert lr_schedule_from_config(run).at(10_000_000) == pytest.approx(1e-4)
    assert weight_decay_from_config(run).at(5_000_000) == pytest.approx(0.05)
    assert [(p.start_tokens, p.end_tokens) for p in phases_from_config(run)] == [
        (0, 8_000_000),
        (8_000_000, 10_000_000),
    ]
