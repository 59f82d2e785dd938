"""From a request on the command line to a checked schedule with its band and its savings."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from megascale.errors import ConfigError
from megascale.formats.law_band import law_band, shown_confidence
from megascale.formats.law_file import MOST_OUTPUT, LawFile
from megascale.propose.replan import Standing, replanned_law_points, replanned_table
from megascale.propose.savings import FixedBatch, TokenSaving, fixed_batch, token_saving
from megascale.schedule.batch import BatchSchedule, Segment, build_batch_schedule
from megascale.schedule.law_driven import law_driven_points, points_from_law
from megascale.schedule.points import BatchPoint
from megascale.units import format_count, short_count


@dataclass(frozen=True, slots=True)
class LawRequest:
    """Follow a law: the arguments of `law_driven_points`, with the file and N.

    Attributes:
        law, file: the law and its path.
        n_params: N as the law counts it.
        interval_tokens, momentum, min_tokens, max_tokens: as `law_driven_points`.
        initial_tokens: batch before the first look; None takes the law's own, half an interval in,
            or the running run's when re-planning.
        confidence: of the band; None takes the law's own.
        peak_lr, lr_schedule: of the run, where known; the law's conditions are held against them.
    """

    law: LawFile
    file: str
    n_params: float
    interval_tokens: int
    momentum: float = 1.0
    initial_tokens: int | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    confidence: float | None = None
    peak_lr: float | None = None
    lr_schedule: str | None = None

    def looks(self, total_tokens: int) -> dict[str, Any]:
        """The arguments of `law_driven_points` that do not depend on where the run stands."""
        return {
            "interval_tokens": self.interval_tokens,
            "momentum": self.momentum,
            "min_tokens": self.min_tokens,
            "max_tokens": self.max_tokens,
            "total_tokens": total_tokens,
        }


@dataclass(frozen=True, slots=True)
class BatchBand:
    """What the law's own intervals would ask for at one threshold, in tokens."""

    requested_start_tokens: int
    low_tokens: int
    high_tokens: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """A schedule and what there is to know about it.

    Attributes:
        schedule: realised segments.
        bands: by rising threshold, where the law file has intervals.
        confidence: of the bands; None where there are none, or the law does not state it.
        fixed: steps against fixed batches.
        tokens: token savings by the law, or in words why there are none.
        at: where a re-planned run stands; None for a whole schedule.
    """

    schedule: BatchSchedule
    bands: tuple[BatchBand, ...]
    fixed: tuple[FixedBatch, ...]
    tokens: TokenSaving | str
    at: Standing | None = None
    confidence: float | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against a schedule that follows a law, by its own numbers."""
        if "sha256" not in self.schedule.source:
            return ()
        said = []
        falls = [
            (before, after)
            for before, after in pairwise(self.schedule.segments)
            if after.batch_tokens < before.batch_tokens
        ]
        if falls:
            before, after = falls[0]
            more = f", and {len(falls) - 1} times more" if len(falls) > 1 else ""
            said.append(
                f"the plan shrinks the batch from {format_count(before.batch_tokens)} to "
                f"{format_count(after.batch_tokens)} at {format_count(after.start_tokens)} tokens"
                f"{more}: a smaller --initial or a --min-batch keeps it from that"
            )
        saved = self.tokens
        if not isinstance(saved, str) and saved.token_saving < 0:
            said.append(
                f"by the law's own numbers the plan loses: a fixed batch of "
                f"{short_count(round(saved.best_batch_tokens))} reaches its loss on "
                f"{-saved.token_saving / (1 - saved.token_saving):.1%} fewer tokens"
            )
        return tuple(said)

    def band_at(self, threshold: int) -> BatchBand | None:
        """The band of the segment asked for at `threshold` tokens."""
        at = bisect_left(self.bands, threshold, key=lambda band: band.requested_start_tokens)
        found = self.bands[at] if at < len(self.bands) else None
        return found if found and found.requested_start_tokens == threshold else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        schedule = self.schedule
        segments = segments_dict(schedule)
        for segment in segments:
            band = self.band_at(segment["requested_start_tokens"])
            limits = None if band is None else [band.low_tokens, band.high_tokens]
            segment["batch_band_tokens"] = limits
        return {
            "start_tokens": schedule.start_tokens,
            "start_step": schedule.start_step,
            "total_tokens": schedule.total_tokens,
            "total_steps": schedule.total_steps,
            "source": dict(schedule.source),
            "segments": segments,
            "warnings": list(self.warnings),
            "band_confidence": self.confidence,
            "fixed_batches": [asdict(fixed) for fixed in self.fixed],
            "token_saving": self.tokens if isinstance(self.tokens, str) else asdict(self.tokens),
            "replanned_from": None if self.at is None else asdict(self.at),
        }


def segments_dict(schedule: BatchSchedule) -> list[dict[str, Any]]:
    """Realised segments as plain JSON types."""
    names = tuple(Segment.__slots__)
    return [{name: getattr(segment, name) for name in names} for segment in schedule.segments]


def propose(
    *,
    total_tokens: int,
    points: tuple[BatchPoint, ...] | None = None,
    source: dict[str, Any] | None = None,
    law: LawRequest | None = None,
    at: Standing | None = None,
    fixed_tokens: int | None = None,
    **layout: Any,
) -> Proposal:
    """Lay a schedule out and work out its band and savings.

    Args:
        total_tokens: the run's budget.
        points: requested batches; or
        law: follow a law instead.
        source: where `points` came from, for logs.
        at: where a running run stands: only what lies beyond it is planned.
        fixed_tokens: compare steps with this batch too.
        layout: as `build_batch_schedule`, without `start`.

    Raises:
        ConfigError: neither or both of points and law.
        ScheduleError: as `build_batch_schedule`.
    """
    bands: tuple[BatchBand, ...] = ()
    confidence = None
    multiple = layout.get("batch_multiple", 1)
    if law is not None and points is None:
        if law.initial_tokens is None and at is None:
            unit = math.lcm(layout["micro_batch_size"] * layout["data_parallel"], multiple)
            law = replace(law, initial_tokens=_first_batch(law, unit * layout["sequence_length"]))
        points, source = _law_points(law, total_tokens, at)
        bands = _bands(law, total_tokens, at)
        confidence = shown_confidence(law.law, law.confidence)[0] if bands else None
    elif law is None and points is not None:
        points = points if at is None else replanned_table(points, at)
    else:
        raise ConfigError("a schedule comes from a law file or from a table: give exactly one.")
    schedule = build_batch_schedule(
        points,
        total_tokens=total_tokens,
        source=source,
        start=(0, 0) if at is None else (at.tokens, at.step),
        **layout,
    )
    family = None if law is None else law.law.tokens_steps
    if family is None:
        tokens: TokenSaving | str = (
            "token savings need a law of tokens and steps (`tokens_steps` in the law file); "
            "only steps are compared"
        )
    else:
        tokens = token_saving(schedule, family)
    return Proposal(schedule, bands, _fixed(schedule, law, fixed_tokens), tokens, at, confidence)


def _first_batch(law: LawRequest, unit_tokens: int) -> int:
    """The law's batch half an interval in, at least one that the layout runs, within its bounds."""
    batch = max(round(law.law.evaluate(law.n_params, law.interval_tokens / 2)), unit_tokens)
    if law.max_tokens is not None:
        batch = min(batch, law.max_tokens)
    return max(batch, law.min_tokens or 1)


