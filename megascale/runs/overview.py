"""One run in a few numbers, whatever its log's format."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from megascale.runs.readers.base import VALIDATION
from megascale.runs.table import LoadedRun, RunTable


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
        """The overview as plain JSON types."""
        return asdict(self) | {"segments": [asdict(segment) for segment in self.segments]}


def overview(loaded: RunTable, run: LoadedRun) -> RunOverview:
    """The overview of one loaded run."""
    rows = loaded.rows(run.run)
    validation = pl.col("loss_kind").str.starts_with(VALIDATION)
    train, valid = rows.filter(~validation), rows.filter(validation)
    files = [loaded.files[index] for index in run.files]
    restarts = sum(note.kind == "restart" for file in files for note in file.notes)
    extra = run.meta.extra
    return RunOverview(
        name=run.run,
        format=run.format,
        path=str(files[0].path),
        steps=_last(rows, "step"),
        tokens=_last(rows, "tokens"),
        segments=tuple(_segments(train)),
        loss=_last(train, "loss"),
        validation_loss=_last(valid, "loss"),
        attempts=extra.get("attempts", restarts + 1),
        skipped=extra.get("skipped"),
        malformed=sum(file.malformed_count for file in files),
        superseded=sum(file.superseded for file in files),
        exit_code=extra.get("exit_code"),
    )


def _last(rows: pl.DataFrame, column: str) -> Any:
    known = rows[column].drop_nulls()
    return known[-1] if len(known) else None


def _segments(train: pl.DataFrame) -> list[OverviewSegment]:
    weight = pl.col("tokens") - pl.col("tokens").shift().fill_null(0)
    groups = train.with_columns(
        weight=pl.when(pl.col("tokens").is_not_null().all()).then(weight).otherwise(1),
        segment=pl.col("batch_tokens").rle_id(),
    ).partition_by("segment", maintain_order=True)
    segments = []
    start_step, start_tokens = 0, 0
    for group in groups:
        counted = group.filter(pl.col("loss").is_not_null() & (pl.col("weight") > 0))
        weights, losses = counted["weight"].to_numpy(), counted["loss"].to_numpy()
        end_step, end_tokens = _last(group, "step"), _last(group, "tokens")
        segments.append(
            OverviewSegment(
                start_tokens=None if end_tokens is None else start_tokens,
                end_tokens=end_tokens,
                batch_tokens=group["batch_tokens"][0],
                steps=None if end_step is None else end_step - start_step,
                loss=float(weights @ losses / weights.sum()) if len(losses) else None,
            )
        )
        start_step = start_step if end_step is None else end_step
        start_tokens = start_tokens if end_tokens is None else end_tokens
    return segments
