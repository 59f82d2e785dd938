"""From a request on the command line to a checked schedule with its band and its savings."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from megascale.errors import ConfigError
from megascale.formats.law_band import law_band
from megascale.formats.law_file import LawFile
from megascale.propose.replan import Standing, replanned_law_points, replanned_table
from megascale.propose.savings import FixedBatch, TokenSaving, fixed_batch, token_saving
from megascale.schedule.batch import BatchSchedule, Segment, build_batch_schedule
from megascale.schedule.law_driven import law_driven_points, points_from_law
from megascale.schedule.points import BatchPoint


@dataclass(frozen=True, slots=True)
class LawRequest:
    """Follow a law: the arguments of `law_driven_points`, with the file and N.

    Attributes:
        law, file: the law and its path.
        n_params: N as the law counts it.
        interval_tokens, momentum, min_tokens, max_tokens: as `law_driven_points`.
        initial_tokens: batch before the first look; the run's own batch when re-planning.
    """

    law: LawFile
    file: str
    n_params: float
    interval_tokens: int
    momentum: float = 1.0
    initial_tokens: int | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None

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
class Band:
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
        fixed: steps against fixed batches.
        tokens: token savings by the law, or in words why there are none.
        at: where a re-planned run stands; None for a whole schedule.
    """

    schedule: BatchSchedule
    bands: tuple[Band, ...]
    fixed: tuple[FixedBatch, ...]
    tokens: TokenSaving | str
    at: Standing | None = None

    def band_at(self, threshold: int) -> Band | None:
        """The band of the segment asked for at `threshold` tokens."""
        at = bisect_left(self.bands, threshold, key=lambda band: band.requested_start_tokens)
        found = self.bands[at] if at < len(self.bands) else None
        return found if found and found.requested_start_tokens == threshold else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        schedule = self.schedule
        segments = []
        names = tuple(Segment.__slots__)
        for segment in schedule.segments:
            band = self.band_at(segment.requested_start_tokens)
            limits = None if band is None else [band.low_tokens, band.high_tokens]
            values = {name: getattr(segment, name) for name in names}
            segments.append(values | {"batch_band_tokens": limits})
        return {
            "start_tokens": schedule.start_tokens,
            "start_step": schedule.start_step,
            "total_tokens": schedule.total_tokens,
            "total_steps": schedule.total_steps,
            "source": dict(schedule.source),
            "segments": segments,
            "fixed_batches": [asdict(fixed) for fixed in self.fixed],
            "token_saving": self.tokens if isinstance(self.tokens, str) else asdict(self.tokens),
            "replanned_from": None if self.at is None else asdict(self.at),
        }


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
        ConfigError: neither or both of points and law, or no batch to start from.
        ScheduleError: as `build_batch_schedule`.
    """
    bands: tuple[Band, ...] = ()
    if law is not None and points is None:
        points, source = _law_points(law, total_tokens, at)
        bands = _bands(law, total_tokens, at)
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
    return Proposal(schedule, bands, _fixed(schedule, law, fixed_tokens), tokens, at)


def _law_points(
    law: LawRequest,
    total_tokens: int,
    at: Standing | None,
) -> tuple[tuple[BatchPoint, ...], dict[str, Any]]:
    if law.initial_tokens is None and at is None:
        raise ConfigError.of(
            "--initial", None, "the batch before the first look must be given", "2M"
        )
    common = law.looks(total_tokens)
    points, source = points_from_law(
        law.law,
        law.n_params,
        file=law.file,
        key="--law-file",
        initial_tokens=at.batch_tokens if at is not None else law.initial_tokens,
        **common,
    )
    if at is not None:
        points = replanned_law_points(
            lambda tokens: law.law.evaluate(law.n_params, tokens), at, **common
        )
    return points, source


def _bands(law: LawRequest, total_tokens: int, at: Standing | None) -> tuple[Band, ...]:
    if law_band(law.law, law.n_params, total_tokens) is None:
        return ()
    common = law.looks(total_tokens)

    @cache
    def band_at(tokens: int) -> tuple[float, float]:
        found = law_band(law.law, law.n_params, tokens)
        return found or (law.law.evaluate(law.n_params, tokens),) * 2

    def points_of(end: Callable[[int], float]) -> tuple[BatchPoint, ...]:
        if at is not None:
            return replanned_law_points(end, at, **common)
        assert law.initial_tokens is not None
        return law_driven_points(end, initial_tokens=law.initial_tokens, **common)

    ends = [points_of(lambda t: band_at(t)[0]), points_of(lambda t: band_at(t)[1])]
    return tuple(
        Band(low.start_tokens, low.batch_tokens, high.batch_tokens)
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
