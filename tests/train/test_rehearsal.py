"""A rehearsal against real ranks: the same build, with memory and gloo."""

from __future__ import annotations

import pytest
import torch

from megascale.config import load_config
from megascale.errors import LayoutError
from megascale.train.build import build_computation
from megascale.train.distributed import Process
from megascale.train.metering import StorageMeter
from megascale.train.rehearsal import rehearse
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
LAYOUTS = {
    "tp": ("nano-dense", ["parallel.tensor=2", "parallel.sequence_parallel=true"], 2),
    "fsdp": ("nano-dense", ["parallel.data_mode=fsdp"], 2),
    "hsdp": ("nano-dense", ["parallel.data_mode=hsdp", "parallel.hsdp_replicate=2"], 4),
}
SHAPE = {"sequence_length": 64, "micro_batch_size": 2, "micro_batches": 2}


def configured(folder, model, overrides):
    path = folder / "run.yaml"
    path.write_text(CONFIG.format(models=REPOSITORY / "configs" / "models", model=model))
    return load_config(path, overrides)


def real_bytes(rank, world_size, config):
    place = Process(rank, world_size, rank, world_size, torch.device("cpu"))
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


def test_peak_is_that_of_a_real_step(tmp_path):
    config = configured(tmp_path, "nano-dense", [])
    found = rehearse(config, 1, **SHAPE)
    built = build_computation(config, Process(0, 1, 0, 1, torch.device("cpu")))
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
    assert found.step_peak == pytest.approx(meter.peak, rel=0.1)


def test_data_traffic_is_the_whole_model_once_each_way(tmp_path):
    config = configured(tmp_path, "nano-dense", ["parallel.data_mode=fsdp"])
    found = {one.kind: one for one in rehearse(config, 4, **SHAPE).traffic}
    padded = 4 * rehearse(config, 4, **SHAPE).parameters
    assert found["all-gather"].bytes == found["reduce-scatter"].bytes == padded
    assert found["all-gather"].dimension == "data"


def test_a_world_that_does_not_divide_is_refused(tmp_path):
    config = configured(tmp_path, "nano-dense", ["parallel.tensor=3"])
    with pytest.raises(LayoutError, match=r"parallel\.tensor = 3"):
        rehearse(config, 8, **SHAPE)
