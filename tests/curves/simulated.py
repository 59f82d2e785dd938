"""Runs with a known truth: constant learning rate, many batch sizes, one loss surface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from megascale.formats.run_log import RunLog

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


SMALL = Truth(floor=2.3, a=30.0, p=0.42, c=60.0, q=0.75)
"""Toy runs of a million tokens whose curves cross within them."""


def write_small_runs(folder: Path, *, evaluations: bool, seed: int = 0) -> list[Path]:
    """Six run directories of our own, as the quickstart makes them: batches of 128 to 4,096 tokens.

    A million tokens at a constant learning rate after a warmup over 50K, a record every 5,120
    tokens with the noise of its batches, and with `evaluations` one every 51,200 tokens.
    """
    rng = np.random.default_rng(seed)
    paths = []
    for batch in (128, 256, 512, 1024, 2048, 4096):
        path = folder / f"batch-{batch}"
        path.mkdir(parents=True)
        log = RunLog(path, {"name": path.name, "n_params": 5000, "n_params_non_embedding": 4000})
        log.start()
        every = max(5120 // batch, 2)
        for step in range(every, 1_000_000 // batch + 1, every):
            steps = np.arange(step - every, step)
            tokens, interval = step * batch, every * batch
            loss = float(SMALL.loss(np.maximum(steps, 1.0), batch).mean())
            loss += 3.6 / np.sqrt(interval) * rng.standard_normal()
            log.metrics(
                {
                    "step": step,
                    "tokens": tokens,
                    "samples": tokens // 64,
                    "batch_tokens": batch,
                    "micro_batches": 1,
                    "sequence_length": 64,
                    "interval_tokens": interval,
                    "steps": every,
                    "skipped": 0,
                    "loss_sum": loss * interval,
                    "loss_tokens": interval,
                    "loss": loss,
                    "lr": 5e-3 * min(tokens / 50_000, 1.0),
                    "weight_decay": 0.1,
                    "grad_norm": 1.0,
                    "seconds": 0.5,
                }
            )
            if evaluations and tokens // 51_200 > (tokens - interval) // 51_200:
                held_out = float(SMALL.loss(np.float64(step), batch)) + 0.01 * rng.standard_normal()
                event = {"step": step, "tokens": tokens, "source": "held-out", "loss": held_out}
                log.event("evaluation", **event)
        log.close()
        paths.append(path)
    return paths
