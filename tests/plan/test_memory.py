"""The estimate against bytes of real tensors."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from megascale.model.config import ModelConfig
from megascale.model.count import count_parameters, parameter_shapes
from megascale.model.documents import Documents
from megascale.model.init import initialize
from megascale.model.kinds import method_of
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.layout import Layout
from megascale.parallel.mesh import Mesh
from megascale.plan.memory import estimate_memory, local_shape, local_sizes, tensor_dim
from megascale.train.groups import UpdateRule
from megascale.train.optimizer import ShardedOptimizer
from tests.multiprocess.harness import spawn_ranks

DENSE = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
)
MOE = DENSE.model_copy(
    update={"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
)
MIXED = MOE.model_copy(
    update={
        "mlp_only_layers": (0,),
        "shared_expert_intermediate_size": 32,
        "shared_expert_gate": True,
        "attention_bias": True,
        "tie_word_embeddings": True,
    }
)
LLAMA = DENSE.model_copy(update={"qk_norm": False})
MODELS = [DENSE, MOE, MIXED, LLAMA]
LENGTH, SEQUENCES = 72, 3


def lines(config: ModelConfig, **options) -> dict[str, int]:
    estimate = estimate_memory(
        config,
        options.pop("layout", Layout()),
        sequence_length=LENGTH,
        micro_batch_size=SEQUENCES,
        micro_batches=1,
        **options,
    )
    assert estimate.total == sum(line.bytes for line in estimate.lines)
    return {line.name: line.bytes for line in estimate.lines}


def build(config: ModelConfig, **options) -> Qwen3:
    torch.manual_seed(0)
    model = Qwen3(config, options=ModelOptions(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)
    return model


def kept_bytes(model: Qwen3, autocast: bool = False, documents: Documents | None = None) -> int:
    """Bytes of the distinct storages autograd keeps for one micro-batch, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    # Under autocast products keep their weight in bf16: told by its shape, unlike any activation's.
    cast = {tuple(sorted(p.shape)) for p in model.parameters() if autocast and p.ndim > 1}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(sorted(tensor.shape)) not in cast:
            held[storage.data_ptr()] = storage
        return tensor

    tokens = torch.randint(model.config.vocab_size, (SEQUENCES, LENGTH))
    context = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        output = model(tokens, tokens, documents=documents)
    tables = {table.untyped_storage().data_ptr() for pair in model._rope.values() for table in pair}
    total = sum(storage.nbytes() for place, storage in held.items() if place not in tables)
    del output
    return total


@pytest.mark.parametrize("config", MODELS)
def test_parameters_gradients_and_moments_are_exact(config):
    model = build(config)
    optimizer = ShardedOptimizer(model, Mesh())
    tokens = torch.randint(config.vocab_size, (2, 16))
    model(tokens, tokens).loss_sum.backward()
    gradients = optimizer.gradients()
    optimizer.step(gradients, lr=1e-3, weight_decay=0.1, grad_norm=1.0, clip=None)
    estimated = lines(config)
    assert sum(p.nbytes for p in model.parameters()) == estimated["parameters"]
    assert sum(g.nbytes for g in gradients) == estimated["gradients"]
    moments = sum(chunk.local.nbytes for chunk in optimizer.chunks().values())
    assert moments == estimated["AdamW moments"]
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config).total


@pytest.mark.parametrize("name", ["muon", "sgd", "sign"])
def test_state_of_the_other_methods_is_exact(name):
    model = build(DENSE)
    rules = {key: UpdateRule(method=method_of(key, name)) for key, _ in model.named_parameters()}
    optimizer = ShardedOptimizer(model, Mesh(), rules=rules)
    state = sum(chunk.local.nbytes for chunk in optimizer.chunks().values())
    assert state == lines(DENSE, optimizer=name)["optimizer state"]


@pytest.mark.parametrize("config", MODELS)
def test_names_and_shapes_are_the_models(config):
    model = build(config)
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == dict(
        parameter_shapes(config)
    )


@pytest.mark.parametrize("config", MODELS)
def test_cuts_are_those_the_model_declares(config):
    for name, spec in build(config).shard_specs().items():
        assert tensor_dim(name) == spec.tp_dim, name
        assert (spec.ep_dim == 0) == (".mlp.experts." in name), name


