"""Runs with a known truth: constant learning rate, many batch sizes, one loss surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

BATCHES = tuple(int(2**14 * 2 ** (k / 2)) // 1024 * 1024 for k in range(0, 17, 2))


@dataclass(frozen=True)
class Truth:
    """L(S, B) = floor + a S^-p + c B^-q."""

    floor: float = 2.0
    a: float = 60.0
    p: float = 0.62
    c: float = 250.0
    q: float = 0.65

    def loss(self, steps: np.ndarray, batch: float) -> np.ndarray:
        return self.floor + self.a * steps**-self.p + self.c * batch**-self.q

    def tokens_to(self, target: float, batch: float) -> float:
        left = target - self.floor - self.c * batch**-self.q
        return batch * (self.a / left) ** (1 / self.p) if left > 0 else np.inf

    def best_batch(self, target: float) -> float:
        gap = target - self.floor
        return (self.c * (self.p + self.q) / (self.p * gap)) ** (1 / self.q)

    def best_batch_after(self, tokens: float) -> float:
        ratio = self.c * self.q / (self.a * self.p)
        return (ratio * tokens**self.p) ** (1 / (self.p + self.q))


def run_table(
    truth: Truth,
    batches: tuple[int, ...] = BATCHES,
    *,
    total_tokens: float = 4e9,
    records: int = 400,
    noise: float = 0.01,
    seeds: int = 1,
    seed: int = 0,
    lr: float = 6e-4,
) -> pl.DataFrame:
    """The one table of such runs, with the interval means a trainer would log."""
    rng = np.random.default_rng(seed)
    parts = []
    for batch in batches:
        for number in range(seeds):
            steps = np.unique(np.geomspace(20, total_tokens / batch, records).astype(np.int64))
            # A record holds the mean since the last one; the truth is taken at its middle.
            middle = (np.concatenate([[0], steps[:-1]]) + steps - 1) / 2
            loss = truth.loss(np.maximum(middle, 1.0), batch)
            parts.append(
                pl.DataFrame(
                    {
                        "run": f"b{batch}-s{number}",
                        "step": steps,
                        "tokens": steps * batch,
                        "batch_tokens": batch,
                        "lr": lr,
                        "loss": loss + noise * rng.standard_normal(len(steps)),
                        "loss_kind": "interval_mean",
                        "source": f"b{batch}-s{number}.jsonl",
                    }
                )
            )
    return pl.concat(parts)
