"""The section `init`: what is refused, and what its factors are for a whole run."""

from __future__ import annotations

from typing import Any

import pytest

from megascale.config import build_config, dump_yaml
from megascale.config.init_section import branch_multiplier, parameter_scalings, scaled_beta
from megascale.config.load import load_config
from megascale.errors import ConfigError
from megascale.model.count import parameter_shapes

MODEL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def run(init: dict[str, Any], **sections: Any):
    content = {
        "model": MODEL,
        "data": {
            "sources": {"a": {"path": "a"}},
            "phases": [{"start_tokens": 0, "mixture": {"a": 1.0}}],
        },
        "train": {"total_tokens": 10_000, "sequence_length": 32},
        "batch": {"schedule": "0: 128"},
        "lr": {"peak": 1e-3, "warmup_tokens": 0},
        "init": init,
    }
    return build_config({**content, **sections})


MUP = {"kind": "mup", "base_width": 32}
WHOLE = {"kind": "completep", "base_width": 32, "base_depth": 2}


@pytest.mark.parametrize(
    ("init", "sections", "words"),
    [
        ({"base_width": 32}, {}, ["init.base_width", "standard", "null"]),
        ({"kind": "mup"}, {}, ["init.base_width", "needs"]),
        ({"kind": "completep", "base_width": 32}, {}, ["init.base_depth", "needs"]),
        ({**MUP, "base_depth": 2}, {}, ["init.base_depth", "completep"]),
        ({**MUP, "depth_exponent": 0.5}, {}, ["init.depth_exponent", "1.0"]),
        ({**MUP, "base_expert_width": 8}, {}, ["init.base_expert_width", "no routed experts"]),
        (MUP, {"optimizer": {"name": "muon"}}, ["optimizer.name", "adamw"]),
        ({**MUP, "base_batch_tokens": 64}, {}, ["init.base_total_tokens", "both or neither"]),
        (
            {**MUP, "base_batch_tokens": 64, "base_total_tokens": 5000},
            {"batch": {"schedule": "0: 128, 5000: 256"}},
            ["init.base_batch_tokens", "one batch"],
        ),
        (
            {**MUP, "base_batch_tokens": 64, "base_total_tokens": 5000},
            {"optimizer": {"beta2_half_life_tokens": 1000}},
            ["optimizer.beta2_half_life_tokens"],
        ),
        (
            {**MUP, "base_batch_tokens": 8, "base_total_tokens": 10_000},
            {},
            ["init.base_batch_tokens", "exceed 1", "13"],
        ),
    ],
)
def test_keys_without_meaning_are_refused(init, sections, words) -> None:
    with pytest.raises(ConfigError) as caught:
        run(init, **sections)
    for word in words:
        assert word in str(caught.value)


def test_the_nearest_legal_base_batch_is_legal() -> None:
    assert run({**MUP, "base_batch_tokens": 13, "base_total_tokens": 10_000})


def test_a_config_keeps_its_parametrization(tmp_path) -> None:
    config = run(WHOLE)
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(config))
    assert load_config(file) == config


def test_batch_and_duration_correct_rates_and_betas() -> None:
    """Half the base's batch over twice its tokens: b / t = 1/4."""
    config = run({**MUP, "base_batch_tokens": 256, "base_total_tokens": 5000})
    plain, names = run(MUP), [name for name, _ in parameter_shapes(run(MUP).model)]
    corrected, before = parameter_scalings(names, config), parameter_scalings(names, plain)
    for name in names:
        assert corrected[name].lr == pytest.approx(before[name].lr / 2)
        assert corrected[name].weight_decay == pytest.approx(before[name].weight_decay / 2)
        assert corrected[name].eps == pytest.approx(before[name].eps * 2)
    assert scaled_beta(0.9, config) == pytest.approx(0.975)
    assert scaled_beta(0.9, plain) == 0.9


def test_branches_go_with_one_over_the_depth() -> None:
    assert branch_multiplier(run(WHOLE)) == 0.5
    assert branch_multiplier(run({**WHOLE, "depth_exponent": 0.5})) == pytest.approx(2**-0.5)
    assert branch_multiplier(run(MUP)) == 1.0