@pytest.mark.parametrize("config", MODELS)
def test_kept_activations_within_five_percent(config):
    measured = kept_bytes(build(config))
    estimated = lines(config)["activations"]
    assert abs(estimated / measured - 1) < 0.05, (estimated, measured)


@pytest.mark.parametrize("config", MODELS)
def test_kept_activations_under_autocast_within_five_percent(config):
    measured = kept_bytes(build(config), autocast=True)
    estimated = lines(config, precision="bf16")["activations"]
    assert abs(estimated / measured - 1) < 0.05, (estimated, measured)


@pytest.mark.parametrize("config", [DENSE, MOE])
def test_documents_add_no_mask(config):
    """Three documents a sequence; a mask alone would be 5184 numbers a sequence and layer."""
    documents = Documents((10, 42, 20) * SEQUENCES)
    measured = kept_bytes(build(config), documents=documents)
    estimated = lines(config, mask_documents=True)["activations"]
    assert abs(estimated / measured - 1) < 0.05, (estimated, measured)


def kept_by_rank(rank: int, layout: Layout, config: ModelConfig) -> int:
    mesh = Mesh.from_layout(layout, rank=rank, world_size=layout.world_size, device="cpu")
    model = Qwen3(config, mesh, ModelOptions(sequence_parallel=layout.sequence_parallel))
    initialize(model, mesh, seed=0)
    return kept_bytes(model)


@pytest.mark.parametrize("config", [DENSE, MIXED])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_kept_activations_of_a_tensor_parallel_rank(config, sequence_parallel):
    layout = Layout(tensor=2, sequence_parallel=sequence_parallel)
    measured = max(spawn_ranks(2, kept_by_rank, layout, config))
    estimated = lines(config, layout=layout)["activations"]
    assert abs(estimated / measured - 1) < 0.05, (estimated, measured)


def test_checkpointing_keeps_block_inputs_only():
    measured = kept_bytes(build(DENSE, checkpoint_every=1))
    whole = lines(DENSE)["activations"]
    recomputing = lines(DENSE, checkpoint_every=1)["activations"]
    stream = LENGTH * SEQUENCES * 64 * 4
    one_block = (whole - stream) // 4
    assert abs((recomputing - one_block) / measured - 1) < 0.05
    half = lines(DENSE, checkpoint_every=2)["activations"]
    assert recomputing < half < whole


def fsdp_bytes(rank: int, config: ModelConfig, layout: Layout) -> tuple[int, int]:
    from megascale.parallel.data import DataParallel

    mesh = Mesh.from_layout(layout, rank=rank, world_size=layout.world_size, device="cpu")
    model = Qwen3(config, mesh)
    if mesh.data_mode == "fsdp":  # DDP leaves the parameters as they are
        DataParallel(model, mesh, precision="fp32")
    local = sum(
        getattr(p, "_local_tensor", p.data).untyped_storage().nbytes() for p in model.parameters()
    )
    return local, sum(getattr(p, "_local_tensor", p.data).nbytes for p in model.parameters())


@pytest.mark.parametrize(
    "layout",
    [
        Layout(data=2, data_mode="fsdp"),
        Layout(tensor=2),
        Layout(data=2, expert=2),
        Layout(data=2, expert=2, data_mode="fsdp"),
    ],
)
def test_local_parameters_of_real_layouts_are_exact(layout):
    per_rank = [size for _, size in spawn_ranks(layout.world_size, fsdp_bytes, MIXED, layout)]
    assert max(per_rank) == 4 * sum(dict(local_sizes(MIXED, layout)).values())


def test_uneven_shards_count_the_fullest_rank():
    layout = Layout(data=3, data_mode="fsdp")
    assert local_shape("model.norm.weight", (64,), layout) == (22,)
    assert local_shape("model.norm.weight", (64,), Layout(data=3)) == (64,)


def test_fsdp_accumulation_keeps_whole_gradients():
    layout = Layout(data=8, data_mode="fsdp")
    options = SimpleNamespace(sequence_length=64, micro_batch_size=1)
    one, two = (
        estimate_memory(DENSE, layout, micro_batches=count, **vars(options)) for count in (1, 2)
    )
    gathered = {line.name: line.bytes for line in two.lines}["gathered gradients"]
    assert gathered == 4 * count_parameters(DENSE).total
    assert two.total > one.total
