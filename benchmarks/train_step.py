"""Training steps of megascale, transformers' own models and torchtitan's, in one process.

    python benchmarks/train_step.py [--shape dense|moe64|moe128|all] [--rounds N] [--json FILE]
    python benchmarks/train_step.py --memory      # peak memory, one process per variant
    python benchmarks/train_step.py --tensor-parallel   # two processes against one

Every round runs one whole step (forward, backward, clipping, fused AdamW) of every variant on
the same weights' shapes and the same tokens, in turn, on one thread, in CPU seconds. Times on a
shared machine swing by factors, so only ratios within a round count; the table shows their median.
`utilisation` is the step's arithmetic over its time, as a fraction of what the best matrix
multiplication reaches in the same round.

torchtitan's model is asked for by `--variants`, with `torchtitan` or `torchtitan compiled` among
them. Its package imports triton, which torch's CPU build does not bring:

    pip install --no-deps torchtitan==0.2.2 triton spmd_types tyro einops torchdata
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from megascale.kernels.matmul import matmul_nt
from megascale.model.config import ModelConfig
from megascale.model.count import count_parameters
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.mesh import Mesh
from megascale.parallel.tensor import sync_partial_gradients

DENSE = ModelConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
)


def moe(experts: int, layers: int) -> ModelConfig:
    """MoE layers of the dense shape's width, top-8."""
    return DENSE.model_copy(
        update={
            "num_hidden_layers": layers,
            "num_experts": experts,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 128,
        }
    )


# name: model, sequences, tokens of a sequence
SHAPES: dict[str, tuple[ModelConfig, int, int]] = {
    "dense": (DENSE, 4, 512),
    "moe64": (moe(64, 6), 2, 512),
    "moe128": (moe(128, 2), 2, 512),
}
VARIANTS = {
    "dense": ["hf", "hf compiled", "ours", "ours compiled"],
    "moe64": ["hf loop", "hf grouped_mm", "ours", "ours grouped", "ours compiled"],
    "moe128": ["hf loop", "hf grouped_mm", "ours", "ours grouped", "ours compiled"],
}

Step = Callable[[], None]


def hf_forward(config: ModelConfig, variant: str) -> tuple[nn.Module, Callable[..., Any]]:
    """transformers' model and a function (tokens, targets) -> mean loss."""
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

    family = Qwen3MoeConfig if config.is_moe else Qwen3Config
    keys = config.to_hf() | {"use_cache": False}
    experts = "grouped_mm" if "grouped_mm" in variant else "eager"
    model = AutoModelForCausalLM.from_config(
        family(**keys), attn_implementation="sdpa", experts_implementation=experts
    )
    if "compiled" in variant:
        model = torch.compile(model, dynamic=False)

    def loss(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # shift_labels: our targets are shifted already
        return model(tokens, labels=targets, shift_labels=targets).loss

    return model, loss


def torchtitan_forward(
    config: ModelConfig, variant: str, length: int
) -> tuple[nn.Module, Callable[..., Any]]:
    """torchtitan's Qwen3 (dense) and a function (tokens, targets) -> mean loss."""
    from torchtitan.components.loss import cross_entropy_loss
    from torchtitan.models.qwen3 import Qwen3Model, Qwen3ModelArgs

    if config.is_moe:
        raise ValueError("torchtitan's experts compute in bf16 or one by one; dense shapes only")
    arguments = Qwen3ModelArgs(
        dim=config.hidden_size,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        vocab_size=config.vocab_size,
        head_dim=config.head_dim,
        hidden_dim=config.intermediate_size,
        norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        max_seq_len=length,
        enable_weight_tying=config.tie_word_embeddings,
    )
    model = Qwen3Model(arguments)
    with torch.no_grad():
        model.init_weights(buffer_device=torch.device("cpu"))
    call = model
    if "compiled" in variant:
        call = torch.compile(model, dynamic=False)

    def loss(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy_loss(call(tokens), targets) / targets.numel()  # theirs is a sum

    return model, loss


def our_forward(
    config: ModelConfig, variant: str, mesh: Mesh
) -> tuple[nn.Module, Callable[..., Any]]:
    """Our model and a function (tokens, targets) -> mean loss."""
    backend = "grouped" if "grouped" in variant else "loop"
    options = ModelOptions(
        compile="compiled" in variant,
        expert_backend=backend,
        sequence_parallel="sequence" in variant,
    )
    model = Qwen3(config, mesh, options)
    initialize(model, mesh, seed=1)

    def loss(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return model(tokens, targets).loss_sum / targets.numel()

    return model, loss


def make_step(shape: str, variant: str, mesh: Mesh | None = None) -> Step:
    """A whole training step of one variant."""
    config, sequences, length = SHAPES[shape]
    torch.manual_seed(0)
    mesh = mesh or Mesh()
    if variant.startswith("hf"):
        model, loss = hf_forward(config, variant)
    elif variant.startswith("torchtitan"):
        model, loss = torchtitan_forward(config, variant, length)
    else:
        model, loss = our_forward(config, variant, mesh)
    tokens = torch.randint(0, config.vocab_size, (sequences, length))
    targets = torch.randint(0, config.vocab_size, (sequences, length))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(tokens, targets).backward()
        sync_partial_gradients(model, mesh)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def step_flops(shape: str) -> float:
    """Floating-point operations of one step: 6 per active weight and token, causal attention."""
    config, sequences, length = SHAPES[shape]
    attention = 6 * config.num_hidden_layers * config.query_size * length
    return sequences * length * (6 * count_parameters(config).matmul_active + attention)


def gemm_rate() -> float:
    """FLOP/s of a matrix multiplication of the dense shape's kind, now."""
    a, b = torch.randn(2048, 768), torch.randn(768, 768)
    best = 0.0
    for _ in range(5):
        start = time.process_time()
        matmul_nt(a, b)
        best = max(best, 2 * a.numel() * b.shape[0] / (time.process_time() - start))
    return best


def measure(shape: str, rounds: int) -> dict[str, Any]:
    """Run all variants in turn; per-variant seconds, ratios to the first and utilisation."""
    steps = {variant: make_step(shape, variant) for variant in VARIANTS[shape]}
    for step in steps.values():
        step()
        step()
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    utilisation: dict[str, list[float]] = {variant: [] for variant in steps}
    for _ in range(rounds):
        rate = gemm_rate()
        for variant, step in steps.items():
            start = time.process_time()
            step()
            elapsed = time.process_time() - start
            seconds[variant].append(elapsed)
            utilisation[variant].append(step_flops(shape) / rate / elapsed)
    base = seconds[VARIANTS[shape][0]]
    return {
        variant: {
            "seconds": statistics.median(times),
            "speedup": statistics.median(b / t for b, t in zip(base, times, strict=True)),
            "utilisation": statistics.median(utilisation[variant]),
        }
        for variant, times in seconds.items()
    }


def measure_memory(shape: str) -> dict[str, Any]:
    """Peak resident MB of three steps of each variant, each in its own process."""
    result = {}
    for variant in VARIANTS[shape]:
        if "compiled" in variant:
            continue
        command = [sys.executable, __file__, "--one", shape, variant]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result[variant] = json.loads(output.splitlines()[-1])
    return result


def one(shape: str, variant: str) -> None:
    """Print the peak resident MB before and after three steps."""
    import transformers  # noqa: F401  every process carries the same libraries

    step = make_step(shape, variant)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for _ in range(3):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"built_mb": before, "peak_mb": after}))


