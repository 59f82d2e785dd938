"""Weights in and out of hub folders, against transformers and the safetensors library."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config, Qwen3MoeConfig

from megascale.errors import CheckpointError, ConfigError
from megascale.model.config import ModelConfig
from megascale.model.count import parameter_shapes
from megascale.model.hf import HubWeights, hub_tensors, write_hub_folder
from megascale.model.safetensors_io import INDEX, SINGLE

DENSE = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
TIED = DENSE.model_copy(update={"tie_word_embeddings": True})
BIASED = DENSE.model_copy(update={"attention_bias": True})
MOE = ModelConfig(
    **DENSE.model_dump(
        exclude={"num_experts", "num_experts_per_tok", "moe_intermediate_size", "mlp_only_layers"}
    ),
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=24,
    mlp_only_layers=(0,),
)
LLAMA = BIASED.model_copy(update={"qk_norm": False})
FAMILIES = [DENSE, TIED, BIASED, MOE, LLAMA]


def random_parameters(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) for name, shape in parameter_shapes(config)
    }


def hf_model(config: ModelConfig):
    family = Qwen3MoeConfig if config.is_moe else Qwen3Config if config.qk_norm else LlamaConfig
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(family(**config.to_hf()))


def as_stacked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' state dict under our names, experts by plain reshaping."""
    ours = {}
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            ours[name.removesuffix("_proj")] = tensor.unflatten(1, (2, -1))
        else:
            ours[name.replace("experts.down_proj", "experts.down")] = tensor
    return ours


def read_whole(folder, config) -> dict[str, torch.Tensor]:
    whole = {}
    with HubWeights(folder, config) as weights:
        for name, shape in parameter_shapes(config):
            whole[name] = torch.full(shape, float("nan"))
            weights.read_into(name, (0,) * len(shape), whole[name])
    return whole


@pytest.mark.parametrize("config", FAMILIES)
@pytest.mark.parametrize("max_shard_bytes", [3000, 10**9])
def test_transformers_loads_an_export_as_it_is(config, max_shard_bytes, tmp_path):
    parameters = random_parameters(config)
    folder = tmp_path / "out"
    # Any order of parameters will do.
    write_hub_folder(config, reversed(parameters.items()), folder, max_shard_bytes=max_shard_bytes)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    theirs = as_stacked(model.state_dict())
    for name, value in parameters.items():
        assert torch.equal(theirs[name], value), name
    several = max_shard_bytes == 3000
    assert (folder / INDEX).exists() == several
    assert (folder / SINGLE).exists() != several
    assert (folder / "generation_config.json").exists()


@pytest.mark.parametrize("config", FAMILIES)
@pytest.mark.parametrize("size", ["3KB", "1GB"])
def test_what_transformers_saves_is_read(config, size, tmp_path):
    model = hf_model(config)
    model.save_pretrained(tmp_path, max_shard_size=size)
    expected = as_stacked(model.state_dict())
    for name, value in read_whole(tmp_path, config).items():
        assert torch.equal(value, expected[name]), name


def test_fused_experts_are_read(tmp_path):
    model = hf_model(MOE)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / SINGLE)
    (tmp_path / "config.json").write_text(json.dumps(MOE.to_hf()))
    names = load_file(tmp_path / SINGLE)
    assert any(name.endswith("experts.gate_up_proj") for name in names)
    expected = as_stacked(model.state_dict())
    for name, value in read_whole(tmp_path, MOE).items():
        assert torch.equal(value, expected[name]), name


def test_written_bytes_are_those_of_the_library(tmp_path):
    parameters = random_parameters(DENSE)
    write_hub_folder(DENSE, parameters.items(), tmp_path / "out", dtype=torch.bfloat16)
    for name, value in load_file(tmp_path / "out" / SINGLE).items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, parameters[name].bfloat16()), name


def test_files_stay_under_the_limit_and_the_index_is_complete(tmp_path):
    write_hub_folder(MOE, random_parameters(MOE).items(), tmp_path / "out", max_shard_bytes=20_000)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    contents = [load_file(tmp_path / "out" / file) for file in files]
    sizes = [sum(t.numel() * 4 for t in content.values()) for content in contents]
    assert all(size <= 20_000 for size in sizes)
    # No file could have taken the next one's first tensor: the cut is as coarse as it can be.
    order = [t.name for t in hub_tensors(MOE)]
    for (here, size), (there, _) in pairwise(zip(contents, sizes)):
        first = min(there, key=order.index)
        assert size + there[first].numel() * 4 > 20_000
        assert max(map(order.index, here)) + 1 == order.index(first)
    assert index["metadata"]["total_size"] == sum(sizes)
    assert set(index["weight_map"]) == set(order)


