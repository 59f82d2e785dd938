"""Many small runs in one process: does one batched step for all of them save time?

Parameters of K runs of the quickstart's dense shape are stacked and stepped at once (batched
matrix products, one attention, one optimiser update), against one run a process, eager and
compiled. Prints tokens a second of CPU time on one thread.

    python -m benchmarks.stacked_runs [--compile]
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD, LENGTH = 512, 64, 160, 2, 4, 2, 16, 64


def stacked_parameters(runs: int, seed: int = 0) -> dict[str, Tensor]:
    """Parameters of `runs` models, each tensor with the run as its first dimension."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(runs, *shape, generator=generator) * 0.02

    found = {"embedding": random(VOCAB, HIDDEN), "norm": torch.ones(runs, HIDDEN)}
    for layer in range(LAYERS):
        own = {
            "q": random(HEADS * HEAD, HIDDEN),
            "k": random(KV_HEADS * HEAD, HIDDEN),
            "v": random(KV_HEADS * HEAD, HIDDEN),
            "o": random(HIDDEN, HEADS * HEAD),
            "gate": random(INNER, HIDDEN),
            "up": random(INNER, HIDDEN),
            "down": random(HIDDEN, INNER),
            "norm1": torch.ones(runs, HIDDEN),
            "norm2": torch.ones(runs, HIDDEN),
            "q_norm": torch.ones(runs, HEAD),
            "k_norm": torch.ones(runs, HEAD),
        }
        found |= {f"{layer}.{name}": value for name, value in own.items()}
    return {name: value.requires_grad_() for name, value in found.items()}


def stacked_losses(p: dict[str, Tensor], tokens: Tensor, targets: Tensor) -> Tensor:
    """Summed token losses `[K]` of K runs on `[K, B, S]` tokens."""
    runs, batch, _ = tokens.shape
    places = tokens + (torch.arange(runs) * VOCAB).view(runs, 1, 1)
    x = F.embedding(places.view(runs, -1), p["embedding"].view(runs * VOCAB, HIDDEN))
    for layer in range(LAYERS):
        own = {n.split(".")[1]: v for n, v in p.items() if n.startswith(f"{layer}.")}
        h = _norm(x, own["norm1"])
        query = _times(h, own["q"]).view(runs, batch, LENGTH, HEADS, HEAD)
        key = _times(h, own["k"]).view(runs, batch, LENGTH, KV_HEADS, HEAD)
        value = _times(h, own["v"]).view(runs * batch, LENGTH, KV_HEADS, HEAD)
        attended = F.scaled_dot_product_attention(
            _rotated(_norm(query, own["q_norm"])).flatten(0, 1).transpose(1, 2),
            _rotated(_norm(key, own["k_norm"])).flatten(0, 1).transpose(1, 2),
            value.transpose(1, 2),
            is_causal=True,
            enable_gqa=True,
        )
        x = x + _times(attended.transpose(1, 2).reshape(runs, -1, HEADS * HEAD), own["o"])
        h = _norm(x, own["norm2"])
        x = x + _times(F.silu(_times(h, own["gate"])) * _times(h, own["up"]), own["down"])
    logits = _times(_norm(x, p["norm"]), p["embedding"])
    each = F.cross_entropy(logits.view(-1, VOCAB), targets.reshape(-1), reduction="none")
    return each.view(runs, -1).sum(1)


def _times(x: Tensor, weight: Tensor) -> Tensor:
    return torch.bmm(x, weight.transpose(1, 2))


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    scale = weight.view(weight.shape[0], *[1] * (x.dim() - 2), -1)
    return F.rms_norm(x, (x.shape[-1],), None, 1e-6) * scale


def _rotated(x: Tensor) -> Tensor:
    rates = 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)
    angle = (torch.arange(LENGTH)[:, None] * rates)[:, None, :]
    first, second = x.chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def tokens_a_second(runs: int, batch: int, compiled: bool, *, steps: int = 8) -> float:
    """Training tokens of all runs for a second of CPU time, best of six turns."""
    parameters = stacked_parameters(runs)
    tensors = list(parameters.values())
    first, second = ([torch.zeros_like(t) for t in tensors] for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCAB, (runs, batch, LENGTH), generator=generator)
    losses = torch.compile(stacked_losses) if compiled else stacked_losses

    def step() -> None:
        loss = losses(parameters, tokens, tokens.roll(-1, 2)).sum() / (batch * LENGTH)
        gradients = torch.autograd.grad(loss, tensors)
        with torch.no_grad():
            square = torch.stack([g.square().flatten(1).sum(1) for g in gradients]).sum(0)
            clip = (1 / square.sqrt()).clamp(max=1)
            scaled = [g * clip.view(runs, *[1] * (g.dim() - 1)) for g in gradients]
            torch._foreach_lerp_(first, scaled, 0.1)
            torch._foreach_mul_(second, 0.95)
            torch._foreach_addcmul_(second, scaled, scaled, 0.05)
            root = torch._foreach_sqrt(second)
            torch._foreach_add_(root, 1e-8)
            torch._foreach_addcdiv_(tensors, first, root, -1e-3)

    step()
    best = float("inf")
    for _ in range(6):
        begun = time.process_time()
        for _ in range(steps):
            step()
        best = min(best, (time.process_time() - begun) / steps)
    return runs * batch * LENGTH / best


def main() -> None:
    """Print one line a number of runs and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    compiled = parser.parse_args().compile
    torch.set_num_threads(1)
    for batch in (4, 16):
        alone = tokens_a_second(1, batch, compiled)
        for runs in (6, 12):
            together = tokens_a_second(runs, batch, compiled)
            print(
                f"batch {batch * LENGTH}: {alone:,.0f} tokens/s one run, {together:,.0f} of "
                f"{runs} runs at once, ratio {together / alone:.2f}"
            )


if __name__ == "__main__":
    main()