def _law_points(
    law: LawRequest,
    total_tokens: int,
    at: Standing | None,
) -> tuple[tuple[BatchPoint, ...], dict[str, Any]]:
    common = law.looks(total_tokens)
    points, source = points_from_law(
        law.law,
        law.n_params,
        file=law.file,
        key="--law-file",
        initial_tokens=law.initial_tokens if at is None else at.batch_tokens,
        **common,
    )
    if at is not None:
        points = replanned_law_points(
            lambda tokens: law.law.evaluate(law.n_params, tokens), at, **common
        )
    source["outside_conditions"] = law.law.conditions.outside(
        peak_lr=law.peak_lr, lr_schedule=law.lr_schedule
    )
    return points, source


def _bands(law: LawRequest, total_tokens: int, at: Standing | None) -> tuple[BatchBand, ...]:
    if law_band(law.law, law.n_params, total_tokens, law.confidence) is None:
        return ()
    common = law.looks(total_tokens)

    @cache
    def band_at(tokens: int) -> tuple[float, float]:
        found = law_band(law.law, law.n_params, tokens, law.confidence)
        if found is None:
            return (law.law.evaluate(law.n_params, tokens),) * 2
        # An interval without an upper end is drawn to the largest batch that can be counted.
        return found.low, min(found.high, MOST_OUTPUT)

    def points_of(end: Callable[[int], float]) -> tuple[BatchPoint, ...]:
        if at is not None:
            return replanned_law_points(end, at, **common)
        assert law.initial_tokens is not None
        return law_driven_points(end, initial_tokens=law.initial_tokens, **common)

    ends = [points_of(lambda t: band_at(t)[0]), points_of(lambda t: band_at(t)[1])]
    return tuple(
        BatchBand(low.start_tokens, low.batch_tokens, high.batch_tokens)
        for low, high in zip(*ends, strict=True)
        if low.start_tokens > (0 if at is None else at.tokens)
    )


def _fixed(
    schedule: BatchSchedule, law: LawRequest | None, fixed_tokens: int | None
) -> tuple[FixedBatch, ...]:
    made = []
    if fixed_tokens is not None:
        made.append(fixed_batch(schedule, fixed_tokens, "given"))
    if law is not None:
        best = round(law.law.evaluate(law.n_params, schedule.total_tokens))
        made.append(
            fixed_batch(schedule, max(best, 1), f"best for the whole budget by {law.law.name}")
        )
    if schedule.segments:
        sizes = [segment.batch_tokens for segment in schedule.segments]
        made.append(fixed_batch(schedule, sizes[0], "its own first batch throughout"))
        if max(sizes) != sizes[0]:
            made.append(fixed_batch(schedule, max(sizes), "its own largest batch throughout"))
    return tuple(made)


def standing_layout(
    at: Standing, *, sequence_length: int | None, micro_batch: int | None, data_parallel: int | None
) -> tuple[int, int, int]:
    """(sequence length, micro-batch size, data-parallel degree): as given, else the run's own.

    Raises:
        ConfigError: neither the run nor the options say.
    """
    micro = micro_batch or at.micro_batch_size
    ranks = data_parallel or at.data_parallel
    if micro is None or ranks is None:
        raise ConfigError.of(
            "--micro-batch, --dp",
            f"{micro_batch}, {data_parallel}",
            f"the run at {Path(at.path)} has no config beside its log: give both",
        )
    return sequence_length or at.sequence_length, micro, ranks
