"""The rest of a running run's batch schedule, planned anew from its own log.

What has been consumed stays as it was: the plan begins at the last logged step, with the batch that
ran there as the law's starting point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megascale.errors import DataError, ScheduleError
from megascale.formats.json_text import read_json
from megascale.formats.run_log import RunData, read_run
from megascale.schedule.law_driven import law_driven_points
from megascale.schedule.points import BatchPoint

CONFIG_DATA_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, by its own log.

    Attributes:
        path: the run directory.
        tokens, step: consumed tokens and finished steps.
        batch_tokens, micro_batches, sequence_length: of its last step.
        history: realised batches so far; changes stand where the log says they happened.
        total_tokens, micro_batch_size: from the run's config, None without one.
        lr: the `lr` section of the run's config; empty without one.
    """

    path: str
    tokens: int
    step: int
    batch_tokens: int
    micro_batches: int
    sequence_length: int
    history: tuple[BatchPoint, ...]
    total_tokens: int | None
    micro_batch_size: int | None
    lr: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data_parallel(self) -> int | None:
        """Data-parallel degree of the last step; None where the micro-batch is not known."""
        if self.micro_batch_size is None:
            return None
        per_rank = self.micro_batches * self.micro_batch_size * self.sequence_length
        return self.batch_tokens // per_rank


def standing(path: str | Path) -> Standing:
    """Read where a run stands.

    Args:
        path: the run directory, or its metrics file.

    Raises:
        RunError: no log there.
        DataError: the log has no record yet.
    """
    run = read_run(path)
    if not run.records:
        raise DataError.of("--replan", str(path), "the run has logged no step yet: plan it whole")
    last = run.records[-1]
    config = _config(run.path.parent)
    train = config.get("train", {})
    return Standing(
        path=str(path),
        tokens=last["tokens"],
        step=last["step"],
        batch_tokens=last["batch_tokens"],
        micro_batches=last["micro_batches"],
        sequence_length=last["sequence_length"],
        history=_history(run),
        total_tokens=train.get("total_tokens"),
        micro_batch_size=train.get("micro_batch_size"),
        lr=config.get("lr", {}),
    )


def replanned_law_points(
    batch_at: Callable[[int], float], at: Standing, **rest: Any
) -> tuple[BatchPoint, ...]:
    """Return `law_driven_points` from where the run stands: the looks beyond it, from its batch on.

    Args:
        batch_at: the law's batch (tokens) at consumed tokens.
        at: where the run stands.
        rest: as `law_driven_points`, without `initial_tokens`.

    Raises:
        ScheduleError: as `law_driven_points`.
    """
    points = law_driven_points(
        lambda tokens: at.batch_tokens if tokens <= at.tokens else batch_at(tokens),
        initial_tokens=at.batch_tokens,
        **rest,
    )
    ahead = [point for point in points if point.start_tokens > at.tokens]
    return (*_past(at), *ahead)


def replanned_table(points: Sequence[BatchPoint], at: Standing) -> tuple[BatchPoint, ...]:
    """Return a table's batches from where the run stands on; what was before it stays as it was.

    Raises:
        ScheduleError: the table does not start at 0.
    """
    if not points or points[0].start_tokens != 0:
        raise ScheduleError.of(
            "--table", points[0].start_tokens if points else "", "must start at 0 tokens", 0
        )
    now = [point for point in points if point.start_tokens <= at.tokens][-1]
    ahead = [point for point in points if point.start_tokens > at.tokens]
    past = _past(at)
    if at.tokens and now.batch_tokens != past[-1].batch_tokens:
        past = (*past, BatchPoint(at.tokens, now.batch_tokens, now.sequence_length))
    return (*past, *ahead)


def _past(at: Standing) -> tuple[BatchPoint, ...]:
    return tuple(point for point in at.history if point.start_tokens < max(at.tokens, 1))


def _history(run: RunData) -> tuple[BatchPoint, ...]:
    """Realised batches: changes from the events, else from the interval they are first seen in."""
    told = {
        (event["tokens"], event["batch_tokens"])
        for event in run.events
        if event.get("kind") == "batch_change" and {"tokens", "batch_tokens"} <= event.keys()
    }
    points = [BatchPoint(0, run.records[0]["batch_tokens"])]
    before = 0
    for record in run.records:
        batch = record["batch_tokens"]
        if batch != points[-1].batch_tokens:
            exact = [t for t, size in told if size == batch and before <= t <= record["tokens"]]
            points.append(BatchPoint(max(exact, default=before), batch))
        before = record["tokens"]
    return tuple(points)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_DATA_FILE
    try:
        content = read_json(file, "run config")
    except DataError:
        return {}
    return content if isinstance(content, dict) else {}
