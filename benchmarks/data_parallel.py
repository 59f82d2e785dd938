"""Cost of the data dimension: steps of two processes with DDP and FSDP2 against no communication.

    python benchmarks/data_parallel.py [--rounds N] [--micro-batches N] [--json FILE]

Both processes run each variant in turn on the dense shape of train_step.py (one micro-batch of 4
sequences of 512 tokens each per process and micro-batch), one thread a process, between barriers.
Only ratios within a round count; the table shows their median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from megascale.data.loader import LoadedMicroBatch, LoadedStep
from megascale.model.config import ModelConfig
from megascale.model.init import initialize
from megascale.model.qwen3 import Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.train.optimizer import ShardedOptimizer
from megascale.train.step import Objective, accumulate_gradients

SHAPE = ModelConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
)
SEQUENCES, LENGTH, RANKS = 4, 512, 2
VARIANTS = ("no communication", "ddp", "fsdp", "fsdp, gathered by block")


class Variant:
    """A model, its wrapper and its optimizer, ready to step."""

    def __init__(self, name: str, rank: int):
        self.alone = name == "no communication"
        if self.alone:
            self.mesh = _lonely_mesh()
        else:
            mode = name.partition(",")[0]
            self.mesh = Mesh(data=RANKS, data_mode=mode, rank=rank, world_size=RANKS)
        model = Qwen3(SHAPE, self.mesh)
        initialize(model, self.mesh, seed=1)
        gather = "block" if "block" in name else "step"
        self.parallel = DataParallel(model, self.mesh, precision="fp32", gather=gather)
        self.optimizer = ShardedOptimizer(model, self.mesh)

    def step(self, loaded: LoadedStep) -> None:
        statistics_, gradients = accumulate_gradients(
            self.parallel,
            self.mesh,
            self.optimizer,
            loaded,
            batch_tokens=loaded.stop,
            objective=Objective(),
        )
        self.optimizer.step(
            gradients, lr=1e-4, weight_decay=0.1, grad_norm=statistics_.grad_norm, clip=1.0
        )
        self.optimizer.zero_grad()


def _lonely_mesh() -> Mesh:
    """A mesh of one rank, made as if no process group were open."""
    initialized = dist.is_initialized
    dist.is_initialized = lambda: False
    try:
        return Mesh()
    finally:
        dist.is_initialized = initialized


def worker(rank: int, folder: str, rounds: int, micro_batches: int) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS
    )
    variants = {name: Variant(name, rank) for name in VARIANTS}
    generator = torch.Generator().manual_seed(rank)
    batches = tuple(
        LoadedMicroBatch(
            torch.randint(0, 4096, (SEQUENCES, LENGTH), generator=generator),
            torch.randint(0, 4096, (SEQUENCES, LENGTH), generator=generator),
            None,
            0,
        )
        for _ in range(micro_batches)
    )
    tokens = SEQUENCES * LENGTH * micro_batches * RANKS
    loaded = LoadedStep(0, 0, tokens, tokens, 0, batches)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            dist.barrier()
            began = time.perf_counter()
            variant.step(loaded)
            dist.barrier()
            if number:
                seconds[name].append(time.perf_counter() - began)
    if rank == 0:
        Path(folder, "seconds.json").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            worker,
            args=(folder, options.rounds, options.micro_batches),
            nprocs=RANKS,
            start_method="spawn",
        )
        seconds = json.loads(Path(folder, "seconds.json").read_text())
    base = seconds[VARIANTS[0]]
    rows = {
        name: {
            "median_seconds": statistics.median(values),
            "median_ratio": statistics.median(a / b for a, b in zip(values, base, strict=True)),
        }
        for name, values in seconds.items()
    }
    print(f"{'variant':24} {'step, median':>14} {'ratio to no communication':>28}")
    for name, row in rows.items():
        print(f"{name:24} {row['median_seconds']:12.3f} s {row['median_ratio']:28.3f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
