"""What the papers say of learning rate, weight decay and sequence length under a growing batch,
held against small runs: a verdict a claim, from logs in docs/studies.

Studies: `configs/studies/{weight_decay,lr_coupling,cosine,sequence_length,step_law}.yaml` at
workstation scale. A claim is that a paired difference lies below (or above) a number; `agrees` and
`disagrees` where the 95 % interval over the seeds lies on one side of it, `cannot tell` otherwise.

    python -m benchmarks.paper_studies
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import linregress, t

from .study_logs import FOLDER, Ends, MeanOfPairs, by_seed, mean_of_pairs, read_ends, read_log

NO_WORSE = 0.01
"""Nats that 'as good as' allows: about the spread of pairs that share their data."""

Measured = Callable[[], MeanOfPairs]


@dataclass(frozen=True)
class Claim:
    """One claim: `measured` is below `bound` (above it where `above`)."""

    text: str
    unit: str
    measured: Measured
    bound: float = 0.0
    above: bool = False

    def verdict(self, found: MeanOfPairs) -> str:
        """agrees, disagrees or cannot tell."""
        if found.pairs < 2 or math.isnan(found.low):
            return "cannot tell (one run)"
        below, over = found.high < self.bound, found.low > self.bound
        if not (below or over):
            return "cannot tell"
        return "agrees" if over == self.above else "disagrees"


def ends(study: str) -> dict[str, Ends]:
    """Last losses of a study by arm, its axes in the arm's name."""
    return read_ends(FOLDER / f"{study}.csv.gz")


def gap(study: str, one: str, rival: str) -> Measured:
    """Last loss of `one` minus that of `rival`, paired by seed (nats)."""

    def measure() -> MeanOfPairs:
        found = ends(study)
        return mean_of_pairs(list(by_seed(found[one].loss, found[rival].loss).values()))

    return measure


def gap_of_gaps(study: str, first: tuple[str, str], second: tuple[str, str]) -> Measured:
    """(first[0] - first[1]) - (second[0] - second[1]), paired by seed (nats)."""

    def measure() -> MeanOfPairs:
        found = ends(study)
        a = by_seed(found[first[0]].loss, found[first[1]].loss)
        b = by_seed(found[second[0]].loss, found[second[1]].loss)
        return mean_of_pairs(list(by_seed(a, b).values()))

    return measure


def jump(study: str, one: str, rival: str, switch: int, window: int) -> Measured:
    """Rise of the training loss over a switch (mean of `window` tokens after it minus before it) of
    `one` minus that of `rival`, paired by seed (nats)."""

    def rises() -> dict[str, dict[int, float]]:
        rows = read_log(FOLDER / f"{study}.csv.gz").filter(pl.col("loss_kind") == "interval_mean")
        before = pl.col("tokens").is_between(switch - window + 1, switch)
        after = pl.col("tokens").is_between(switch + 1, switch + window)
        means = rows.group_by("run").agg(
            pl.col("loss").filter(before).mean().alias("before"),
            pl.col("loss").filter(after).mean().alias("after"),
        )
        found: dict[str, dict[int, float]] = {}
        for run, old, new in means.select("run", "before", "after").iter_rows():
            arm, _, seed = run.partition("_seed-")
            found.setdefault(arm, {})[int(seed)] = new - old
        return found

    def measure() -> MeanOfPairs:
        found = rises()
        return mean_of_pairs(list(by_seed(found[one], found[rival]).values()))

    return measure


def grid(study: str) -> dict[tuple[float, float], float]:
    """Last losses of a grid of learning rates and batches (tokens), mean of its seeds."""
    sizes = {"Ki": 1024.0, "Mi": 1024.0**2}
    found = {}
    for arm, one in ends(study).items():
        rate, batch = (part.split("-", 1)[1] for part in arm.split("_"))
        unit = next((unit for unit in sizes if batch.endswith(unit)), "")
        found[float(rate), float(batch.removesuffix(unit)) * sizes.get(unit, 1.0)] = one.mean
    return found


def optimum(x: np.ndarray, loss: np.ndarray) -> float:
    """Vertex of a parabola in log x through the lowest point and its neighbours; NaN at an edge."""
    best = int(np.argmin(loss))
    if best in (0, len(loss) - 1):
        return math.nan
    a, b, _ = np.polyfit(np.log(x[best - 1 : best + 2]), loss[best - 1 : best + 2], 2)
    return float(np.exp(-b / (2 * a)))


def optima(study: str, of_rate: bool) -> tuple[np.ndarray, np.ndarray]:
    """The best learning rate at each batch, or the best batch at each rate; inner optima only."""
    found = grid(study)
    rates, batches = (np.array(sorted({key[axis] for key in found})) for axis in (0, 1))
    table = np.array([[found.get((r, b), math.nan) for b in batches] for r in rates])
    if of_rate:
        best = np.array([optimum(rates, column) for column in table.T])
        return batches[np.isfinite(best)], best[np.isfinite(best)]
    best = np.array([optimum(batches, row) for row in table])
    return rates[np.isfinite(best)], best[np.isfinite(best)]


