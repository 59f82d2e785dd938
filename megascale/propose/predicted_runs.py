"""What a law of whole schedules says of runs that have been made, beside what they measured."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.formats.law_file import input_of
from megascale.laws.schedule.histories import runs_of_table
from megascale.propose.prediction import PredictedSchedule, predict_schedules
from megascale.propose.schedule_law import ScheduleLaw
from megascale.propose.schedule_plan import SchedulePlan
from megascale.runs.table import LoadedRun, RunTable
from megascale.schedule.lr import LRSchedule

TUNED_BATCHES, TUNED_DECAYS = 9, 8
"""How many batches and decays are tried for the best fixed batch."""


@dataclass(frozen=True)
class PredictedRun:
    """A run and its prediction.

    Attributes:
        predicted: curve and end, from the run's own batches and learning rates.
        tokens, loss: measured, of the kind that the law is of, from where the law holds.
        fitted: whether the law was fitted to the run; None where its file does not say.
    """

    predicted: PredictedSchedule
    tokens: Array
    loss: Array
    fitted: bool | None

    @property
    def measured(self) -> float:
        """The last loss."""
        return float(self.loss[-1])

    @property
    def inside(self) -> bool:
        """Whether the last loss lies in the predicted interval."""
        return self.predicted.end.low <= self.measured <= self.predicted.end.high


def predict_runs(
    law: ScheduleLaw,
    table: RunTable,
    *,
    confidence: float,
    inputs: Collection[str] = (),
) -> tuple[list[PredictedRun], list[tuple[str, str]]]:
    """Predict every run of a table from its own history.

    Args:
        law: fitted.
        table: of the logs.
        confidence: of the intervals.
        inputs: SHA-256 of the files that the law was fitted to. Where some are among the table's,
            runs of another N than theirs are left out: the law is of one model.

    Returns:
        The runs, and (run, why) of those that are left out.
    """
    found: list[PredictedRun] = []
    left_out = []
    behind = {run.run: _is_fitted(table, run, inputs) for run in table.runs}
    sizes = {run.meta.n_params for run in table.runs if behind[run.run]}
    for run in table.runs:
        if sizes and run.meta.n_params not in sizes:
            left_out.append((run.run, "its N is not that of the runs behind the law"))
            continue
        try:
            (own,) = runs_of_table(
                table,
                loss=law.loss,
                from_tokens=law.from_tokens,
                weight_decay=law.weight_decay or 0.0,
                names=[run.run],
            )
            (said,) = predict_schedules(law, [own.history], [()], confidence=confidence)
        except FitError as error:
            left_out.append((run.run, str(error)))
            continue
        found.append(PredictedRun(said, own.tokens, own.loss, behind[run.run]))
    return found, left_out


def _is_fitted(table: RunTable, run: LoadedRun, inputs: Collection[str]) -> bool | None:
    """Whether one of the run's files is among the law's inputs."""
    if not inputs:
        return None
    return any(input_of(table.files[index].path).sha256 in inputs for index in run.files)


def best_fixed_batch(law: ScheduleLaw) -> SchedulePlan:
    """The fixed batch that the law calls best within what its runs have shown, with the decay that
    suits it; the peak is the largest and the last learning rate the lowest of those runs."""
    seen = law.seen
    total = round(seen.tokens)
    warmup = min(round(seen.warmup_tokens), total)
    batches = seen.batch if seen.batch_decayed is None else seen.batch_decayed
    shares = [0.0] if seen.decay_share is None else list(_between(*seen.decay_share, TUNED_DECAYS))
    ratio = 1.0 if seen.final_ratio is None else seen.final_ratio[0]
    plans = [
        _fixed(int(size), total, warmup, round(share * total), seen.peak[1], ratio, law)
        for size in sorted({round(b) for b in np.geomspace(*batches, TUNED_BATCHES)})
        for share in shares
    ]
    ends = law.draws().end_losses([plan.history() for plan in plans])
    return plans[int(np.argmin(np.mean(ends, axis=0)))]


def _between(low: float, high: float, count: int) -> Array:
    return np.linspace(low, high, count if high > low else 1)


def _fixed(
    batch: int, total: int, warmup: int, decay: int, peak: float, ratio: float, law: ScheduleLaw
) -> SchedulePlan:
    rate = LRSchedule(
        kind="wsd",
        peak=peak,
        total_tokens=total,
        warmup_tokens=warmup,
        decay_tokens=min(decay, total - warmup),
        final=peak * ratio,
    )
    return SchedulePlan(((0, batch),), rate, weight_decay=law.weight_decay or 0.0)
