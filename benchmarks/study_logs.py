"""Logs of studies: packed into docs/studies as compressed tables, and read back as last losses.

python -m benchmarks.study_logs runs/weight_decay-workstation docs/studies/weight_decay.csv.gz
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import t

from megascale.runs.table import load_runs

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "studies"
COLUMNS = ("run", "step", "tokens", "batch_tokens", "lr", "loss", "loss_kind")


@dataclass(frozen=True)
class Ends:
    """Last validation losses of an arm by seed, and its optimiser steps."""

    loss: dict[int, float]
    steps: float

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.loss.values())))

    @property
    def spread(self) -> float:
        """Standard deviation over seeds."""
        return float(np.std(list(self.loss.values()), ddof=1)) if len(self.loss) > 1 else np.nan


@dataclass(frozen=True)
class MeanOfPairs:
    """Mean of differences paired by seed, with a 95 % interval (Student's t; NaN for one pair)."""

    mean: float
    low: float
    high: float
    pairs: int

    def words(self) -> str:
        """'-0.030 [-0.041, -0.018]'."""
        if self.pairs < 2:
            return f"{self.mean:+.4f}"
        return f"{self.mean:+.4f} [{self.low:+.3f}, {self.high:+.3f}]"


def read_log(path: Path) -> pl.DataFrame:
    """Rows of a packed study: `COLUMNS`."""
    with gzip.open(path) as file:
        return pl.read_csv(file.read())


def read_ends(path: Path) -> dict[str, Ends]:
    """Last validation losses of a study's finished runs, by arm (a run's name before its seed)."""
    table = read_log(path)
    last = table.filter(pl.col("loss_kind") == "validation").sort("tokens").group_by("run").last()
    last = last.filter(pl.col("tokens") >= 0.99 * pl.col("tokens").max())
    found: dict[str, tuple[dict[int, float], list[float]]] = {}
    for run, loss, steps in last.select("run", "loss", "step").iter_rows():
        arm, _, seed = run.partition("_seed-")
        losses, counts = found.setdefault(arm, ({}, []))
        losses[int(seed or 1)] = loss
        counts.append(steps)
    return {arm: Ends(losses, float(np.mean(counts))) for arm, (losses, counts) in found.items()}


def mean_of_pairs(gaps: Sequence[float]) -> MeanOfPairs:
    """Mean of paired differences and its 95 % interval."""
    values = np.array(gaps)
    half = np.nan
    if len(values) > 1:
        half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return MeanOfPairs(mean, float(mean - half), float(mean + half), len(values))


def by_seed(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """`one` minus `other` at the seeds that both have."""
    return {seed: one[seed] - other[seed] for seed in sorted(set(one) & set(other))}


def pack(runs: Path, target: Path) -> int:
    """Writes the logs of the runs under `runs` as one compressed table; the number of runs."""
    names = sorted(path.parent.name for path in runs.glob("*/metrics.jsonl"))
    frames = []
    for name in names:
        rows = load_runs([runs / name]).table.with_columns(pl.lit(name).alias("run"))
        frames.append(rows.select(COLUMNS).with_columns(pl.col("lr", "loss").round_sig_figs(8)))
    text = pl.concat(frames).write_csv()
    target.write_bytes(gzip.compress(text.encode(), mtime=0))
    return len(names)


def main() -> None:
    """Pack one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    print(f"{given.target}: {pack(given.runs, given.target)} runs")


if __name__ == "__main__":
    main()
