"""--explain: the same numbers as the trainer's own functions, and nothing started."""

from __future__ import annotations

import io
import json
import signal

import pytest
from rich.console import Console

from megascale.cli import main
from megascale.config import dump_yaml, load_config
from megascale.errors import LayoutError, ScheduleError
from megascale.plan.flops import flops_per_token
from megascale.train.explain import explain
from megascale.verbs.train_tables import print_explanation
from tests.tiny_run import log_of, run_ranks, signal_at, tiny_config

CONFIG = """
name: explained
model: {{preset: {models}/nano-moe.yaml}}
data:
  sources: {{a: {{path: /nowhere/a}}, b: {{path: /nowhere/b}}}}
  phases:
    - {{start_tokens: 0, mixture: {{a: 0.75, b: 0.25}}}}
    - {{start_tokens: 96_000, mixture: {{b: 1.0}}}}
train: {{total_tokens: 128_000, sequence_length: 64, micro_batch_size: 2}}
batch: {{schedule: "0: 1024, 33_000: 2048, 66_000: 4096", lr_coupling: sqrt}}
lr: {{kind: wsd, peak: 1.0e-3, warmup_tokens: 8K, decay_tokens: 32K, final_ratio: 0.1}}
weight_decay: {{value: 0.1, exclude: [norm, embedding], schedule: linear, end_value: 0.0}}
"""


@pytest.fixture
def path(tmp_path, repository):
    file = tmp_path / "run.yaml"
    file.write_text(CONFIG.format(models=repository / "configs" / "models"))
    return file


def test_segments_tile_the_run_and_carry_its_flops(path):
    config = load_config(path)
    report = explain(config, 2).to_dict()
    segments = report["batch_schedule"]["segments"]
    assert [s["batch_tokens"] for s in segments] == [1024, 2048, 4096]
    assert [s["micro_batches"] for s in segments] == [4, 8, 16]
    # Ceilings to whole steps of the batch before: 33 x 1024, then 16 x 2048 more.
    assert [s["start_tokens"] for s in segments] == [0, 33_792, 66_560]
    assert [s["requested_start_tokens"] for s in segments] == [0, 33_000, 66_000]
    assert segments[-1]["end_tokens"] == 128_000
    assert [s["lr_scale"] for s in segments] == pytest.approx([1, 2**0.5, 2])
    per_token = flops_per_token(config.model, 64).total
    assert report["flops"]["total"] == 128_000 * per_token
    assert report["flops"]["per_token"] == per_token
    assert sum(s["flops"] for s in segments) == report["flops"]["total"]


def test_landmarks_show_the_effective_learning_rate(path):
    marks = {m["name"]: m for m in explain(load_config(path), 1).to_dict()["landmarks"]}
    assert marks["start"]["lr"] == 0.0
    assert marks["warmup end"]["lr"] == pytest.approx(1e-3)
    assert marks["batch 2"]["lr"] == pytest.approx(1e-3 * 2**0.5)
    assert marks["decay start"]["tokens"] == 96_000
    assert marks["decay start"]["lr"] == pytest.approx(2e-3)
    assert marks["end"]["lr"] == pytest.approx(2e-4)
    assert marks["end"]["weight_decay"] == 0.0
    assert marks["weight decay middle"]["weight_decay"] == pytest.approx(0.05)
    assert marks["end"]["step"] == explain(load_config(path), 1).schedule.total_steps


def test_parameter_groups_cover_the_model_once(path):
    report = explain(load_config(path), 1).to_dict()
    groups = {group["kind"]: group for group in report["parameter_groups"]}
    assert sum(g["parameters"] for g in groups.values()) == report["parameters"]["total"]
    assert groups["embedding"]["parameters"] == 512 * 64
    assert groups["norm"]["tensors"] == 2 * 4 + 1
    assert {kind: group["decays"] for kind, group in groups.items()} == {
        "weight": True,
        "embedding": False,
        "norm": False,
    }


def test_phases_and_layout_and_memory(path):
    report = explain(load_config(path, ["parallel.expert=2", "parallel.data_mode=fsdp"]), 4)
    shown = report.to_dict()
    assert shown["layout"] == {
        "world_size": 4,
        "tensor": 1,
        "data": 4,
        "expert": 2,
        "data_mode": "fsdp",
        "hsdp_replicate": 1,
        "sequence_parallel": False,
    }
    assert [(p["start_tokens"], p["end_tokens"]) for p in shown["data_phases"]] == [
        (0, 96_000),
        (96_000, 128_000),
    ]
    assert shown["memory_per_rank"]["total_bytes"] == report.memory.total
    assert report.memory.total < explain(load_config(path), 4).memory.total
    assert (
        shown["config_digest"]
        == load_config(path, ["parallel.expert=2", "parallel.data_mode=fsdp"]).digest()
    )


def test_everything_shown_is_in_the_text(path):
    report = explain(load_config(path), 2)
    text = io.StringIO()
    print_explanation(report, Console(file=text, width=200))
    shown = text.getvalue()
    for word in ("33_792", "66.56K", "warmup end", "a 0.75, b 0.25", "routed experts", "AdamW"):
        assert word in shown, word
    assert f"{report.parameters.total:,}" in shown
    assert "total_tokens: 128K" in shown
    json.dumps(report.to_dict())


def test_epochs_and_what_lies_ahead_of_a_run(tmp_path, capsys):
    """From the checkpoint on, with the sources' share of the whole run."""
    config = tiny_config(tmp_path, name="half")
    assert run_ranks(config, prepare=signal_at(12, signal.SIGTERM)) == [75]
    file = tmp_path / "half.yaml"
    file.write_text(dump_yaml(config))
    with pytest.raises(SystemExit) as left:
        main(["train", str(file), "--explain", "--json"])
    assert left.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    tokens = log_of(config).records[-1]["tokens"]
    assert shown["stands_at"] == {"tokens": tokens, "step": 13}
    assert shown["batch_schedule"]["segments"][0]["start_tokens"] == tokens
    assert all(mark["tokens"] >= tokens for mark in shown["landmarks"])
    sources = {source["name"]: source for source in shown["sources"]}
    for name, share in (("web", 0.75 * 8192), ("code", 0.25 * 8192 + 2048)):
        chunk = config.data.chunk_tokens
        size = sources[name]["tokens"] // chunk * chunk
        assert sources[name]["epochs"] == pytest.approx(share / size, abs=2 * chunk / size)
    print_explanation(explain(config, 1, start=(tokens, 13)))
    assert "The run stands at" in capsys.readouterr().out


def test_illegal_configs_stop_here(path):
    with pytest.raises(ScheduleError, match="Nearest legal"):
        explain(load_config(path, ["batch.rounding=exact"]), 3)
    with pytest.raises(LayoutError, match=r"parallel\.tensor = 3"):
        explain(load_config(path, ["parallel.tensor=3"]), 3)
