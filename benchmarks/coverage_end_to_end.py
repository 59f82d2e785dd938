"""From simulated training logs to `recommend`: does the band shown hold the best batch?

    python -m benchmarks.coverage_end_to_end [--studies 100] [--write docs/coverage.md]

Every study writes the logs of runs with a warmup, a noise floor that has to build up first, and
seeds that differ, as CSV files; reads, smooths and fits them as `megascale fit LOGS -o law.json`
does; and asks that law file as `megascale recommend --law-file` does after 1, 10 and 100 times the
largest D that was compared. Prints Markdown. Finished rows are kept in the file of `--rows`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.formats.law_file import read_law_file
from megascale.laws.from_logs import LogOptions, fit_logs
from megascale.laws.law_files import Naming
from megascale.laws.published.law import Target
from megascale.laws.published.recommend import recommend
from megascale.runs.table import load_runs
from tests.curves.simulated import Truth

TIMES = (1, 10, 100)
"""Of the range's last D."""
SMALLEST, LARGEST = 2**14, 2**22
TOKENS = 2e10
RECORDS = 300
PARAMS = 1e8


@dataclass(frozen=True)
class Study:
    """How a simulated study was run.

    Attributes:
        batches: batch sizes, over a factor of 256 in all.
        seeds: runs a batch.
        warmup: steps in which the learning rate rises to its peak.
        relaxing: steps in which the noise floor of a batch builds up.
        noise: of a record, nats.
        delay, rate: standard deviations between runs of log progress and of its growth per e-fold.
        sharpness: 1 for a loss surface; above it what is left to learn and the noise floor do not
            add, and the larger of them decides: no law that is fitted has that shape.
    """

    batches: int
    seeds: int = 1
    warmup: int = 1000
    relaxing: float = 100.0
    noise: float = 0.01
    delay: float = 0.015
    rate: float = 0.005
    sharpness: float = 1.0

    def loss(self, progress: Array, batch: float, built: Array) -> Array:
        """The loss at some progress (steps at the peak rate), with the floor's share built up."""
        left = SURFACE.a * progress**-SURFACE.p
        floor = SURFACE.c * batch**-SURFACE.q * built
        return SURFACE.floor + (left**self.sharpness + floor**self.sharpness) ** (
            1 / self.sharpness
        )

    def best_batch_after(self, tokens: float) -> float:
        """The batch of lowest loss after so many tokens at the peak rate."""
        ratio = (SURFACE.c / SURFACE.a) ** self.sharpness * SURFACE.q / SURFACE.p
        power = self.sharpness * (SURFACE.p + SURFACE.q)
        return float((ratio * tokens ** (self.sharpness * SURFACE.p)) ** (1 / power))

    @property
    def words(self) -> str:
        """What the table calls it."""
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        said = f"{self.batches} batches, {seeds}, warmup {self.warmup:,} steps"
        said += "" if self.sharpness == 1 else ", no surface"
        return said + ("" if self.delay < 0.03 else f", seeds differ by {self.delay:.0%}")


STUDIES = (
    *(Study(batches, seeds) for batches, seeds in itertools.product((4, 6, 8, 12), (1, 3))),
    Study(8, warmup=100),
    Study(8, 2, delay=0.04, rate=0.01),
    *(Study(batches, sharpness=2.0) for batches in (4, 6, 8, 12)),
)
SURFACE = Truth()


def write_logs(study: Study, seed: int, folder: Path) -> None:
    """The CSV logs of one study: step, tokens, batch, learning rate, interval mean of the loss."""
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(SMALLEST, LARGEST, study.batches) // 1024 * 1024
    for batch, number in itertools.product(sizes, range(study.seeds)):
        last = int(TOKENS / batch)
        steps = np.unique(np.geomspace(20, last, RECORDS).astype(np.int64))
        before = np.concatenate([[0], steps[:-1]])
        middle = (before + steps - 1) / 2
        # Progress is the sum of learning rates over the peak.
        ramp = np.minimum(middle, study.warmup)
        done = ramp**2 / (2 * study.warmup) + np.maximum(middle - study.warmup, 0.0)
        delay, rate = rng.standard_normal(2) * (study.delay, study.rate)
        done = np.maximum(done, 0.5)
        own = done * np.exp(delay + rate * np.log(done * batch / 1e8))
        loss = study.loss(own, batch, 1 - np.exp(-done / study.relaxing))
        pl.DataFrame(
            {
                "step": steps,
                "tokens": steps * int(batch),
                "batch_tokens": int(batch),
                "lr": 6e-4 * np.minimum((steps - 0.5) / study.warmup, 1.0),
                "loss": loss + study.noise * rng.standard_normal(len(steps)),
            }
        ).write_csv(folder / f"b{batch:.0f}-s{number}.csv")


