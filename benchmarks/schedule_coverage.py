"""How often intervals of a law of whole schedules hold schedules that it was not fitted to.

    python -m benchmarks.schedule_coverage switch --splits 20
    python -m benchmarks.schedule_coverage study --splits 10
    python -m benchmarks.schedule_coverage simulated --splits 20

`switch` and `study` split measured schedules at random into those that are fitted and those that
are predicted: the twelve of the shared data's switch_1M.csv, and the 22 of docs/studies.
`simulated` draws a law of the family, schedules and seeds anew each time; the form that is true is
not among those that are fitted. Beside the present rule stands the earlier one, in which the law's
own error was the same for all schedules (root mean square of the errors left out; for a difference
the root of twice their variance). A study's split takes some ten seconds of one core, the others
three.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.schedule_study import FIT, HELD_OUT, WEIGHT_DECAY, read_table
from megascale.errors import FitError
from megascale.fitting.history_law import FORMS, NAMES
from megascale.fitting.history_result import HistoryRun, Scales, predict_history
from megascale.laws.schedule.histories import runs_of_table
from megascale.laws.schedule.select import folds
from megascale.propose.loss_interval import IntervalRule
from megascale.propose.schedule_law import ScheduleLaw, search_schedule_law
from megascale.propose.schedule_plan import SchedulePlan
from megascale.schedule.lr import LRSchedule

FITTED = ("theta", "w0", "snr")
BEGIN, TOTAL, REPLICATES = 120_000.0, 1_000_000, 30
Split = tuple[list[list[HistoryRun]], list[list[HistoryRun]]]
"""Schedules that are fitted and those that are predicted, each with its seeds."""
TRUE = ("power", "two_exponentials", "progress", "exponential_r")
SCALES = Scales(lr=5e-3, batch=600.0, progress=1500.0)


@dataclass(frozen=True)
class Held:
    """How a split's intervals stand to what was measured: one row a level or a difference, columns
    |error|, half an interval by the present rule, and by the earlier one; nats."""

    levels: np.ndarray
    differences: np.ndarray


def measured_end(runs: Sequence[HistoryRun]) -> float:
    """Last loss, the mean over a schedule's seeds."""
    return float(np.mean([run.loss[np.argmax(run.tokens)] for run in runs]))


def tells_a_law(schedules: Sequence[Sequence[HistoryRun]]) -> bool:
    """Two fixed batches, a change of the batch and a decay are among the schedules."""
    histories = [runs[0].history for runs in schedules]
    fixed = {one.batch[0] for one in histories if (one.batch == one.batch[0]).all()}
    changed = any((one.batch != one.batch[0]).any() for one in histories)
    return len(fixed) > 1 and changed and any(one.lr_end[-1] < 0.9 * one.peak for one in histories)


def held_by(law: ScheduleLaw, schedules: Sequence[Sequence[HistoryRun]]) -> Held:
    """Errors and intervals at schedules that were not fitted."""
    draws = law.draws()
    rule = IntervalRule.of_all(draws, 0.9)
    histories = [runs[0].history for runs in schedules]
    ends = draws.end_losses(histories)
    off = rule.values(ends) - [measured_end(runs) for runs in schedules]
    now = rule.halves(ends, draws.discrepancy.levels(histories))
    before = rule.halves(ends, law.level_error)
    gaps = []
    for a, b in itertools.combinations(range(len(histories)), 2):
        own = draws.discrepancy.differences([histories[a]], histories[b])[0]
        gap = ends[:, a] - ends[:, b]
        halves = (float(rule.halves(gap, error)) for error in (own, law.difference_error))
        gaps.append((abs(off[a] - off[b]), *halves))
    return Held(np.column_stack([np.abs(off), now, before]), np.array(gaps))


def splits_of(runs: Sequence[HistoryRun], sizes: tuple[int, int], seed: int) -> Iterator[Split]:
    """Random splits of measured schedules."""
    schedules = [[runs[i] for i in fold] for fold in folds(runs, "schedule")]
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(schedules))
        cut = int(rng.integers(sizes[0], sizes[1] + 1))
        fitted = [schedules[i] for i in order[:cut]]
        if tells_a_law(fitted):
            yield fitted, [schedules[i] for i in order[cut:]]


def law_of(schedules: Sequence[Sequence[HistoryRun]]) -> ScheduleLaw:
    """The law of some schedules, as `megascale fit --law schedule` chooses it among `FITTED`."""
    runs = [run for own in schedules for run in own]
    return search_schedule_law(
        runs, loss="validation", from_tokens=BEGIN, weight_decay=WEIGHT_DECAY,
        forms=FITTED, replicates=REPLICATES, threads=1,
    ).law  # fmt: skip


