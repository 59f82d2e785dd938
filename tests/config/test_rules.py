"""Refusals: one message with every problem, each naming key, value, rule and nearest legal."""

from __future__ import annotations

from typing import Any

import pytest

from megascale.config import build_config
from megascale.errors import ConfigError
from tests.config.documents import small

TWO_SOURCES = {"web": {"path": "w"}, "code": {"path": ["c1", "c2"]}}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    content = small()
    for key, value in changes.items():
        *sections, last = key.split(".")
        here = content
        for section in sections:
            here = here.setdefault(section, {})
        here[last] = value
    return content


def message(changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(changed(changes), origin="run.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trian": {}}, "trian: unknown key. Did you mean train?"),
        ({"train.totl_tokens": 5}, "Did you mean train.total_tokens?"),
        ({"optimizer.peak": 5}, "Did you mean lr.peak?"),
        ({"train.global_batch_size": 5}, "Did you mean batch.schedule (tokens, such as"),
        ({"train.learning_rate": 5}, "Did you mean lr.peak?"),
        ({"model.hiden_size": 5}, "Did you mean model.hidden_size?"),
        ({"model.prset": "x"}, "Did you mean model.preset?"),
        ({"data.sources": {"a": {"paht": "x"}}}, "Did you mean data.sources.a.path?"),
        ({"train.qqqqqq": 1}, "unknown key. Keys here: total_tokens"),
        ({"log.wandb": {"projct": "x"}}, "Did you mean log.wandb.project?"),
        ({"seed": 1.5}, "seed = 1.5: must be a whole number. Nearest legal: 1 or 2."),
        ({"seed": True}, "seed = True"),
        ({"train.total_tokens": "10m"}, "train.total_tokens = 10m: unknown suffix"),
        ({"train.micro_batch_size": 0}, "must be at least 1. Nearest legal: 1."),
        ({"train.micro_batch_size": True}, "must be a whole number"),
        ({"parallel.tensor": 0}, "must be at least 1. Nearest legal: 1."),
        ({"parallel.tensor": "2"}, "must be a whole number. Nearest legal: 2."),
        ({"parallel.data": 0}, "Nearest legal: -1 or 1."),
        ({"parallel.sequence_parallel": "yes"}, "true or false. Nearest legal: true."),
        ({"lr.kind": "wds"}, "Nearest legal: wsd."),
        ({"lr.peak": "1e-3"}, "lr.peak = 1e-3: must be a number. Nearest legal: 0.001."),
        ({"lr.peak": True}, "must be a number"),
        ({"lr.peak": -1.0}, "must be greater than 0"),
        ({"lr.peak": float("nan")}, "must be finite"),
        ({"lr.start_ratio": 1.5}, "must be at most 1.0. Nearest legal: 1.0."),
        ({"train.activation_checkpointing": "every_0"}, "must match"),
        ({"name": "a/b"}, "must match"),
        ({"name": 7}, "must be text"),
        ({"train": 5}, "train = 5: must be a section"),
        ({"weight_decay.exclude": ["norms"]}, "weight_decay.exclude.0 = norms"),
        ({"weight_decay.exclude": "norm"}, "must be a list"),
        ({"model.head_dim": 15}, "model.head_dim = 15: must be even"),
        ({"batch.schedule": "0: 2x"}, "unknown suffix 'x'"),
    ],
)
def test_keys_types_and_units(changes: dict[str, Any], said: str) -> None:
    text = message(changes)
    assert said in text
    assert text.startswith("run.yaml: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr.warmup_tokens": "11M"}, "lr.warmup_tokens = 11M: longer than the run of 10M"),
        (
            {"lr.decay_tokens": "9.5M"},
            "warmup 1M + decay 9.5M is longer than the run of 10M tokens. Nearest legal: 9M.",
        ),
        ({"lr.kind": "cosine"}, "kind cosine has no decay phase"),
        ({"lr.final_lr": 2e-3}, "must not exceed lr.peak"),
        ({"lr.final_lr": 1e-5, "lr.final_ratio": 0.2}, "final_ratio or final_lr, not both"),
        ({"lr.final_lr": 1e-5, "lr.decay_tokens": 0}, "no meaning without a decay"),
        ({"lr.decay_shape": "exponential", "lr.final_ratio": 0.0}, "never reaches 0"),
        ({"lr.kind": "inverse_sqrt", "lr.warmup_tokens": 0}, "time scale from the warmup"),
        ({"lr.kind": "inverse_sqrt", "lr.final_ratio": 0.9}, "the decay would rise"),
        ({"lr.kind": "power"}, "lr.power_exponent = None: is required for kind power"),
        ({"lr.power_exponent": -0.5}, "has meaning only for kind power"),
        ({"weight_decay.schedule": "linear"}, "weight_decay.end_value"),
        ({"weight_decay.end_value": 0.0}, "no meaning while weight_decay.schedule is constant"),
        ({"batch.schedule": None}, "exactly one of schedule, law"),
        ({"batch.megatron_steps": "0:8"}, "batch = schedule and megatron_steps"),
        ({"batch.schedule": "0: 64K, 10M: 64K"}, "at or after the end of the run"),
        ({"batch.schedule": "0: 64K, 3M: 64K, 2M: 64K"}, "starts must increase"),
        ({"batch.schedule": None, "batch.megatron_steps": "0:8 3M:9 2M:8"}, "batch.megatron_steps"),
        (
            {
                "batch.schedule": None,
                "batch.megatron_rampup": {
                    "start_samples": 8,
                    "increment_samples": 3,
                    "ramp_samples": 100,
                    "global_batch_samples": 16,
                },
            },
            "Nearest legal: 2 or 4",
        ),
        ({"batch.reference_tokens": "1M"}, "no meaning while batch.lr_coupling is constant"),
        (
            {"batch.schedule": None, "lr.decay_tokens": 0, "batch.remaining.initial_tokens": "64K"},
            "batch.remaining.max_tokens = None: without a decay",
        ),
        (
            {
                "batch.schedule": None,
                "lr.kind": "cosine",
                "lr.decay_tokens": 0,
                "batch.remaining.initial_tokens": "64K",
            },
            "Nearest legal: lr.kind: wsd",
        ),
        ({"batch.remaining.initial_tokens": "64K"}, "batch = schedule and remaining"),
        ({"train.total_tokens": 100}, "shorter than one micro-batch"),
        ({"train.sequence_length": "64Ki"}, "longer than model.max_position_embeddings = 32768"),
        ({"batch.schedule": "0: 64Ki @ 65536"}, "longer than model.max_position_embeddings"),
        ({"log.interval_steps": 5, "log.interval_tokens": 5}, "not both"),
        ({"log.interval_steps": None}, "logged at some interval"),
        ({"train.eval_interval_tokens": "1M"}, "data.validation names no source"),
        ({"data.eos_id": 3}, "data.mask_documents"),
        ({"moe_balance.window_tokens": 100}, "Nearest legal: 64 or 128"),
        ({"moe_balance.bias_update_per_million_tokens": 0.1}, "model.expert_bias = false"),
        ({"train.micro_batch_size": 2, "train.max_micro_batch_size": 1}, "Nearest legal: 2"),
        ({"train.expert_kernel": "loop"}, "routed experts only. Nearest legal: auto"),
        ({"train.moe_router_dtype": "fp32"}, "routed experts only. Nearest legal: precision"),
        (
            {"train.matmul_library": "onednn", "train.precision": "bf16"},
            "about fp32 products, and train.precision is bf16",
        ),
        ({"parallel.hsdp_replicate": 2}, "data_mode hsdp only"),
        ({"data.sources": TWO_SOURCES}, "data.phases: is required"),
    ],
)
def test_rules_between_keys(changes: dict[str, Any], said: str) -> None:
    text = message(changes)
    if "must divide the micro-batch" in said:
        assert "must divide the micro-batch" in text
        assert "Nearest legal: 128" in text
    else:
        assert said in text