@dataclass(frozen=True)
class Shown:
    """What `recommend` shows of one law at one D.

    Attributes:
        held: whether the band holds the truth; None where it is withheld.
        log_width: of the band.
        reason: why it is withheld.
    """

    held: bool | None
    log_width: float
    reason: str = ""


def one_study(study: Study, seed: int) -> tuple[str, dict[int, Shown]]:
    """The law that was taken, and what is shown at each of `TIMES`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_logs(study, seed, folder)
        try:
            logs = load_runs(folder, cache=False)
            fit = fit_logs(logs, "auto", Naming("simulated"), LogOptions(n_params=PARAMS))
        except FitError as error:
            return "no law", {times: Shown(None, np.nan, str(error)) for times in TIMES}
        path = folder / "law.json"
        path.write_text(fit.file.to_json())
        law = read_law_file(path)
    assert law.range.d is not None
    last = law.range.d[1]
    shown = {}
    for times in TIMES:
        target = Target(params=PARAMS, active_params=PARAMS, tokens=times * last)
        rows = recommend(target, sequence_length=4096, law_files=[law]).batch.rows
        (row,) = (row for row in rows if row.regime == "own law")
        if row.low is None or row.high is None:
            shown[times] = Shown(None, np.nan, "; ".join(row.warnings))
            continue
        best = study.best_batch_after(times * last)
        shown[times] = Shown(row.low <= best <= row.high, float(np.log(row.high / row.low)))
    made = str(fit.file.diagnostics.get("law", type(fit.law).__name__))
    return made, shown


def many(study: Study, count: int) -> dict[str, Any]:
    """Shares of a study's bands that hold the truth, among those shown."""
    began = time.process_time()
    found = [one_study(study, seed) for seed in range(count)]
    held: dict[int, float | None] = {}
    widths: dict[int, float | None] = {}
    withheld: dict[int, float] = {}
    for times in TIMES:
        of = [shown[times] for _, shown in found]
        told = [one.held for one in of if one.held is not None]
        held[times] = 100 * sum(told) / len(told) if told else None
        wide = [one.log_width for one in of if one.held is not None]
        widths[times] = float(np.exp(np.median(wide))) if wide else None
        withheld[times] = 100 * (1 - len(told) / len(of))
    laws: dict[str, int] = {}
    for name, _ in found:
        laws[name] = laws.get(name, 0) + 1
    reasons = sorted({one.reason for _, shown in found for one in shown.values() if one.reason})
    return {"study": study.words, "studies": count, "held": held, "widths": widths,
            "withheld": withheld, "laws": laws, "reasons": reasons[:3],
            "seconds": time.process_time() - began}  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of finished rows."""
    lines = [
        "| simulated | studies | held at 1, 10 and 100 times the range, in % "
        "| median width of the band, a factor | withheld, in % | law taken |",
        "|---|---|---|---|---|---|",
    ]

    def cells(of: dict[str, float | None], shape: str) -> str:
        shown = [of[str(times)] for times in TIMES]
        return ", ".join("-" if value is None else format(value, shape) for value in shown)

    for row in rows:
        laws = ", ".join(f"{name} {count}" for name, count in sorted(row["laws"].items()))
        lines.append(
            f"| {row['study']} | {row['studies']} | {cells(row['held'], '.0f')} "
            f"| {cells(row['widths'], '.3g')} | {row['withheld']['1']:.0f} | {laws} |"
        )
    seconds = sum(row["seconds"] for row in rows)
    return "\n".join([*lines, "", f"{seconds:.0f} s of CPU time"])


BEGIN = "<!-- benchmarks/coverage_end_to_end.py writes what follows -->"
"""Its table stands between this and the next heading of a page."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--only", default="", help="studies whose words contain this")
    parser.add_argument("--rows", type=Path, help="JSON lines of finished rows, of any count")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    given = parser.parse_args()
    known = {}
    if given.rows is not None and given.rows.exists():
        found = [json.loads(line) for line in given.rows.read_text().splitlines()]
        known = {row["study"]: row for row in found}
    rows = []
    for study in STUDIES:
        row = known.get(study.words)
        if row is None and given.only in study.words:
            row = json.loads(json.dumps(many(study, given.studies)))
            if given.rows is not None:
                with given.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{study.words}: {row['seconds']:.0f} s", file=sys.stderr, flush=True)
        if row is not None:
            rows.append(row)
    text = markdown(rows)
    if given.write is None:
        print(text)
        return
    page = given.write.read_text()
    begin = page.index(BEGIN) + len(BEGIN)
    end = page.index("\n## ", begin)
    given.write.write_text(page[:begin] + "\n\n" + text + "\n" + page[end:])


if __name__ == "__main__":
    main()
