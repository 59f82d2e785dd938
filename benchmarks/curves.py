"""How close the curves' answers come to the truth, and what comparing many runs costs.

    python benchmarks/curves.py                 # bias, spread and coverage on simulated runs
    python benchmarks/curves.py --speed 1000    # `megascale compare` of so many runs

Runs have the loss L = floor + a S^-p + c B^-q, sampled as a trainer logs it (means over intervals,
each standing in the middle of its steps) or as evaluations, with normal noise. Beside the curves'
own answers stand two plain ways of reading the same logs: the mean of the last 5 % of the tokens,
put at its end, and the first window of 5 % that has the loss.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import brentq

from megascale.curves.crossing import crossings
from megascale.curves.curve import Curve
from megascale.curves.reach import reach
from megascale.curves.table import curves_from_table

Z90 = 1.6449


@dataclass(frozen=True)
class Scene:
    """Runs of two batch sizes with a known loss; `kink` is a decay or a step in the loss."""

    name: str
    floor: float
    a: float
    p: float
    c: float
    q: float
    batches: tuple[int, int]
    tokens: float
    records: int
    noise: float
    validation: bool = False
    kink: str = ""

    def loss(self, tokens: np.ndarray, batch: float) -> np.ndarray:
        smooth = self.floor + self.a * (tokens / batch) ** -self.p + self.c * batch**-self.q
        share = tokens / self.tokens
        if self.kink == "decay":
            return smooth - 0.15 * np.clip((share - 0.8) / 0.2, 0, 1)
        if self.kink == "step":
            return smooth - 0.06 * np.clip((share - 0.5) / 0.03, 0, 1)
        return smooth

    def clean(self, batch: int) -> pl.DataFrame:
        """The log without noise; a mean over an interval is taken at the steps themselves."""
        interval = self.tokens / self.records
        after = np.round(interval * np.arange(1, self.records + 1) / batch) * batch
        if self.validation:
            loss = self.loss(after, batch)
        else:
            steps = np.arange(round(after[-1] / batch)) * batch
            each = self.loss(np.maximum(steps, batch / 2), batch)
            sums = np.concatenate([[0.0], np.cumsum(each)])[(after / batch).astype(int)]
            count = np.diff(after / batch, prepend=0)
            loss = np.diff(sums, prepend=0) / count
        kind = "validation" if self.validation else "interval_mean"
        columns = {"run": f"b{batch}", "step": after / batch, "tokens": after, "loss": loss}
        return pl.DataFrame(columns).with_columns(
            batch_tokens=pl.lit(float(batch)), loss_kind=pl.lit(kind)
        )

    def curve(self, clean: pl.DataFrame, rng: np.random.Generator, shared: np.ndarray) -> Curve:
        own = rng.standard_normal(len(clean))
        noisy = clean.with_columns(loss=pl.col("loss") + self.noise * (shared + own))
        return curves_from_table(noisy).curves[0]


SMALL: dict[str, Any] = {
    "floor": 2.3, "a": 30.0, "p": 0.42, "c": 60.0, "q": 0.75, "batches": (256, 512), "tokens": 1e6,
}  # fmt: skip
MIDDLE: dict[str, Any] = {
    "floor": 2.0, "a": 60.0, "p": 0.62, "c": 250.0, "q": 0.65, "batches": (2**16, 2**17),
    "tokens": 4e9,
}  # fmt: skip
SCENES = (
    Scene("small runs, 200 training losses", **SMALL, records=200, noise=0.05),
    Scene("small runs, 20 evaluations", **SMALL, records=20, noise=0.01, validation=True),
    Scene("middle runs, 400 training losses", **MIDDLE, records=400, noise=0.01),
    Scene("the same, three times the noise", **MIDDLE, records=400, noise=0.03),
    Scene("decay over the last fifth", **MIDDLE, records=400, noise=0.01, kink="decay"),
    Scene("loss falls by 0.06 at one half", **MIDDLE, records=400, noise=0.01, kink="step"),
)
"""Toy runs of the quickstart's size, and runs of the size of arXiv 2601.05034's smallest."""


def trailing(curve: Curve, loss: float) -> float:
    """Tokens where the mean over the 5 % of the run before first has the loss."""
    placed = curve.placed
    total = np.concatenate([[0.0], np.cumsum(placed.loss)])
    stop = np.arange(len(placed)) + 1
    start = np.searchsorted(placed.after, placed.after - 0.05 * placed.after[-1], side="right")
    return first(placed.after, (total[stop] - total[start]) / (stop - start), loss)


def first(tokens: np.ndarray, losses: np.ndarray, loss: float) -> float:
    at = int(np.argmax(losses <= loss))
    if at == 0:
        return np.nan
    share = (losses[at - 1] - loss) / (losses[at - 1] - losses[at])
    x = np.log(tokens[at - 1 : at + 1])
    return float(np.exp(x[0] + share * (x[1] - x[0])))


def simulate(scene: Scene, count: int, seed: int) -> dict[str, tuple[str, ...]]:
    """A row for every question: bias, spread, rms, share of the stated 90 % that holds."""
    small, large = scene.batches
    clean = {batch: scene.clean(batch) for batch in scene.batches}
    places = {share: share * scene.tokens for share in (0.1, 0.4, 0.9)}
    crossing = brentq(
        lambda x: float(scene.loss(np.exp(x), small) - scene.loss(np.exp(x), large)),
        *np.log([scene.tokens * 1e-3, scene.tokens]),
    )
    rows: dict[str, list[tuple[float, float]]] = {}
    sure = equal = 0
    end = float(scene.loss(np.array(float(clean[small]["tokens"][-1])), small))
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        none = np.zeros(scene.records)
        one, other, again = (scene.curve(clean[b], rng, none) for b in (small, large, small))
        for share, tokens in places.items():
            loss = float(scene.loss(np.array(tokens), small))
            found = reach(one, loss)
            ways = {"": (np.nan, np.nan) if isinstance(found, str) else (found.tokens,
                    found.log_error)}  # fmt: skip
            if not scene.validation:
                ways[", trailing mean"] = (trailing(one, loss), np.nan)
            ways[", first window"] = (first(one.tokens, one.loss, loss), np.nan)
            for way, (value, error) in ways.items():
                rows.setdefault(f"reached at {share:g} of the tokens (log){way}", []).append(
                    (np.log(value / tokens), error)
                )
        rows.setdefault("final loss (nats)", []).append(
            (one.final - end, float(one.error_at(one.last)))
        )
        both = crossings(one, other)
        if len(both) == 1:
            miss = np.log(both[0].tokens) - crossing
            rows.setdefault("crossing (log)", []).append((miss, both[0].log_error))
            sure += 1
        equal += bool(crossings(one, again))
    table = {}
    for name, pairs in rows.items():
        miss, error = np.array(pairs).T
        known = np.isfinite(miss)
        miss, error = miss[known], error[known]
        held = np.mean(np.abs(miss) < Z90 * error) if np.isfinite(error).any() else np.nan
        table[name] = (
            f"{miss.mean():+.4f}", f"{miss.std():.4f}", f"{np.sqrt((miss**2).mean()):.4f}",
            "-" if np.isnan(held) else f"{100 * held:.0f} %", f"{len(miss)}",
        )  # fmt: skip
    table["one crossing found, of pairs that cross"] = ("", "", "", "", f"{sure} of {count}")
    table["a crossing found, of equal pairs"] = ("", "", "", "", f"{equal} of {count}")
    return table


def write_runs(folder: Path, count: int, records: int = 500) -> None:
    """Run directories of our own, at six batch sizes and with noise."""
    from megascale.formats.run_log import RunLog

    for number in range(count):
        rng = np.random.default_rng(number)
        batch = 2**14 * 2 ** (number % 6)
        own = folder / f"run-{number:04d}"
        own.mkdir(parents=True)
        log = RunLog(own, header={"name": own.name})
        interval = 2**19 * 4
        for k in range(1, records + 1):
            tokens = interval * k
            loss = float(2 + 60 * ((tokens - interval / 2) / batch) ** -0.5 + 0.02 * rng.normal())
            log.metrics({
                "step": tokens // batch, "tokens": tokens, "samples": tokens // 1024,
                "batch_tokens": batch, "micro_batches": 1, "sequence_length": 1024,
                "interval_tokens": interval, "steps": interval // batch, "skipped": 0,
                "loss_sum": loss * interval, "loss_tokens": interval, "loss": loss, "lr": 1e-3,
                "weight_decay": 0.1, "grad_norm": 1.0, "seconds": 2.0,
            })  # fmt: skip
        log.close()


def speed(count: int) -> None:
    """Wall clock of the whole verb, with nothing cached."""
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder) / "runs", count)
        for words in ((), ("--json",)):
            begin = time.perf_counter()
            command = [sys.executable, "-m", "megascale", "compare", f"{folder}/runs", "--no-cache"]
            done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - begin
            lines = done.stdout.count("\n")
            what = f"compare of {count} runs of 500 records {' '.join(words)}".strip()
            print(f"{what}: {seconds:.1f} s, {lines} lines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="simulated pairs of runs a scene")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=int, help="runs to compare, instead of simulations")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.speed:
        speed(options.speed)
        return
    found = {scene.name: simulate(scene, options.count, options.seed) for scene in SCENES}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, table in found.items():
        print(f"\n{name}")
        for row, cells in table.items():
            print(f"  {row:<55}" + "".join(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    main()
