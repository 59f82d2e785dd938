"""Seconds of a step by its batch: stated, or measured by the user's own runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from megascale.errors import ScheduleError
from megascale.propose.schedule_plan import SchedulePlan
from megascale.runs.readers.base import VALIDATION
from megascale.runs.table import RunTable
from megascale.units import CountError, format_count, read_count

KEY = "--step-seconds"


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of a step at some batches; between them the time is linear in the batch.

    Attributes:
        batch: tokens, increasing.
        seconds: of a step at each.
        source: where they came from.
    """

    batch: tuple[int, ...]
    seconds: tuple[float, ...]
    source: str = "stated"

    @classmethod
    def of_table(cls, table: Mapping[int, float], source: str = "stated") -> StepTimes:
        """Times by batch.

        Raises:
            ScheduleError: none, or a time that is not positive and finite.
        """
        if not table:
            raise ScheduleError.of(KEY, "(none)", "must say the seconds of a step at some batch")
        for batch, seconds in table.items():
            if batch < 1 or not 0 < seconds < float("inf"):
                raise ScheduleError.of(KEY, f"{batch}:{seconds}", "must be positive", "2M:1.7")
        sizes = sorted(table)
        return cls(tuple(sizes), tuple(float(table[size]) for size in sizes), source)

    @classmethod
    def of_steps(cls, steps: Iterable[tuple[int, float]], source: str) -> StepTimes:
        """Medians by batch of (batch_tokens, seconds of a step); batches met once are left out.

        Raises:
            ScheduleError: no batch is met twice.
        """
        by_batch: dict[int, list[float]] = {}
        for batch, seconds in steps:
            if np.isfinite(seconds) and seconds > 0:
                by_batch.setdefault(int(batch), []).append(float(seconds))
        table = {b: float(np.median(own)) for b, own in by_batch.items() if len(own) > 1}
        if not table:
            raise ScheduleError.of(KEY, source, "these logs say the seconds of no step", "2M:1.7")
        return cls.of_table(table, source)

    def at(self, batch: int) -> float:
        """Seconds of a step at a batch.

        Raises:
            ScheduleError: outside the batches that the times are known at.
        """
        low, high = self.batch[0], self.batch[-1]
        if not low <= batch <= high:
            known = f"step times are known from {format_count(low)} to {format_count(high)} tokens"
            nearest = format_count(low if batch < low else high)
            rule = f"no step time: {known}, and are not extrapolated"
            raise ScheduleError.of("batch", format_count(batch), rule, nearest)
        return float(np.interp(batch, self.batch, self.seconds))

    def run_seconds(self, plan: SchedulePlan) -> float:
        """Seconds of a whole run.

        Raises:
            ScheduleError: as `at`.
        """
        return sum(tokens / batch * self.at(batch) for tokens, batch in plan.shares())


def logged_step_times(table: RunTable) -> StepTimes:
    """Seconds of a step by batch, from the training rows of logs: the wall clock since the row
    before over the steps between, where the batch stayed.

    Raises:
        ScheduleError: the logs say the seconds of no step.
    """
    rows = table.table.filter(pl.col("loss_kind") != VALIDATION, pl.col("tokens").is_not_null())
    source, steps = ", ".join(rows["run"].unique(maintain_order=True).head(3)), []
    for own in rows.sort("tokens").partition_by("run", maintain_order=True):
        columns = (own[name].cast(pl.Float64) for name in ("tokens", "batch_tokens", "seconds"))
        tokens, batch, seconds = (c.fill_null(float("nan")).to_numpy() for c in columns)
        many = np.diff(tokens) / batch[1:]
        stays = (batch[1:] == batch[:-1]) & (many > 0)
        each = seconds[1:] / np.where(many > 0, many, np.nan)
        steps += list(zip(batch[1:][stays].astype(int), each[stays], strict=True))
    return StepTimes.of_steps(steps, source)


def parse_step_seconds(text: str) -> StepTimes:
    """`256:0.02,1Ki:0.05`: batches in tokens with the seconds of a step.

    Raises:
        ScheduleError: not this grammar, or as `StepTimes.of_table`.
    """
    table: dict[int, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        batch, colon, seconds = entry.partition(":")
        try:
            if not colon:
                raise ValueError
            table[read_count(batch.strip())] = float(seconds)
        except (ValueError, CountError):
            rule = "must be BATCH:SECONDS with commas, or the logs of runs"
            raise ScheduleError.of(KEY, entry, rule, "2M:1.7,4M:3.1") from None
    return StepTimes.of_table(table)
