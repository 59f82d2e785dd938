"""One run in a few numbers, whatever its log's format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale.runs.readers.base import BEGAN, SEGMENT_LOSSES, VALIDATION
from megascale.runs.table import LoadedRun, RunTable

MISSING = -(2**62)
"""Stands for an empty count; none is negative."""
_RECORD_COUNTS = ("step", "tokens", "batch_tokens")


@dataclass(frozen=True, slots=True)
class OverviewSegment:
    """Consecutive rows of one global batch.

    Attributes:
        start_tokens, end_tokens: consumed tokens before its first and after its last row.
        batch_tokens: global batch; None where the log does not say.
        steps: finished steps.
        loss: mean of its training losses, each weighted by the tokens that it is a mean of, where
            the log says, else by those since the row before, in nats per token; None where it has
            none.
        last_loss: of its last row that has one.
        lr: learning rate of its last row.
        seconds: wall clock of its rows; None where one of them has none.
    """

    start_tokens: int | None
    end_tokens: int | None
    batch_tokens: int | None
    steps: int | None
    loss: float | None
    last_loss: float | None = None
    lr: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RunOverview:
    """What a run's logs say in short; None where they do not say.

    Attributes:
        name: the run's id.
        format: of its files.
        path: its first file.
        n_params: N, as the log says.
        peak_lr: highest learning rate.
        steps, tokens: finished steps and consumed tokens after the last row.
        segments: batch sizes in order.
        loss, validation_loss: the last of each kind, in nats per token; where there are several
            validation sets, of the main one if there is one.
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
    n_params: int | None
    peak_lr: float | None
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
    lr: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    validation: npt.NDArray[np.bool_]
    main: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, table: pl.DataFrame) -> _Columns:
        step, tokens, batch = (
            table[name].fill_null(MISSING).to_numpy() for name in ("step", "tokens", "batch_tokens")
        )
        lr, seconds, loss = (
            table[name].fill_null(float("nan")).to_numpy() for name in ("lr", "seconds", "loss")
        )
        kinds = table["loss_kind"].fill_null("")
        validation, main = kinds.str.starts_with(VALIDATION), kinds == VALIDATION
        return cls(step, tokens, batch, lr, seconds, loss, validation.to_numpy(), main.to_numpy())

    def without_losses(self) -> _Columns:
        return replace(self, loss=np.full(len(self.loss), np.nan))

    def rows(self, which: slice | npt.NDArray[np.bool_]) -> _Columns:
        return _Columns(
            self.step[which],
            self.tokens[which],
            self.batch_tokens[which],
            self.lr[which],
            self.seconds[which],
            self.loss[which],
            self.validation[which],
            self.main[which],
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
        n_params=run.meta.n_params,
        peak_lr=_highest(rows.lr),
        steps=_last(rows.step),
        tokens=_last(rows.tokens),
        segments=tuple(
            _segments(
                train if len(train.step) else valid.without_losses(),
                extra.get(BEGAN, (0, 0)),
                extra.get(SEGMENT_LOSSES) if len(files) == 1 else None,
            )
        ),
        loss=_last_real(train.loss),
        validation_loss=_last_real(valid.loss[valid.main if valid.main.any() else slice(None)]),
        attempts=extra.get("attempts", restarts + 1),
        skipped=extra.get("skipped"),
        malformed=sum(file.malformed_count for file in files),
        superseded=sum(file.superseded for file in files),
        exit_code=extra.get("exit_code"),
    )


def _last(counts: npt.NDArray[np.int64]) -> int | None:
    known = np.flatnonzero(counts != MISSING)
    return int(counts[known[-1]]) if len(known) else None


def _highest(values: npt.NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else None


def _last_real(values: npt.NDArray[np.float64]) -> float | None:
    known = np.flatnonzero(~np.isnan(values))
    return float(values[known[-1]]) if len(known) else None


def record_segments(records: Sequence[Mapping[str, Any]]) -> list[OverviewSegment]:
    """The batch sizes of our own log, from its metrics records in the order of their steps.

    Args:
        records: `read_run(...).records`.
    """
    if not records:
        return []
    counts = {name: np.array([row[name] for row in records]) for name in _RECORD_COUNTS}
    reals = {
        name: np.array([np.nan if row.get(name) is None else float(row[name]) for row in records])
        for name in ("lr", "seconds", "loss")
    }
    validation = np.zeros(len(records), dtype=bool)
    first = records[0]
    began = first["step"] - first["steps"], first["tokens"] - first["interval_tokens"]
    weight = np.array([row["loss_tokens"] for row in records], dtype=np.float64)
    rows = _Columns(**counts, **reals, validation=validation, main=validation)
    return list(_segments(rows, began, weight=weight))


def _segments(
    train: _Columns,
    began: Sequence[int],
    losses: Sequence[float | None] | None = None,
    weight: npt.NDArray[np.float64] | None = None,
) -> Iterator[OverviewSegment]:
    """Stretches of one batch.

    Args:
        train: rows in order.
        began: finished steps and consumed tokens before the first.
        losses: mean loss of each stretch, where it is known exactly.
        weight: tokens that each row's loss is a mean of; None takes those since the row before.
    """
    if len(train.step) == 0:
        return
    start_step, start_tokens = began
    if weight is None:
        weight = np.ones(len(train.step))
        if (train.tokens != MISSING).all():
            weight = np.diff(train.tokens, prepend=start_tokens).astype(np.float64)
    starts = np.flatnonzero(np.diff(train.batch_tokens, prepend=MISSING + 1) != 0)
    if losses is not None and len(losses) != len(starts):
        losses = None
    for place, (begin, end) in enumerate(pairwise([*starts.tolist(), len(train.step)])):
        part = slice(begin, end)
        counted = ~np.isnan(train.loss[part]) & (weight[part] > 0)
        weights, values = weight[part][counted], train.loss[part][counted]
        mean = float(weights @ values / weights.sum()) if len(values) else None
        end_step, end_tokens = _last(train.step[part]), _last(train.tokens[part])
        batch = int(train.batch_tokens[begin])
        seconds = float(train.seconds[part].sum())
        yield OverviewSegment(
            start_tokens=None if end_tokens is None else start_tokens,
            end_tokens=end_tokens,
            batch_tokens=None if batch == MISSING else batch,
            steps=None if end_step is None else end_step - start_step,
            loss=mean if losses is None else losses[place],
            last_loss=_last_real(train.loss[part]),
            lr=_last_real(train.lr[part]),
            seconds=None if np.isnan(seconds) else seconds,
        )
        start_step = start_step if end_step is None else end_step
        start_tokens = start_tokens if end_tokens is None else end_tokens