def slope(study: str, of_rate: bool) -> Measured:
    """Exponent of the optima of `optima`, with Student's t over its points."""

    def measure() -> MeanOfPairs:
        x, y = optima(study, of_rate)
        if len(x) < 3:
            return MeanOfPairs(math.nan, math.nan, math.nan, 1)
        line = linregress(np.log(x), np.log(y))
        half = t.ppf(0.975, len(x) - 2) * line.stderr
        return MeanOfPairs(line.slope, line.slope - half, line.slope + half, len(x))

    return measure


CLAIMS = (
    Claim(
        "weight decay 0.1: growing ends lower than fixed",
        "nats",
        gap("weight_decay", "growing_wd-0.1", "fixed_wd-0.1"),
    ),
    Claim(
        "weight decay 0.01: growing gains almost nothing",
        "nats",
        gap("weight_decay", "growing_wd-0.01", "fixed_wd-0.01"),
        bound=-NO_WORSE,
        above=True,
    ),
    Claim(
        "the gain of growing is larger under 0.1 than under 0.01",
        "nats",
        gap_of_gaps(
            "weight_decay",
            ("growing_wd-0.1", "fixed_wd-0.1"),
            ("growing_wd-0.01", "fixed_wd-0.01"),
        ),
    ),
    Claim(
        "growing: a constant rate is as good as one coupled by sqrt",
        "nats",
        gap("lr_coupling", "constant", "sqrt"),
        bound=NO_WORSE,
    ),
    Claim(
        "growing: a constant rate ends lower than one coupled linearly",
        "nats",
        gap("lr_coupling", "constant", "linear"),
    ),
    Claim("growing: sqrt ends lower than linear", "nats", gap("lr_coupling", "sqrt", "linear")),
    Claim(
        "cosine to 1e-5: growing ends lower than fixed",
        "nats",
        gap("cosine", "growing_final-1e-5", "fixed_final-1e-5"),
    ),
    Claim(
        "cosine to a tenth: growing ends lower than fixed",
        "nats",
        gap("cosine", "growing_final-tenth", "fixed_final-tenth"),
    ),
    Claim(
        "the gain of growing is larger where the rate ends higher",
        "nats",
        gap_of_gaps(
            "cosine",
            ("growing_final-tenth", "fixed_final-tenth"),
            ("growing_final-1e-5", "fixed_final-1e-5"),
        ),
    ),
    Claim(
        "longer sequences: the loss jumps at the first switch",
        "nats",
        jump("sequence_length", "sequence-length", "micro-batches", 700_000, 50_000),
        above=True,
    ),
    Claim(
        "longer sequences end as low as more micro-batches",
        "nats",
        gap("sequence_length", "sequence-length", "micro-batches"),
        bound=NO_WORSE,
    ),
    Claim(
        "the best batch grows with the learning rate",
        "exponent",
        slope("step_law", False),
        above=True,
    ),
    Claim(
        "the best learning rate grows with the batch",
        "exponent",
        slope("step_law", True),
        above=True,
    ),
)


def table(claims: tuple[Claim, ...] = CLAIMS) -> list[str]:
    """One line a claim whose study has logs: measured, interval, verdict."""
    lines = ["| claim | measured | 95 % interval | n | verdict |", "|---|---|---|---|---|"]
    for claim in claims:
        try:
            found = claim.measured()
        except (FileNotFoundError, KeyError):
            lines.append(f"| {claim.text} | not run | | | |")
            continue
        between = "" if math.isnan(found.low) else f"{found.low:+.3f} to {found.high:+.3f}"
        lines.append(
            f"| {claim.text} | {found.mean:+.3f} {claim.unit} | {between} | {found.pairs} | "
            f"{claim.verdict(found)} |"
        )
    return lines


def optima_table(study: str) -> list[str]:
    """Best learning rate at each batch and best batch at each learning rate."""
    lines = ["| batch (tokens) | best learning rate |", "|---|---|"]
    lines += [
        f"| {batch:,.0f} | {rate:.2e} |" for batch, rate in zip(*optima(study, True), strict=True)
    ]
    lines += ["", "| learning rate | best batch (tokens) |", "|---|---|"]
    lines += [
        f"| {rate:.1e} | {best:,.0f} |" for rate, best in zip(*optima(study, False), strict=True)
    ]
    return lines


def main() -> None:
    """Print the verdicts, and the optima of the grid."""
    print("\n".join(table()))
    if (FOLDER / "step_law.csv.gz").exists():
        print("\n" + "\n".join(optima_table("step_law")))


if __name__ == "__main__":
    main()
