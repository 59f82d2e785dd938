"""What a step costs besides the model: schedules, token stream, guard and log.

    python benchmarks/overhead.py [--steps N] [--json FILE]

Runs steps of models/tiny-moe.yaml at its smallest batch, one thread, with everything around it,
and times each part in the same steps. The loader reads ahead in a thread of its own; its reading
is timed as if it were not. Also: start-up of the command line, and opening a corpus of ten
trillion tokens against opening a toy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from megascale.config import build_config
from megascale.config.schedules import (
    batch_schedule_from_config,
    lr_schedule_from_config,
    weight_decay_from_config,
)
from megascale.data.batches import micro_batch
from megascale.data.indexed import HEADER, MAGIC
from megascale.data.loader import LoadedMicroBatch, LoadedStep
from megascale.data.stream import PhaseSpec, Stream, StreamSpec
from megascale.data.writer import IndexedWriter
from megascale.formats.run_log import RunLog
from megascale.model.config import read_model_config
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.train.guard import Guard, GuardSettings
from megascale.train.optimizer import ShardedOptimizer
from megascale.train.step import Objective, accumulate_gradients
from megascale.train.telemetry.interval import IntervalAccumulator, StepResult

ROOT = Path(__file__).resolve().parents[1]
LENGTH, SEQUENCES, MICRO_BATCHES = 256, 4, 2
VOCABULARY = 512
"""Of the model and the toy corpus."""


def write_toy(prefix: Path, tokens: int = 1_000_000) -> None:
    generator = np.random.default_rng(0)
    with IndexedWriter(prefix, VOCABULARY) as writer:
        writer.add(generator.integers(0, VOCABULARY, tokens), np.full(tokens // 1000, 1000))
        writer.finish(tokenizer_sha256="0" * 64, eos_id=0, details={})


def write_sparse(prefix: Path, tokens: int, documents: int = 1000) -> None:
    """A corpus of zeros that takes no disk space: uint16 tokens in equal documents."""
    length = tokens // documents
    if length >= 2**31:
        raise SystemExit("documents are limited to 2**31 tokens: use more of them")
    with open(f"{prefix}.bin", "wb") as data:
        data.truncate(2 * length * documents)
    with open(f"{prefix}.idx", "wb") as index:
        index.write(HEADER.pack(MAGIC, 1, 8, documents, documents + 1))
        index.write(np.full(documents, length, dtype="<i4").tobytes())
        index.write((np.arange(documents, dtype="<i8") * 2 * length).tobytes())
        index.write(np.arange(documents + 1, dtype="<i8").tobytes())


def median_ms(values: list[float]) -> float:
    return 1e3 * statistics.median(values)


def step_parts(folder: Path, steps: int) -> dict[str, float]:
    """Median milliseconds of each part of a step."""
    write_toy(folder / "toy")
    batch = LENGTH * SEQUENCES * MICRO_BATCHES
    config = build_config(
        {
            "model": read_model_config(ROOT / "configs/models/tiny-moe.yaml").model_dump(
                mode="json"
            )
            | {"vocab_size": VOCABULARY},
            "data": {"sources": {"toy": {"path": str(folder / "toy")}}},
            "train": {
                "total_tokens": batch * (steps + 2),
                "sequence_length": LENGTH,
                "micro_batch_size": SEQUENCES,
            },
            "batch": {"schedule": f"0: {batch}"},
            "lr": {"peak": 3e-3, "warmup_tokens": batch},
        }
    )
    mesh = Mesh()
    model = Qwen3(config.model, mesh, ModelOptions(balance_window_tokens=LENGTH))
    initialize(model, mesh, seed=1)
    parallel = DataParallel(model, mesh, precision="fp32")
    optimizer = ShardedOptimizer(model, mesh)
    stream = Stream(
        StreamSpec({"toy": (str(folder / "toy"),)}, (PhaseSpec(0, {"toy": 1.0}),), seed=1)
    )
    schedule = batch_schedule_from_config(config, 1)
    lr, decay = lr_schedule_from_config(config), weight_decay_from_config(config)
    guard = Guard(GuardSettings(window_tokens=batch * 1000))
    log, interval = RunLog(folder), IntervalAccumulator()
    spent: dict[str, list[float]] = {
        "stream": [], "schedules": [], "model and optimizer": [], "guard and log": []
    }  # fmt: skip
    for step in range(steps):
        began = time.perf_counter()
        start, stop = schedule.window(step)
        segment = schedule.segment_at_step(step)
        rate = lr.at((start + stop) / 2) * segment.lr_scale
        weight_decay = decay.at((start + stop) / 2)
        looked_up = time.perf_counter()
        batches = []
        for index in range(segment.micro_batches):
            cut = micro_batch(
                stream, start, stop, sequence_length=LENGTH, micro_batch_size=SEQUENCES,
                data_parallel=1, dp_rank=0, index=index,
            )  # fmt: skip
            batches.append(
                LoadedMicroBatch(
                    torch.from_numpy(cut.inputs), torch.from_numpy(cut.targets), None, start
                )
            )
        read = time.perf_counter()
        result, gradients = accumulate_gradients(
            parallel, mesh, optimizer, LoadedStep(step, start, stop, batch, 0, tuple(batches)),
            batch_tokens=batch, objective=Objective(0.001, 0.0, LENGTH),
        )  # fmt: skip
        optimizer.step(
            gradients, lr=rate, weight_decay=weight_decay, grad_norm=result.grad_norm, clip=1.0
        )
        optimizer.zero_grad()
        computed = time.perf_counter()
        guard.check(tokens=stop, batch_tokens=batch, loss=result.loss, grad_norm=result.grad_norm)
        interval.add(
            StepResult(
                step=step + 1, tokens=stop, samples=stop // LENGTH, batch_tokens=batch,
                micro_batches=MICRO_BATCHES, sequence_length=LENGTH, loss_sum=result.loss_sum,
                loss_tokens=batch, lr=rate, weight_decay=weight_decay, grad_norm=result.grad_norm,
                seconds=computed - began, window_tokens=batch,
                expert_counts=result.expert_counts.tolist(),
                router_entropy_sum=result.router_entropy_sum,
            )
        )  # fmt: skip
        log.metrics(interval.record())
        done = time.perf_counter()
        spent["schedules"].append(looked_up - began)
        spent["stream"].append(read - looked_up)
        spent["model and optimizer"].append(computed - read)
        spent["guard and log"].append(done - computed)
    return {name: median_ms(values[1:]) for name, values in spent.items()}


def opening(folder: Path, rounds: int = 9) -> dict[str, float]:
    """Median milliseconds from prefixes to the first batch: a toy and ten trillion tokens."""
    for number in range(2):
        write_sparse(folder / f"huge-{number}", 5 * 10**12, documents=10_000)
    corpora = {
        "toy, 1M tokens": (str(folder / "toy"),),
        "10T tokens": (str(folder / "huge-0"), str(folder / "huge-1")),
    }
    spent: dict[str, list[float]] = {name: [] for name in corpora}
    for _ in range(rounds):
        for name, prefixes in corpora.items():
            began = time.perf_counter()
            spec = StreamSpec({"all": prefixes}, (PhaseSpec(0, {"all": 1.0}),), seed=1)
            Stream(spec).read(0, 4096)
            spent[name].append(time.perf_counter() - began)
    return {name: median_ms(values) for name, values in spent.items()}


def help_seconds(rounds: int = 7) -> float:
    """Median seconds of `megascale --help`."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "megascale", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = step_parts(folder, options.steps)
        opened = opening(folder)
    model = parts["model and optimizer"]
    around = sum(parts.values()) - model
    print(f"{'part of a step':24} {'median':>12} {'share':>9}")
    for part, value in parts.items():
        print(f"{part:24} {value:9.3f} ms {100 * value / (model + around):7.3f} %")
    print(f"{'all but the model':24} {around:9.3f} ms {100 * around / (model + around):7.3f} %")
    for corpus, value in opened.items():
        print(f"open {corpus:19} {value:9.3f} ms")
    startup = help_seconds()
    print(f"{'megascale --help':24} {startup:9.3f} s")
    if options.json:
        options.json.write_text(
            json.dumps({"step_ms": parts, "open_ms": opened, "help_seconds": startup}, indent=2)
        )


if __name__ == "__main__":
    main()