def phases(*entries: tuple[Any, dict[str, float]]) -> dict[str, Any]:
    listed = [{"start_tokens": start, "mixture": mixture} for start, mixture in entries]
    return {"data.sources": TWO_SOURCES, "data.phases": listed}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (phases((0, {"web": 0.5, "code": 0.6})), "weights must sum to 1, not 1.1"),
        (phases((0, {"web": 3, "code": 1})), "Nearest legal: web: 0.75, code: 0.25"),
        (
            phases((0, {"web": 0.5, "cod": 0.5})),
            "no such source in data.sources. Nearest legal: code",
        ),
        (phases((5, {"web": 0.5, "code": 0.5})), "the first phase starts at 0"),
        (
            phases((0, {"web": 0.5, "code": 0.5}), (0, {"web": 1.0})),
            "must be after the phase before",
        ),
        (phases((0, {"web": 0.5, "code": 0.5}), ("10M", {"web": 1.0})), "must lie inside the run"),
        (phases((0, {"web": 1.0})), "data.sources.code"),
        (phases((0, {"web": 1.5, "code": -0.5})), "must be at least 0"),
    ],
)
def test_mixtures(changes: dict[str, Any], said: str) -> None:
    assert said in message(changes)


def test_weights_that_sum_up_to_rounding_are_taken() -> None:
    config = build_config(changed(phases((0, {"web": 1 / 3, "code": 2 / 3}))))
    assert config.data.phases[0].mixture["web"] == 1 / 3


def test_all_problems_come_in_one_message() -> None:
    text = message({"seed": -1, "trian": {}, "lr.kind": "wds", "train.precision": "fp16"})
    assert text.startswith("run.yaml: 4 problems\n")
    assert len(text.splitlines()) == 5
    text = message({"lr.decay_tokens": "20M", "batch.schedule": "0: 64K, 20M: 64K"})
    assert text.startswith("run.yaml: 2 problems\n")


def test_sections_are_immutable() -> None:
    config = build_config(small())
    with pytest.raises(ValueError, match="frozen"):
        config.train.total_tokens = 5  # type: ignore[misc]
