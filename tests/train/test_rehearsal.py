"""A rehearsal against real ranks: the same build, with memory and gloo."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from megascale.config import load_config
from megascale.errors import LayoutError
from megascale.model.count import count_parameters
from megascale.train.build import build_computation
from megascale.train.distributed import Process
from megascale.train.metering import CollectiveMeter, StorageMeter
from megascale.train.rehearsal import even_routing, fake_world, group_names, rehearse
from tests.conftest import REPOSITORY
from tests.multiprocess.harness import spawn_ranks

CONFIG = """
name: rehearsed
model: {{preset: {models}/{model}.yaml}}
data: {{sources: {{a: {{path: /nowhere/a}}}}}}
train: {{total_tokens: 128_000, sequence_length: 64, micro_batch_size: 2}}
batch: {{schedule: "0: 2048"}}
lr: {{kind: wsd, peak: 1.0e-3, warmup_tokens: 8K, decay_tokens: 32K}}
"""
CPU = torch.device("cpu")
LAYOUTS = {
    "tp": ("nano-dense", ["parallel.tensor=2", "parallel.sequence_parallel=true"], 2),
    "fsdp": ("nano-dense", ["parallel.data_mode=fsdp"], 2),
    "experts": ("nano-moe", ["parallel.data_mode=fsdp", "parallel.expert=2"], 2),
    "muon": ("nano-moe", ["optimizer.name=muon", "parallel.data_mode=fsdp"], 2),
    "hsdp": ("nano-dense", ["parallel.data_mode=hsdp", "parallel.hsdp_replicate=2"], 4),
}
SHAPE = {"sequence_length": 64, "micro_batch_size": 2, "micro_batches": 2}

OWN_PROCESS = True


def configured(folder, model, overrides):
    path = folder / "run.yaml"
    path.write_text(CONFIG.format(models=REPOSITORY / "configs" / "models", model=model))
    return load_config(path, overrides)


def real_bytes(rank, world_size, config):
    place = Process(rank, world_size, rank, world_size, CPU)
    optimizer = build_computation(config, place).optimizer
    return (
        sum(owned.local.numel() * 4 for owned in optimizer.parameters),
        sum(state.numel() * 4 for state in optimizer.state_tensors()),
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_bytes_are_those_of_real_ranks(name, tmp_path):
    model, overrides, world = LAYOUTS[name]
    config = configured(tmp_path, model, overrides)
    real = spawn_ranks(world, real_bytes, world, config)
    for rank in range(world):
        found = rehearse(config, world, rank=rank, **SHAPE)
        assert (found.parameters, found.optimizer_state) == real[rank]
        assert found.gradients == found.parameters
    assert real[0][0] > 0


def real_peak(rank, world_size, config):
    built = build_computation(config, Process(rank, world_size, rank, world_size, CPU))
    meter = StorageMeter()
    tokens = torch.randint(0, config.model.vocab_size, (2, 64))
    held = [owned.local for owned in built.optimizer.parameters]
    with meter.ignoring([*held, *built.optimizer.state_tensors()]):
        for last in (False, True):
            with built.parallel.accumulate(last=last):
                built.parallel(tokens, tokens).loss_sum.backward()
        built.optimizer.step(
            built.optimizer.gradients(), lr=1e-3, weight_decay=0.1, grad_norm=2.0, clip=1.0
        )
    return meter.peak


@pytest.mark.parametrize(
    ("overrides", "world"),
    [([], 1), ([], 2), (["parallel.data_mode=fsdp"], 2), (["parallel.tensor=2"], 2)],
)
def test_peak_is_that_of_a_real_step(overrides, world, tmp_path):
    config = configured(tmp_path, "nano-dense", overrides)
    real = spawn_ranks(world, real_peak, world, config)
    for rank in range(world):
        found = rehearse(config, world, rank=rank, **SHAPE)
        assert found.step_peak == pytest.approx(real[rank], rel=0.1)


@pytest.mark.parametrize("model", ["nano-dense", "nano-moe"])
def test_flops_are_six_n_and_the_full_square_of_attention(model, tmp_path):
    """Forward and backward: 6 a weight and token; attention has 2 products and 5, of 2 L^2 each."""
    config = configured(tmp_path, model, [])
    shape, tokens = config.model, 2 * 64
    weights = 6 * count_parameters(shape).matmul_active * tokens
    square = 14 * shape.num_hidden_layers * shape.query_size * 64 * tokens
    assert rehearse(config, 1, **SHAPE).flops == weights + square


def test_rows_are_routed_evenly():
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    before = FakeTensor.tolist
    with FakeTensorMode(), even_routing(slots=22):
        assert torch.zeros(4, dtype=torch.int64).tolist() == [5, 6, 5, 6]
    assert FakeTensor.tolist is before
    assert torch.tensor([1, 2]).tolist() == [1, 2]


def test_no_peak_is_claimed_under_checkpointing(tmp_path):
    config = configured(tmp_path, "nano-dense", ["train.activation_checkpointing=every_2"])
    assert rehearse(config, 1, **SHAPE).step_peak is None


def test_data_traffic_is_the_whole_model_once_each_way(tmp_path):
    config = configured(tmp_path, "nano-dense", ["parallel.data_mode=fsdp"])
    found = {one.kind: one for one in rehearse(config, 4, **SHAPE).traffic}
    padded = 4 * rehearse(config, 4, **SHAPE).parameters
    assert found["all-gather"].bytes == found["reduce-scatter"].bytes == padded
    assert found["all-gather"].dimension == "data"


def whole_step(config, world, micro_batches):
    """Collectives of a step that meets every micro-batch, counted one by one."""
    with fake_world(world):
        built = build_computation(config, Process(0, world, 0, world, CPU))
        meter = CollectiveMeter(group_names(built.mesh))
        tokens = torch.zeros((2, 64), dtype=torch.int64)
        with meter:
            for number in range(micro_batches):
                with built.parallel.accumulate(last=number == micro_batches - 1):
                    built.parallel(tokens, tokens).loss_sum.backward()
            built.parallel.finish()
            dist.all_reduce(torch.zeros(16, dtype=torch.float64))  # of the gradient's norm
    return set(meter.traffic())


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel.data_mode=fsdp"],
        ["parallel.data_mode=fsdp", "parallel.fsdp_gather=block"],
        ["parallel.data_mode=hsdp", "parallel.hsdp_replicate=2"],
        ["parallel.tensor=2", "parallel.sequence_parallel=true"],
        [],
    ],
    ids=" ".join,
)
def test_traffic_is_that_of_every_micro_batch(overrides, micro_batches, tmp_path):
    config = configured(tmp_path, "nano-dense", overrides)
    shape = {**SHAPE, "micro_batches": micro_batches}
    found = set(rehearse(config, 4, **shape).traffic)
    assert found == whole_step(config, 4, micro_batches)


def test_a_group_says_how_far_it_reaches(tmp_path):
    config = configured(
        tmp_path, "nano-dense", ["parallel.data_mode=hsdp", "parallel.hsdp_replicate=2"]
    )
    last = {one.dimension: one.last for one in rehearse(config, 8, **SHAPE).traffic}
    assert (last["HSDP shard"], last["HSDP replicate"]) == (3, 4)


def test_a_world_that_does_not_divide_is_refused(tmp_path):
    config = configured(tmp_path, "nano-dense", ["parallel.tensor=3"])
    with pytest.raises(LayoutError, match=r"parallel\.tensor = 3"):
        rehearse(config, 8, **SHAPE)


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_model_larger_than_any_memory_is_rehearsed(mode, tmp_path):
    wide = ["model.vocab_size=200_000_000", "model.hidden_size=16_384"]
    config = configured(tmp_path, "nano-dense", [*wide, f"parallel.data_mode={mode}"])
    shape = {"sequence_length": 8, "micro_batch_size": 1, "micro_batches": 1}
    found = rehearse(config, 2, **shape)
    assert found.parameters > 6 * 10**12
    assert found.gradients == found.parameters
