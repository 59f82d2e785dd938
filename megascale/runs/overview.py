"""One run in a few numbers, whatever its log's format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale.runs.readers.base import VALIDATION
from megascale.runs.table import LoadedRun, RunTable

MISSING = -(2**62)
"""Stands for an empty count; none is negative."""


@dataclass(frozen=True, slots=True)
class OverviewSegment:
    """Consecutive rows of one global batch.

    Attributes:
        start_tokens, end_tokens: consumed tokens before its first and after its last row.
        batch_tokens: global batch; None where the log does not say.
        steps: finished steps.
        loss: mean of its training losses, each weighted by the tokens since the row before where
            they are known, in nats per token; None where it has none.
    """

    start_tokens: int | None
    end_tokens: int | None
    batch_tokens: int | None
    steps: int | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class RunOverview:
    """What a run's logs say in short; None where they do not say.

    Attributes:
        name: the run's id.
        format: of its files.
        path: its first file.
        steps, tokens: finished steps and consumed tokens after the last row.
        segments: batch sizes in order.
        loss, validation_loss: the last of each kind, in nats per token.
        attempts: starts of the process, as far as the logs show them.
        skipped: steps without an update.
        malformed: lines that are no records.
        superseded: rows that another attempt wrote again.
        exit_code: of the last attempt; None while it runs, where it was killed, and in logs of
            other programs.
    """

    name: str
    format: str
    path: str
    steps: int | None
    tokens: int | None
    segments: tuple[OverviewSegment, ...]
    loss: float | None
    validation_loss: float | None
    attempts: int
    skipped: int | None
    malformed: int
    superseded: int
    exit_code: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the overview as plain JSON types."""
        return asdict(self) | {"segments": [asdict(segment) for segment in self.segments]}


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of some rows as arrays; `MISSING` and NaN where the table is empty."""

    step: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    batch_tokens: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]
    validation: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, table: pl.DataFrame) -> _Columns:
        step, tokens, batch = (
            table[name].fill_null(MISSING).to_numpy() for name in ("step", "tokens", "batch_tokens")
        )
        loss = table["loss"].fill_null(float("nan")).to_numpy()
        kinds = table["loss_kind"].fill_null("").str.starts_with(VALIDATION)
        return cls(step, tokens, batch, loss, kinds.to_numpy())

    def without_losses(self) -> _Columns:
        return replace(self, loss=np.full(len(self.loss), np.nan))

    def rows(self, which: slice | npt.NDArray[np.bool_]) -> _Columns:
        return _Columns(
            self.step[which],
            self.tokens[which],
            self.batch_tokens[which],
            self.loss[which],
            self.validation[which],
        )


def overviews(loaded: RunTable) -> list[RunOverview]:
    """Return the overview of every loaded run, in their order; time grows with the table alone."""
    columns = _Columns.of(loaded.table)
    lengths = loaded.table["run"].rle().struct.unnest()
    ends = np.cumsum(lengths["len"].to_numpy())
    bounds = dict(zip(lengths["value"], zip(ends - lengths["len"].to_numpy(), ends), strict=True))
    return [
        _overview(loaded, run, columns.rows(slice(*bounds.get(run.run, (0, 0)))))
        for run in loaded.runs
    ]


def overview(loaded: RunTable, run: LoadedRun) -> RunOverview:
    """Return the overview of one loaded run; `overviews` for all of them."""
    return _overview(loaded, run, _Columns.of(loaded.rows(run.run)))


def _overview(loaded: RunTable, run: LoadedRun, rows: _Columns) -> RunOverview:
    train, valid = rows.rows(~rows.validation), rows.rows(rows.validation)
    files = [loaded.files[index] for index in run.files]
    restarts = sum(note.kind == "restart" for file in files for note in file.notes)
    extra = run.meta.extra
    return RunOverview(
        name=run.run,
        format=run.format,
        path=str(files[0].path),
        steps=_last(rows.step),
        tokens=_last(rows.tokens),
        segments=tuple(_segments(train if len(train.step) else valid.without_losses())),
        loss=_last_loss(train.loss),
        validation_loss=_last_loss(valid.loss),
        attempts=extra.get("attempts", restarts + 1),
        skipped=extra.get("skipped"),
        malformed=sum(file.malformed_count for file in files),
        superseded=sum(file.superseded for file in files),
        exit_code=extra.get("exit_code"),
    )


def _last(counts: npt.NDArray[np.int64]) -> int | None:
    known = np.flatnonzero(counts != MISSING)
    return int(counts[known[-1]]) if len(known) else None


def _last_loss(loss: npt.NDArray[np.float64]) -> float | None:
    known = np.flatnonzero(~np.isnan(loss))
    return float(loss[known[-1]]) if len(known) else None


def _segments(train: _Columns) -> Iterator[OverviewSegment]:
    if len(train.step) == 0:
        return
    weight = np.ones(len(train.step))
    if (train.tokens != MISSING).all():
        weight = np.diff(train.tokens, prepend=0).astype(np.float64)
    starts = np.flatnonzero(np.diff(train.batch_tokens, prepend=MISSING + 1) != 0)
    start_step, start_tokens = 0, 0
    for begin, end in pairwise([*starts.tolist(), len(train.step)]):
        part = slice(begin, end)
        counted = ~np.isnan(train.loss[part]) & (weight[part] > 0)
        weights, losses = weight[part][counted], train.loss[part][counted]
        end_step, end_tokens = _last(train.step[part]), _last(train.tokens[part])
        batch = int(train.batch_tokens[begin])
        yield OverviewSegment(
            start_tokens=None if end_tokens is None else start_tokens,
            end_tokens=end_tokens,
            batch_tokens=None if batch == MISSING else batch,
            steps=None if end_step is None else end_step - start_step,
            loss=float(weights @ losses / weights.sum()) if len(losses) else None,
        )
        start_step = start_step if end_step is None else end_step
        start_tokens = start_tokens if end_tokens is None else end_tokens