def simulated(seed: int) -> Iterator[Split]:
    """Ten schedules of a law drawn at random are fitted, ten others predicted."""
    rng = np.random.default_rng(seed)
    while True:
        law = FORMS[TRUE[int(rng.integers(len(TRUE)))]]
        start = {"L_inf": 1.9, "a": 0.9, "p": 0.4, "c": 0.5, "x": 0.6, "q": 0.35, "tau": 30.0}
        start |= {"kappa": 0.5, "c2": 0.3, "tau2": 300.0, "r": 0.5}
        scattered = {k: v * np.exp(rng.normal(0, 0.15)) for k, v in start.items() if k in law.free}
        values = np.array([{**law.fixed, **scattered}.get(name, 0.0) for name in NAMES])
        plans = [random_plan(rng) for _ in range(20)]
        runs = []
        for i, plan in enumerate(plans):
            tokens = np.linspace(0.125, 1, 36) * TOTAL
            loss = predict_history(law, values, plan.history(f"{i}"), tokens, SCALES)[0][0]
            drift = np.convolve(rng.normal(0, 0.01, 40), np.ones(5) / 5**0.5, "valid")
            runs.append(HistoryRun(plan.history(f"{i}"), tokens, loss + drift))
        if not tells_a_law([[run] for run in runs[:10]]) or not np.isfinite(values).all():
            continue
        true = [HistoryRun(run.history, run.tokens[-1:], run.loss[-1:]) for run in runs[10:]]
        yield [[run] for run in runs[:10]], [[run] for run in true]


def random_plan(rng: np.random.Generator) -> SchedulePlan:
    """A batch of 128 to 2,048 that stays or changes once or twice, no decay or one of a tenth to
    half of the run, one of two peaks."""
    sizes = (2 ** rng.integers(7, 12, 3)).tolist()
    starts = sorted(round(share * TOTAL) for share in rng.uniform(0.3, 0.9, 2))
    count = int(rng.integers(1, 4))
    batches = tuple(zip((0, *starts)[:count], sizes[:count], strict=True))
    peak = 5e-3 if rng.random() < 0.8 else 3e-3
    decay = 0 if rng.random() < 0.4 else round(rng.uniform(0.1, 0.5) * TOTAL)
    final = peak * rng.choice([0.02, 0.1, 0.2]) if decay else peak
    lr = LRSchedule("wsd", peak, TOTAL, 50_000, 0.0, decay, "linear", final)
    return SchedulePlan(batches, lr, weight_decay=WEIGHT_DECAY)


def measured_runs(source: str) -> list[HistoryRun]:
    """Runs of the shared data, or of both studies."""
    if source == "study":
        return [
            run
            for path in (FIT, HELD_OUT)
            for run in runs_of_table(
                read_table(path), loss="validation", from_tokens=BEGIN, weight_decay=WEIGHT_DECAY
            )
        ]
    data = Path(os.environ.get("MEGASCALE_DATA", "../shared/data"))
    rows = pl.read_csv(data / "schedule_runs" / "switch_1M.csv")
    base = rows.select("run", "tokens", "batch_tokens", "lr")
    table = pl.concat(
        [
            base.with_columns(loss=rows["train_loss"], loss_kind=pl.lit("interval_mean")),
            base.with_columns(loss=rows["validation_loss"], loss_kind=pl.lit("validation")),
        ]
    ).filter(pl.col("loss").is_not_null())
    return runs_of_table(table, loss="validation", from_tokens=BEGIN, weight_decay=WEIGHT_DECAY)


def said_of(rows: Sequence[np.ndarray]) -> str:
    """Coverage and mean width by both rules."""
    error, now, before = np.concatenate(rows).T
    rms = np.sqrt(np.mean(error**2))
    return (
        f"{len(error)}: {np.mean(error < now):.0%} within, half {now.mean():.3f} | earlier rule "
        f"{np.mean(error < before):.0%}, {before.mean():.3f} | error {rms:.3f} rms"
    )


def main() -> None:
    """Print coverage after every split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", choices=("switch", "study", "simulated"))
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    said = parser.parse_args()
    if said.source == "simulated":
        splits = simulated(said.seed)
    else:
        sizes = (7, 9) if said.source == "switch" else (8, 13)
        splits = splits_of(measured_runs(said.source), sizes, said.seed)
    found: list[Held] = []
    while len(found) < said.splits:
        fitted, held = next(splits)
        try:
            found.append(held_by(law_of(fitted), held))
        except FitError as error:
            print(f"a split is left out: {error}")
            continue
        print(f"{len(found)} levels {said_of([one.levels for one in found])}", flush=True)
        print(f"{len(found)} differences {said_of([one.differences for one in found])}", flush=True)


if __name__ == "__main__":
    main()
