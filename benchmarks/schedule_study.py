"""The studies of whole schedules, rebuilt from their logs: what was predicted, what was measured.

Logs of `configs/studies/schedule_fit.yaml`, `schedule_held_out.yaml` and two arms of
`schedule_planned.yaml` at workstation scale lie in docs/studies as compressed tables; predictions
that were written before the second study's runs lie beside them. Prints the tables of
docs/studies.md.

    python -m benchmarks.schedule_study
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import spearmanr, t

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "studies"
FIT, HELD_OUT = FOLDER / "schedule_fit.csv.gz", FOLDER / "schedule_held_out.csv.gz"
PLANNED = FOLDER / "schedule_planned.csv.gz"
PREDICTIONS = FOLDER / "schedule_predictions.json"
PAIRS = (
    ("up-twice", "small", "constant rate: 256 > 1Ki at half, against 256"),
    ("up-twice", "large", "the same against 1Ki, the best fixed batch"),
    ("ramp", "large", "constant rate: doubled every fifth, against 1Ki"),
    ("late", "middle", "constant rate: 512 > 2Ki at three quarters, against 512"),
    ("up-decay", "small-decay", "short decay: 256 > 1Ki at half, against 256"),
    ("late-decay", "small-decay", "short decay: 256 > 1Ki at seven tenths, against 256"),
    ("remaining-decay", "small-decay", "short decay: 1 / remaining, against 256"),
    ("inside-decay", "small-decay", "short decay: growth inside the decay, against 256"),
    ("up-long", "small-long", "long decay: 256 > 512 at six tenths, against 256"),
    ("up-long", "middle-long", "the same against 512"),
    ("small-long", "small-decay", "256: long deep decay against short"),
    ("small-sqrt", "small-decay", "256: 1-sqrt over three tenths against linear over two"),
    ("cosine", "small-decay", "256: cosine against the short decay"),
    ("planned", "fixed", "short decay: the planner's proposal, against its opponent, 256"),
)
"""(schedule, opponent, what it asks)."""


@dataclass(frozen=True)
class Ends:
    """Last validation losses of a schedule by seed, and its optimiser steps."""

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


def read_ends(path: Path) -> dict[str, Ends]:
    """Last validation losses of a study's finished runs, by arm."""
    with gzip.open(path) as file:
        table = pl.read_csv(file.read())
    last = table.filter(pl.col("loss_kind") == "validation").sort("tokens").group_by("run").last()
    last = last.filter(pl.col("tokens") >= 0.99 * pl.col("tokens").max())
    found: dict[str, tuple[dict[int, float], list[float]]] = {}
    for run, loss, steps in last.select("run", "loss", "step").iter_rows():
        arm, _, seed = run.partition("_seed-")
        losses, counts = found.setdefault(arm, ({}, []))
        losses[int(seed)] = loss
        counts.append(steps)
    return {arm: Ends(losses, float(np.mean(counts))) for arm, (losses, counts) in found.items()}


def predicted_table(measured: Mapping[str, Ends]) -> list[str]:
    """One line a schedule: predicted, measured, and whether the interval holds the mean."""
    written = json.loads(PREDICTIONS.read_text())
    lines = [
        "| schedule | predicted | 90 % interval | measured, mean of seeds | spread | off | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    off, held, pairs, near = [], [], [], []
    for one in written["schedules"]:
        ends = measured.get(one["schedule"])
        if ends is None:
            continue
        end = one["end"]
        inside = end["low"] <= ends.mean <= end["high"]
        off.append(ends.mean - end["value"])
        held.append(inside)
        pairs.append((end["value"], ends.mean))
        near.append(abs(off[-1]) <= 2 * ends.spread)
        spread = "" if np.isnan(ends.spread) else f"{ends.spread:.3f}"
        name = one["schedule"] + (" (outside)" if one["outside"] else "")
        lines.append(
            f"| {name} | {end['value']:.3f} | {end['low']:.3f} to {end['high']:.3f} | "
            f"{ends.mean:.3f} ({len(ends.loss)}) | {spread} | {off[-1]:+.3f} | "
            f"{'yes' if inside else 'no'} |"
        )
    error = np.array(off)
    rank = spearmanr(*np.array(pairs).T).statistic if len(pairs) > 2 else np.nan
    lines += [
        "",
        f"{sum(held)} of {len(held)} intervals hold, and {sum(near)} predictions are within twice "
        f"the spread over seeds; off by {error.mean():+.3f} in the mean, "
        f"{np.sqrt((error**2).mean()):.3f} rms, {error.std(ddof=1):.3f} around the mean; rank "
        f"correlation {rank:.2f}.",
    ]
    return lines


def paired_table(measured: Mapping[str, Ends]) -> list[str]:
    """Differences paired by seed, with 95 % intervals of Student's t, and the ratio of steps."""
    lines = [
        "| question | difference (nats) | 95 % interval | seeds | steps |",
        "|---|---|---|---|---|",
    ]
    for name, rival, question in PAIRS:
        if name not in measured or rival not in measured:
            continue
        one, other = measured[name], measured[rival]
        seeds = sorted(set(one.loss) & set(other.loss))
        gaps = np.array([one.loss[seed] - other.loss[seed] for seed in seeds])
        between = ""
        if len(gaps) > 1:
            half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
            between = f"{gaps.mean() - half:+.3f} to {gaps.mean() + half:+.3f}"
        lines.append(
            f"| {question} | {gaps.mean():+.4f} | {between} | {len(gaps)} | "
            f"{one.steps / other.steps:.2f} |"
        )
    return lines


def main() -> None:
    """Print both tables."""
    measured = read_ends(FIT)
    for path in (HELD_OUT, PLANNED):
        measured |= read_ends(path)
    print("\n".join(predicted_table(measured)), end="\n\n")
    print("\n".join(paired_table(measured)))


if __name__ == "__main__":
    main()
