"""CPU seconds that measuring the gradient noise scale adds to a step.

Steps with and without the measurement alternate; CPU time of one thread is compared, which other
load on the machine moves less than wall clock.

    python benchmarks/noise_scale.py
"""

from __future__ import annotations

import json
import time
from statistics import median

import torch

from megascale.data.loader import LoadedMicroBatch, LoadedStep
from megascale.model.config import ModelConfig
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.train.micro_gradients import MicroGradientNorms
from megascale.train.optimizer import ShardedOptimizer
from megascale.train.step import Objective, accumulate_gradients

DENSE = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
MOE = DENSE | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
SHAPES = {"dense": DENSE, "moe": MOE}


def measure(shape: dict, rows: int, length: int, micro_batches: int, steps: int) -> dict:
    """Median CPU seconds of a step without and with the measurement."""
    mesh = Mesh()
    config = ModelConfig(**shape)
    window = length if config.is_moe else None
    model = Qwen3(config, mesh, ModelOptions(balance_window_tokens=window))
    initialize(model, mesh, seed=0)
    parallel = DataParallel(model, mesh, precision="fp32")
    optimizer = ShardedOptimizer(model, mesh)
    norms = MicroGradientNorms(parallel, mesh, optimizer)
    tokens = torch.randint(0, config.vocab_size, (micro_batches, rows, length))
    batches = tuple(LoadedMicroBatch(part, part.roll(-1, 1), None, 0) for part in tokens)
    loaded = LoadedStep(0, 0, tokens.numel(), tokens.numel(), 0, batches)
    objective = Objective(1e-3, 0.0, length) if config.is_moe else Objective()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for step in range(2 * steps + 2):
        began = time.process_time()
        statistics, gradients = accumulate_gradients(
            parallel,
            mesh,
            optimizer,
            loaded,
            batch_tokens=tokens.numel(),
            objective=objective,
            norms=norms if step % 2 else None,
        )
        optimizer.step(
            gradients, lr=1e-4, weight_decay=0.1, grad_norm=statistics.grad_norm, clip=1.0
        )
        optimizer.zero_grad()
        if step > 1:
            seconds[bool(step % 2)].append(time.process_time() - began)
    off, on = (median(seconds[key]) for key in (False, True))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "micro_batch_tokens": rows * length,
        "micro_batches": micro_batches,
        "seconds_off": round(off, 4),
        "seconds_on": round(on, 4),
        "added_per_measured_step": round(on / off - 1, 4),
        "added_at_every_16th_step": round((on / off - 1) / 16, 5),
    }


def main() -> None:
    """Print one line of JSON per case."""
    torch.set_num_threads(1)
    for name, shape in SHAPES.items():
        for rows, length, micro_batches in ((4, 256, 2), (1, 64, 4), (4, 256, 1)):
            found = measure(shape, rows, length, micro_batches, steps=7)
            print(json.dumps({"model": name, **found}), flush=True)


if __name__ == "__main__":
    main()