@st.composite
def boxes(draw):
    name, shape = draw(st.sampled_from(list(parameter_shapes(MOE))))
    box = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        box.append((start, draw(st.integers(start + 1, size))))
    return name, box


@pytest.fixture(scope="module", params=["per expert", "fused"])
def moe_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    parameters = random_parameters(MOE)
    if request.param == "per expert":
        folder = folder / "out"
        write_hub_folder(MOE, parameters.items(), folder, max_shard_bytes=9000)
    else:
        fused = {}
        for name, value in parameters.items():
            if name.endswith("experts.gate_up"):
                fused[f"{name}_proj"] = value.flatten(1, 2)
            else:
                fused[name.replace("experts.down", "experts.down_proj")] = value
        save_file(fused, folder / SINGLE)
        (folder / "config.json").write_text(json.dumps(MOE.to_hf()))
    with HubWeights(folder) as weights:
        yield weights, parameters


@settings(deadline=None, max_examples=60)
@given(box=boxes())
def test_any_box_of_any_parameter_is_read_alone(moe_folder, box):
    weights, parameters = moe_folder
    name, box = box
    out = torch.full([stop - start for start, stop in box], float("nan"), dtype=torch.float64)
    weights.read_into(name, tuple(start for start, _ in box), out)
    whole = parameters[name].double()
    assert torch.equal(out, whole[tuple(slice(start, stop) for start, stop in box)])


def damaged(folder, config, change):
    """A one-file hub folder of `config` whose tensors went through `change`."""
    folder.mkdir()
    tensors = {}
    for tensor in hub_tensors(config):
        value = random_parameters(config)[tensor.parameter]
        tensors[tensor.name] = value[tensor.index].contiguous().clone()
    change(tensors)
    save_file(tensors, folder / SINGLE)
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), ["model.norm.weight = missing", "(32,)"]),
        (
            lambda t: t.update(extra=torch.zeros(3)),
            ["extra = a tensor of shape (3,)", "no part of this model"],
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(95, 32)}),
            ["lm_head.weight", "(95, 32)", "(96, 32)"],
        ),
        (
            lambda t: t.pop("model.layers.1.mlp.experts.2.up_proj.weight"),
            ["model.layers.1.mlp.experts.2.up_proj.weight = missing", "(24, 32)"],
        ),
    ],
)
def test_wrong_tensors_are_named_with_found_and_expected(change, words, tmp_path):
    folder = damaged(tmp_path / "hub", MOE, change)
    with pytest.raises(CheckpointError) as caught:
        HubWeights(folder, MOE)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_repeated_tied_table_is_read_only_if_it_is_the_same(tmp_path):
    def same(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    def other(tensors):
        same(tensors)
        tensors["lm_head.weight"][95, 31] += 1

    read_whole(damaged(tmp_path / "same", TIED, same), TIED)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        HubWeights(damaged(tmp_path / "other", TIED, other), TIED)


def test_a_folder_of_another_model_is_refused(tmp_path):
    write_hub_folder(DENSE, random_parameters(DENSE).items(), tmp_path / "out")
    other = DENSE.model_copy(update={"rope_theta": 5e5})
    with pytest.raises(CheckpointError, match=r"config\.json rope_theta = 1000000\.0.*500000\.0"):
        HubWeights(tmp_path / "out", other)


def test_folders_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(CheckpointError, match="pickled weights are never read"):
        HubWeights(tmp_path)
    folder = tmp_path / "out"
    write_hub_folder(DENSE, random_parameters(DENSE).items(), folder, max_shard_bytes=10_000)
    index = json.loads((folder / INDEX).read_text())
    victim = folder / index["weight_map"]["model.norm.weight"]
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="damaged"):
        HubWeights(folder)
    index["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is not a file in"):
        HubWeights(folder)


def test_an_export_appears_whole_or_not_at_all(tmp_path):
    parameters = random_parameters(DENSE)
    folder = tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"lm_head\.weight = missing"):
        write_hub_folder(DENSE, list(parameters.items())[:-1], folder)
    wrong = parameters | {"model.norm.weight": torch.zeros(31)}
    with pytest.raises(CheckpointError, match="must have shape"):
        write_hub_folder(DENSE, wrong.items(), folder)
    assert list(tmp_path.iterdir()) == []
    write_hub_folder(DENSE, parameters.items(), folder)
    with pytest.raises(CheckpointError, match="exists"):
        write_hub_folder(DENSE, parameters.items(), folder)


def test_models_that_transformers_lacks_are_not_written(tmp_path):
    config = MOE.model_copy(update={"expert_bias": True})
    with pytest.raises(ConfigError, match="cannot be exported"):
        write_hub_folder(config, [], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
