"""Loading: counts, composition, presets, overrides, and a dump that loads back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from megascale.config import build_config, dump_yaml, load_config
from megascale.errors import ConfigError
from tests.config.documents import small, write


def test_counts_become_exact_integers(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "run.yaml", small()))
    assert config.train.total_tokens == 10_000_000
    assert config.batch.schedule is not None
    assert [p.batch_tokens for p in config.batch.schedule] == [64_000, 131_072]
    assert config.model.head_dim == 16
    assert [p.mixture for p in config.data.phases] == [{"text": 1.0}]


def test_dump_loads_back_to_the_same_config_and_digest(tmp_path: Path) -> None:
    content = small()
    content["lr"]["final_lr"] = 1e-5
    content["log"] = {"interval_tokens": "1M"}
    config = load_config(write(tmp_path / "run.yaml", content))
    text = dump_yaml(config)
    assert "total_tokens: 10M" in text
    again = load_config(write(tmp_path / "resolved.yaml", text))
    assert again == config
    assert again.digest() == config.digest()
    assert yaml.safe_load(text)["train"]["compile"] == "off"


def test_digest_sees_every_change_of_value_and_no_change_of_spelling() -> None:
    content = small()
    digest = build_config(content).digest()
    content["train"]["total_tokens"] = 10_000_000
    content["batch"]["schedule"] = {0: 64_000, "5M": "131072"}
    assert build_config(content).digest() == digest
    content["optimizer"] = {"beta2": 0.96}
    assert build_config(content).digest() != digest


def test_bases_merge_in_order_beneath_the_file(tmp_path: Path) -> None:
    write(tmp_path / "shared" / "a.yaml", small() | {"seed": 1, "name": "a"})
    write(tmp_path / "shared" / "b.yaml", {"seed": 2, "optimizer": {"beta1": 0.8, "beta2": 0.9}})
    path = write(
        tmp_path / "run.yaml",
        {"base": ["shared/a.yaml", "shared/b.yaml"], "optimizer": {"beta2": 0.99}},
    )
    config = load_config(path)
    assert (config.name, config.seed) == ("a", 2)
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.8, 0.99)


def test_bases_of_bases_are_found_beside_their_own_file(tmp_path: Path) -> None:
    write(tmp_path / "far" / "bottom.yaml", small())
    write(tmp_path / "far" / "middle.yaml", {"base": "bottom.yaml", "seed": 5})
    config = load_config(write(tmp_path / "run.yaml", {"base": "far/middle.yaml"}))
    assert config.seed == 5


def test_a_cycle_of_bases_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"base": "b.yaml"})
    write(tmp_path / "b.yaml", {"base": "a.yaml"})
    with pytest.raises(ConfigError, match=r"a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_the_same_base_twice_is_no_cycle(tmp_path: Path) -> None:
    write(tmp_path / "bottom.yaml", small())
    write(tmp_path / "left.yaml", {"base": "bottom.yaml", "seed": 1})
    write(tmp_path / "right.yaml", {"base": "bottom.yaml", "name": "right"})
    config = load_config(write(tmp_path / "run.yaml", {"base": ["left.yaml", "right.yaml"]}))
    assert (config.seed, config.name) == (1, "right")


@pytest.mark.parametrize("missing", ["base", "preset", "config"])
def test_missing_files_are_named_with_the_nearest(tmp_path: Path, missing: str) -> None:
    write(tmp_path / "shared.yaml", small())
    content = {
        "base": {"base": "shraed.yaml"},
        "preset": small() | {"model": {"preset": "shraed.yaml"}},
        "config": {},
    }[missing]
    path = write(tmp_path / "run.yaml", content)
    if missing == "config":
        path = tmp_path / "shraed.yaml"
    with pytest.raises(ConfigError, match=r"no such file.*Nearest legal: .*shared\.yaml"):
        load_config(path)


def test_a_higher_layer_replaces_tables_and_rival_keys(tmp_path: Path) -> None:
    base = small() | {"checkpoint": {"interval_steps": 50}, "log": {"interval_tokens": "2M"}}
    write(tmp_path / "base.yaml", base)
    above = {
        "base": "base.yaml",
        "batch": {"megatron_steps": "0:512"},
        "checkpoint": {"interval_tokens": "3M"},
        "log": {"interval_steps": 7},
    }
    config = load_config(write(tmp_path / "run.yaml", above))
    assert config.batch.schedule is None
    assert config.batch.megatron_steps == "0:512"
    assert (config.checkpoint.interval_tokens, config.checkpoint.interval_steps) == (
        3_000_000,
        None,
    )
    assert (config.log.interval_tokens, config.log.interval_steps) == (None, 7)
    config = load_config(tmp_path / "base.yaml", ["batch.schedule={0: 32K}"])
    assert config.batch.schedule is not None
    assert len(config.batch.schedule) == 1


def test_preset_starts_the_model_afresh_and_inline_keys_win(tmp_path: Path) -> None:
    moe = small()["model"] | {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }
    write(tmp_path / "models" / "moe.yaml", moe)
    write(tmp_path / "models" / "dense.yaml", small()["model"] | {"hidden_size": 96})
    base = small() | {"model": {"preset": "models/moe.yaml", "num_hidden_layers": 3}}
    path = write(tmp_path / "run.yaml", base)
    config = load_config(path)
    assert (config.model.num_experts, config.model.num_hidden_layers) == (4, 3)
    dense = str(tmp_path / "models" / "dense.yaml")
    config = load_config(path, ["model.num_hidden_layers=5", f"model.preset={dense}"])
    assert (config.model.num_experts, config.model.hidden_size) == (0, 96)
    assert config.model.num_hidden_layers == 5


def test_a_hub_config_is_a_preset(tmp_path: Path) -> None:
    model = build_config(small()).model
    write(tmp_path / "hub" / "config.json", json.dumps(model.to_hf()))
    content = small() | {"model": {"preset": "hub"}}
    assert load_config(write(tmp_path / "run.yaml", content)).model == model


def test_overrides_are_yaml_and_reach_into_lists(tmp_path: Path) -> None:
    content = small()
    content["data"]["phases"] = [
        {"start_tokens": 0, "mixture": {"text": 1.0}},
        {"start_tokens": "8M", "mixture": {"text": 1.0}},
    ]
    path = write(tmp_path / "run.yaml", content)
    config = load_config(
        path,
        [
            "train.total_tokens=20M",
            "train.compile=blocks",
            "optimizer.grad_clip=null",
            "weight_decay.exclude=[norm, bias, embedding]",
            "batch.schedule=0: 32K, 15M: 64K",
            "data.phases.1.start_tokens=9M",
            "lr.peak=1e-4",
            "seed=1",
            "seed=2",
        ],
    )
    assert config.train.total_tokens == 20_000_000
    assert config.optimizer.grad_clip is None
    assert config.weight_decay.exclude == ["norm", "bias", "embedding"]
    assert config.batch.schedule is not None
    assert config.batch.schedule[1].start_tokens == 15_000_000
    assert config.data.phases[1].start_tokens == 9_000_000
    assert (config.lr.peak, config.seed) == (1e-4, 2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "must be key=value"),
        ("=3", "must be key=value"),
        ("a..b=3", "must be key=value"),
        ("weight_decay.exclude=[norm", "not valid YAML"),
        ("data.phases.7.start_tokens=1", "data.phases"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, said: str) -> None:
    path = write(tmp_path / "run.yaml", small())
    with pytest.raises(ConfigError, match=said):
        load_config(path, [override])


def test_null_drops_a_source_of_the_base(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", small())
    config = load_config(path, ["data.sources.text=null", "data.sources.code.path=corpus/code"])
    assert list(config.data.sources) == ["code"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", r"'seed' is given twice \(line 2"),
        ("train: {total_tokens: 1M, total_tokens: 2M}\n", "'total_tokens' is given twice"),
        ("train: [1\n", "not valid YAML"),
        ("- 1\n", "must hold a mapping"),
        ("!!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path / "run.yaml", text))


def test_scalars_mean_what_people_expect(tmp_path: Path) -> None:
    text = yaml.safe_dump(small()) + "parallel: {sequence_parallel: false}\n"
    text = text.replace("peak: 0.001", "peak: 1e-3").replace(
        "sequence_length: 128", "sequence_length: 128\n  compile: off"
    )
    text = text.replace("schedule: '0: 64K, 5M: 128Ki'", "megatron_steps: 0:512")
    config = load_config(write(tmp_path / "run.yaml", text))
    assert config.train.compile == "off"
    assert config.lr.peak == 1e-3
    assert config.batch.megatron_steps == "0:512"
