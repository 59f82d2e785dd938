"""Groups of parameters: kinds cover every model, patterns match something or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from megascale.config.optimizer_sections import ParameterGroupConfig
from megascale.config.parameter_groups import group_numbers, group_problems
from megascale.errors import ConfigError
from megascale.model.config import ModelConfig
from megascale.model.count import parameter_shapes
from megascale.model.kinds import KINDS, kind_of
from tests.tiny_run import MOE, tiny_config

NAMES = [
    name
    for name, _ in parameter_shapes(
        ModelConfig(
            **{**MOE, "tie_word_embeddings": False, "attention_bias": True},
            shared_expert_intermediate_size=8,
            shared_expert_gate=True,
        )
    )
]


def group(match: str, **settings) -> ParameterGroupConfig:
    return ParameterGroupConfig(match=match, **settings)


def test_every_kind_is_found_and_matrices_are_the_rest():
    by_kind = {kind: [name for name in NAMES if kind_of(name) == kind] for kind in KINDS}
    assert all(by_kind.values())
    assert sum(map(len, by_kind.values())) == len(NAMES)
    assert by_kind["embedding"] == ["model.embed_tokens.weight"]
    assert by_kind["head"] == ["lm_head.weight"]
    assert {name.rsplit(".", 2)[-2] for name in by_kind["qk_norm"]} == {"q_norm", "k_norm"}
    assert "model.norm.weight" in by_kind["norms"]
    assert {name.rsplit(".", 1)[-1] for name in by_kind["experts"]} == {"gate_up", "down"}
    assert all("proj" in name for name in by_kind["matrices"])
    assert all("gate.weight" in name for name in by_kind["router"])


def test_the_first_match_holds():
    groups = [group("model.layers.0.*"), group("router"), group("*")]
    found = group_numbers(NAMES, groups)
    assert found["model.layers.0.mlp.gate.weight"] == 0
    assert found["model.layers.1.mlp.gate.weight"] == 1
    assert found["lm_head.weight"] == 2
    assert not list(group_problems(NAMES, groups))


def test_a_group_without_parameters_is_refused_with_the_nearest_names():
    (error,) = group_problems(NAMES, [group("model.layers.9.mlp.gate.weight")])
    assert "model.layers.0.mlp.gate.weight" in str(error)
    (error,) = group_problems(NAMES, [group("embeddings")])
    assert "embedding" in str(error)
    (error,) = group_problems(NAMES, [group("*"), group("router")])
    assert "optimizer.groups.1.match" in str(error)
    assert "narrower" in str(error)


def test_a_config_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"optimizer\.groups\.0\.match"):
        tiny_config(tmp_path, optimizer={"groups": [{"match": "head"}]})
    with pytest.raises(ConfigError, match="not both"):
        tiny_config(tmp_path, optimizer={"beta2": 0.9, "beta2_half_life_tokens": 100})
    with pytest.raises(ConfigError, match="sgd has none"):
        tiny_config(tmp_path, optimizer={"name": "sgd", "eps": 1e-6})
    with pytest.raises(ConfigError, match="updated by sign"):
        tiny_config(
            tmp_path,
            optimizer={"name": "sign", "groups": [{"match": "router", "beta2": 0.5}]},
        )
