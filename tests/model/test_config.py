"""The published shapes, the rules, and the hub's config.json in and out."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from megascale.errors import ConfigError
from megascale.model.config import ModelConfig, nearest_divisors, read_model_config
from megascale.model.count import count_parameters, parameter_shapes
from megascale.model.qwen3 import Qwen3

# Published config.json values, in the order of KEYS, then what the model cards say:
# total, active and non-embedding parameters in units of 1e9, as printed there.
KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
    "moe_intermediate_size",
)
PUBLISHED = {
    "qwen3-0.6b": ((1024, 3072, 28, 16, 8, True, 0), ("0.6", None, "0.44")),
    "qwen3-1.7b": ((2048, 6144, 28, 16, 8, True, 0), ("1.7", None, "1.4")),
    "qwen3-4b": ((2560, 9728, 36, 32, 8, True, 0), ("4.0", None, "3.6")),
    "qwen3-8b": ((4096, 12288, 36, 32, 8, False, 0), ("8.2", None, "6.95")),
    "qwen3-14b": ((5120, 17408, 40, 40, 8, False, 0), ("14.8", None, "13.2")),
    "qwen3-32b": ((5120, 25600, 64, 64, 8, False, 0), ("32.8", None, "31.2")),
    "qwen3-30b-a3b": ((2048, 6144, 48, 32, 4, False, 768), ("30.5", "3.3", "29.9")),
    "qwen3-235b-a22b": ((4096, 12288, 94, 64, 4, False, 1536), ("235", "22", "234")),
}
EVERYWHERE = {
    "vocab_size": 151936,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "attention_bias": False,
}
IN_EVERY_MOE = {
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": (),
}
SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SMALL_MOE = SMALL | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def preset_names(repository):
    return sorted((repository / "configs" / "models").rglob("*.yaml"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_hold_the_published_values(name, repository):
    config = read_model_config(repository / "configs" / "models" / f"{name}.yaml")
    values, _ = PUBLISHED[name]
    expected = EVERYWHERE | dict(zip(KEYS, values))
    if config.is_moe:
        expected |= IN_EVERY_MOE
    assert {key: getattr(config, key) for key in expected} == expected
    assert config.is_moe == (values[-1] > 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_of_the_model_cards(name, repository):
    count = count_parameters(read_model_config(repository / f"configs/models/{name}.yaml"))
    _, (total, active, non_embedding) = PUBLISHED[name]

    def printed(parameters, card):
        # 3.35 billion is printed as 3.3 on the card: cards truncate or round, so allow a unit.
        unit = 10.0 ** -len(card.partition(".")[2])
        return abs(parameters / 1e9 - float(card)) < 0.6 * unit

    assert printed(count.total, total)
    assert printed(count.non_embedding, non_embedding)
    assert printed(count.active, active or total)


def test_counts_are_those_of_transformers(repository):
    for path in preset_names(repository):
        config = read_model_config(path)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(_hf_config(config))
        elements = sum(parameter.numel() for parameter in model.parameters())
        assert count_parameters(config).total == elements, path.name


def test_counts_and_shapes_are_those_of_our_model(repository):
    for path in preset_names(repository):
        config = read_model_config(path)
        with torch.device("meta"):
            model = Qwen3(config)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        assert shapes == dict(parameter_shapes(config)), path.name


def test_active_counts_leave_out_the_experts_not_chosen():
    config = ModelConfig(**SMALL_MOE, decoder_sparse_step=2, shared_expert_intermediate_size=48)
    count = count_parameters(config)
    one_expert = 3 * config.hidden_size * config.moe_intermediate_size
    assert config.moe_layers == (1, 3)
    assert count.total - count.active == 2 * (8 - 2) * one_expert
    assert sum(part.parameters for part in count.components) == count.total
    assert sum(part.active for part in count.components) == count.active


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [("papers/moe-4b-a538m", 4e9, 538e6), ("papers/dense-2b", 2e9, None)],
)
def test_the_papers_models_have_the_stated_sizes(name, total, active, repository):
    count = count_parameters(read_model_config(repository / f"configs/models/{name}.yaml"))
    assert abs(count.total / total - 1) < 0.02
    if active:
        assert abs(count.active / active - 1) < 0.01


def _hf_config(config):
    values = config.to_hf()
    family = {"qwen3": Qwen3Config, "qwen3_moe": Qwen3MoeConfig}[values["model_type"]]
    return family(**values)


def test_every_preset_survives_the_hub_format(repository, tmp_path):
    for path in preset_names(repository):
        config = read_model_config(path)
        (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
        hf = AutoConfig.from_pretrained(tmp_path)
        assert read_model_config(tmp_path) == config, path.name
        assert hf.rope_parameters["rope_theta"] == config.rope_theta
        assert hf.head_dim == config.head_dim
        # What transformers writes back (its own spelling) means the same model.
        again = tmp_path / "again"
        hf.save_pretrained(again)
        assert read_model_config(again) == config, path.name


def test_moe_layers_follow_transformers(tmp_path):
    config = ModelConfig(**SMALL_MOE, decoder_sparse_step=2, mlp_only_layers=(3,))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_hf_config(config))
    routed = tuple(i for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "experts"))
    assert routed == config.moe_layers == (1,)


BROKEN = [
    ({"num_key_value_heads": 3}, ["num_key_value_heads = 3", "divide", "2 or 4"]),
    ({"num_key_value_heads": 8}, ["num_key_value_heads = 8", "Nearest legal: 4"]),
    ({"head_dim": 15}, ["head_dim = 15", "even", "14 or 16"]),
    ({"hidden_size": 0}, ["hidden_size = 0", "at least 1"]),
    ({"hidden_act": "gelu"}, ["hidden_act = gelu", "silu"]),
    ({"rms_norm_eps": 0.0}, ["rms_norm_eps", "positive"]),
    ({"num_experts_per_tok": 2}, ["num_experts_per_tok = 2", "dense model", "Nearest legal: 0"]),
    ({"expert_bias": True}, ["expert_bias = True", "dense model"]),
    ({"num_experts": -1}, ["num_experts = -1", "at least 0"]),
]
BROKEN_MOE = [
    ({"num_experts_per_tok": 9}, ["num_experts_per_tok = 9", "Nearest legal: 8"]),
    ({"num_experts_per_tok": 0}, ["Nearest legal: 1"]),
    ({"moe_intermediate_size": 0}, ["moe_intermediate_size = 0", "at least 1"]),
    ({"mlp_only_layers": (4,)}, ["layer 4 does not exist", "Nearest legal: 3"]),
    ({"mlp_only_layers": (2, 1)}, ["ascending", "[1, 2]"]),
    ({"mlp_only_layers": (0, 1, 2, 3)}, ["no MoE layer"]),
    ({"decoder_sparse_step": 5}, ["no MoE layer"]),
    ({"shared_expert_gate": True}, ["no shared expert", "Nearest legal: False"]),
]


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_illegal_shapes_name_key_value_rule_and_nearest(change, words):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**SMALL | change)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("change", "words"), BROKEN_MOE)
def test_illegal_moe_shapes(change, words):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**SMALL_MOE | change)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unknown_keys_and_wrong_types_are_refused():
    with pytest.raises(ValidationError, match="hiden_size"):
        ModelConfig(**SMALL, hiden_size=64)
    with pytest.raises(ValidationError, match="hidden_size"):
        ModelConfig(**SMALL | {"hidden_size": 64.5})
    with pytest.raises(ValidationError, match="tie_word_embeddings"):
        ModelConfig(**SMALL, tie_word_embeddings="yes")


REFUSED = [
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "scaled rotary"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "scaled rotary"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "rope_parameters says 5.0"),
    ({"use_sliding_window": True, "sliding_window": 4096}, "sliding-window"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
    ({"attention_dropout": 0.1}, "dropout"),
    ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "only Qwen3"),
    ({"architectures": ["Qwen3ForSequenceClassification"]}, "only Qwen3"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    ({"head_dims": 32}, "Nearest legal: head_dim"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_hub_configs_that_mean_another_model_are_refused(change, words):
    hf = ModelConfig(**SMALL).to_hf()
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_hf(hf | change)
    assert words in str(caught.value)


def test_a_hub_config_without_a_width_is_refused():
    hf = ModelConfig(**SMALL).to_hf()
    del hf["hidden_size"]
    with pytest.raises(ConfigError, match="lacks hidden_size"):
        ModelConfig.from_hf(hf)


def test_defaults_left_out_of_a_hub_config_are_those_of_transformers(tmp_path):
    for family in (Qwen3Config, Qwen3MoeConfig):
        hf = family(num_attention_heads=64)
        sparse = {
            key: value
            for key, value in hf.to_dict().items()
            if key
            in {
                "model_type",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
            }
        }
        config = ModelConfig.from_hf(sparse)
        for key in set(ModelConfig.model_fields) & set(hf.to_dict()):
            theirs = getattr(hf, key)
            assert getattr(config, key) == (tuple(theirs) if key == "mlp_only_layers" else theirs)


def test_parts_that_transformers_lacks_are_not_exported():
    for extra in ({"shared_expert_intermediate_size": 32}, {"expert_bias": True}):
        with pytest.raises(ConfigError, match="cannot be exported"):
            ModelConfig(**SMALL_MOE, **extra).to_hf()


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        read_model_config(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="mapping"):
        read_model_config(tmp_path / "list.yaml")
    (tmp_path / "typo.yaml").write_text("hiden_size: 3\n")
    with pytest.raises(ConfigError, match="hiden_size"):
        read_model_config(tmp_path / "typo.yaml")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid"):
        read_model_config(tmp_path)


def test_digest_tells_models_apart():
    assert ModelConfig(**SMALL).digest() == ModelConfig(**SMALL).digest()
    assert ModelConfig(**SMALL).digest() != ModelConfig(**SMALL, rope_theta=1e4).digest()


@pytest.mark.parametrize(
    ("value", "of", "expected"), [(3, 4, [2, 4]), (5, 8, [4, 8]), (9, 8, [8]), (2, 8, [2, 4])]
)
def test_nearest_divisors(value, of, expected):
    assert nearest_divisors(value, of) == expected
