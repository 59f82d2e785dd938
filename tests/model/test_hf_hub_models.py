"""Live models and checkpoints to hub folders and back: same logits, same bits, any layout."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from megascale.errors import CheckpointError
from megascale.model.config import ModelConfig, read_model_config
from megascale.model.hf import export_model, import_model
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.layout import Layout
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import model_chunks
from megascale.train.checkpoint import Checkpointer
from megascale.train.export import export_checkpoint
from megascale.verbs.model import app
from tests.multiprocess.harness import spawn_ranks

DENSE = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    tie_word_embeddings=True,
)
MOE = DENSE.model_copy(
    update={
        "tie_word_embeddings": False,
        "attention_bias": True,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": (1,),
    }
)
TOKENS = torch.arange(60).view(2, 30) * 7 % 96


def built(config: ModelConfig, seed: int = 5) -> Qwen3:
    model = Qwen3(config)
    initialize(model, Mesh(), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too must not be interchangeable
            parameter.add_(torch.linspace(-0.01, 0.01, parameter.numel()).view_as(parameter))
    return model


@torch.no_grad()
def hf_logits(folder) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("config", [DENSE, MOE])
def test_exported_models_have_our_logits_in_transformers(config, tmp_path):
    model = built(config)
    export_model(model, Mesh(), tmp_path / "out", max_shard_bytes=20_000)
    with torch.no_grad():
        assert (model(TOKENS) - hf_logits(tmp_path / "out")).abs().max() < 1e-6


@pytest.mark.parametrize("config", [DENSE, MOE])
def test_imported_models_have_the_logits_of_transformers(config, tmp_path):
    export_model(built(config), Mesh(), tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    model = Qwen3(config)
    import_model(model, Mesh(), tmp_path / "theirs")
    with torch.no_grad():
        assert (model(TOKENS) - hf_logits(tmp_path / "theirs")).abs().max() < 1e-6


def weights_of(folder) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def through(rank: int, layout: Layout, config: ModelConfig, source, target) -> bool:
    """Import on a layout, export again; whether the ranks hold only their own part."""
    mesh = Mesh.from_layout(layout, rank=rank, world_size=layout.world_size, device="cpu")
    model = Qwen3(config, mesh, ModelOptions(sequence_parallel=layout.sequence_parallel))
    if layout.data_mode == "fsdp":
        DataParallel(model, mesh, precision="fp32")
    import_model(model, mesh, source)
    export_model(model, mesh, target, max_shard_bytes=20_000)
    held = sum(chunk.local.numel() for chunk in model_chunks(model, mesh))
    return held < sum(torch.Size(c.global_shape).numel() for c in model_chunks(model, mesh))


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tensor=2),
        Layout(data=2, expert=2),
        Layout(data=2, data_mode="fsdp"),
        Layout(data=2, expert=2, data_mode="fsdp"),
    ],
)
def test_every_layout_reads_and_writes_the_same_bits(layout, tmp_path):
    export_model(built(MOE), Mesh(), tmp_path / "one")
    assert all(spawn_ranks(2, through, layout, MOE, tmp_path / "one", tmp_path / "two"))
    before, after = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def save_halves(rank: int, folder) -> None:
    mesh = Mesh.from_layout(Layout(tensor=2), rank=rank, world_size=2, device="cpu")
    model = Qwen3(MOE, mesh)
    import_model(model, mesh, folder / "hub")
    checkpointer = Checkpointer(folder / "checkpoints")
    checkpointer.save(
        step=3,
        tokens=300,
        chunks=list(model_chunks(model, mesh)),
        state={"model": MOE.model_dump(mode="json")},
    )
    checkpointer.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A hub folder, and a checkpoint of the same model written by two tensor-parallel ranks."""
    folder = tmp_path_factory.mktemp("saved")
    export_model(built(MOE), Mesh(), folder / "hub")
    spawn_ranks(2, save_halves, folder)
    (checkpoint,) = (folder / "checkpoints").glob("step-*")
    return folder, checkpoint


def test_a_checkpoint_of_another_layout_becomes_a_hub_folder(saved, tmp_path):
    folder, checkpoint = saved
    words = Tokenizer(WordLevel({"a": 0, "b": 1, "<unk>": 2, "<eos>": 3}, unk_token="<unk>"))
    words.add_special_tokens(["<eos>"])
    words.save(str(tmp_path / "tokenizer.json"))
    export_checkpoint(checkpoint, tmp_path / "out", tokenizer=tmp_path / "tokenizer.json")
    before, after = weights_of(folder / "hub"), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    same = (tmp_path / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == same
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id == 3
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["eos_token_id"] == 3


def test_a_damaged_checkpoint_is_not_exported(saved, tmp_path):
    _, checkpoint = saved
    copy = tmp_path / checkpoint.name
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    victim = max(copy.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        export_checkpoint(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_shows_checks_and_exports(saved, tmp_path):
    folder, checkpoint = saved
    run = CliRunner().invoke
    shown = run(app, ["show", str(folder / "hub"), "--json", "--sequence-length", "128"])
    assert shown.exit_code == 0
    content = json.loads(shown.stdout)
    assert content["config"]["num_experts"] == 4
    assert content["parameters"]["total"] == sum(p.numel() for p in Qwen3(MOE).parameters())
    assert content["flops_per_token"]["attention"] == 6 * 2 * 64 * 128
    preset = tmp_path / "preset.yaml"
    checked = run(app, ["check", str(folder / "hub"), "--preset", str(preset)])
    assert checked.exit_code == 0
    assert read_model_config(preset) == MOE
    exported = run(
        app,
        ["export", str(checkpoint), "-o", str(tmp_path / "hub"), "--dtype", "bf16"],
    )
    assert exported.exit_code == 0
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights_of(tmp_path / "hub").values())