def _tensor_rank(rank: int, folder: str, variant: str, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    alone = make_step("dense", variant) if rank == 0 else None
    both = make_step("dense", variant, Mesh(tensor=2, rank=rank, world_size=2))
    ratios = []
    for index in range(rounds + 2):
        single = 0.0
        if alone is not None:
            start = time.perf_counter()
            alone()
            single = time.perf_counter() - start
        dist.barrier()
        start = time.perf_counter()
        both()
        if index >= 2:
            ratios.append((single, time.perf_counter() - start))
    if rank == 0:
        Path(folder, "ratios.json").write_text(json.dumps(ratios))
    dist.destroy_process_group()


def measure_tensor_parallel(rounds: int, variant: str) -> dict[str, float]:
    """Step of two tensor-parallel processes over the step of one (the other one waiting)."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _tensor_rank, args=(folder, variant, rounds), nprocs=2, start_method="fork"
        )
        ratios = json.loads(Path(folder, "ratios.json").read_text())
    return {
        "one_process_seconds": statistics.median(alone for alone, _ in ratios),
        "two_process_seconds": statistics.median(both for _, both in ratios),
        "ratio": statistics.median(both / alone for alone, both in ratios),
        "ratio_of_fastest": min(both for _, both in ratios) / min(alone for alone, _ in ratios),
    }


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print one table."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title:18s}" + "".join(f"{column:>22s}" for column in columns))
    for name, row in rows.items():
        print(f"{name:18s}" + "".join(f"{row[column]:22.3f}" for column in columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--tensor-parallel", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "VARIANT"), help=argparse.SUPPRESS)
    parser.add_argument("--variants", help="comma-separated; the first is what others divide by")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if arguments.one:
        one(*arguments.one)
        return
    shapes = list(SHAPES) if arguments.shape == "all" else [arguments.shape]
    if arguments.variants:
        for shape in shapes:
            VARIANTS[shape] = arguments.variants.split(",")
    results: dict[str, Any] = {}
    if arguments.tensor_parallel:
        variants = ["ours", "ours sequence"]
        results["tensor parallel"] = {
            v: measure_tensor_parallel(arguments.rounds, v) for v in variants
        }
    else:
        for shape in shapes:
            results[shape] = (
                measure_memory(shape) if arguments.memory else measure(shape, arguments.rounds)
            )
    for title, rows in results.items():
        show(title, rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
