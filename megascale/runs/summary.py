"""One run in a few numbers, from its log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from megascale.formats.run_log import RunData

ATTEMPT_KINDS = ("start", "resume", "branch")


@dataclass(frozen=True, slots=True)
class BatchSegment:
    """Consecutive records of one global batch.

    Attributes:
        start_tokens, end_tokens: consumed tokens before its first and after its last record.
        batch_tokens: global batch.
        steps: finished steps.
        loss: mean over its counted tokens, in nats per token; None where every step was skipped.
    """

    start_tokens: int
    end_tokens: int
    batch_tokens: int
    steps: int
    loss: float | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run's log says in short.

    Attributes:
        name: from the log's header, else the directory's.
        path: the run directory.
        steps, tokens: finished steps and consumed tokens after the last record.
        segments: batch sizes in order.
        loss: of the last record that has one, in nats per token.
        attempts: starts of the process.
        skipped: steps that the guard let no update through.
        malformed: lines that are no records.
        superseded: records that another attempt wrote again.
        exit_code: of the last attempt; None while it runs, or where it was killed.
    """

    name: str
    path: str
    steps: int
    tokens: int
    segments: tuple[BatchSegment, ...]
    loss: float | None
    attempts: int
    skipped: int
    malformed: int
    superseded: int
    exit_code: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON types."""
        return asdict(self) | {"segments": [asdict(segment) for segment in self.segments]}


def summarize(run: RunData) -> RunSummary:
    """Return the summary of a log that `read_run` returned."""
    last = run.records[-1] if run.records else {}
    begun = [event["kind"] in ATTEMPT_KINDS for event in run.events]
    after_last_start = run.events[max((i for i, one in enumerate(begun) if one), default=0) :]
    ended = [event.get("exit_code") for event in after_last_start if event["kind"] == "end"]
    losses = [record["loss"] for record in run.records if record.get("loss") is not None]
    return RunSummary(
        name=str(run.header.get("name") or run.path.parent.name),
        path=str(run.path.parent),
        steps=last.get("step", 0),
        tokens=last.get("tokens", 0),
        segments=tuple(_segments(run.records)),
        loss=losses[-1] if losses else None,
        attempts=sum(begun),
        skipped=sum(record.get("skipped", 0) for record in run.records),
        malformed=len(run.malformed),
        superseded=run.superseded,
        exit_code=ended[-1] if ended else None,
    )


def _segments(records: list[dict[str, Any]]) -> Iterable[BatchSegment]:
    step = tokens = 0
    for batch, group in groupby(records, key=lambda record: record["batch_tokens"]):
        members = list(group)
        counted = sum(record.get("loss_tokens", 0) for record in members)
        total = sum(record.get("loss_sum", 0.0) for record in members)
        end = members[-1]
        yield BatchSegment(
            start_tokens=tokens,
            end_tokens=end["tokens"],
            batch_tokens=batch,
            steps=end["step"] - step,
            loss=total / counted if counted else None,
        )
        step, tokens = end["step"], end["tokens"]
