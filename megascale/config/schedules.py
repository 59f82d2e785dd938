"""Schedules of a configured run, built the same way by the trainer, the planner and --explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megascale.config.rates import (
    build_lr_schedule,
    build_remaining_points,
    build_weight_decay_schedule,
)
from megascale.config.sections import RunConfig
from megascale.formats.law_file import read_law_file
from megascale.model.count import count_parameters
from megascale.schedule.batch import BatchSchedule, build_batch_schedule
from megascale.schedule.law_driven import points_from_law
from megascale.schedule.lr import LRSchedule
from megascale.schedule.megatron import parse_step_schedule, rampup_points
from megascale.schedule.points import BatchPoint, format_table
from megascale.schedule.weight_decay import WeightDecaySchedule


@dataclass(frozen=True, slots=True)
class DataPhase:
    """A data mixture and the consumed tokens `[start_tokens, end_tokens)` it holds for."""

    start_tokens: int
    end_tokens: int
    mixture: Mapping[str, float]


def batch_schedule_from_config(
    config: RunConfig,
    data_parallel: int,
    *,
    n_params: int | None = None,
    start: tuple[int, int] = (0, 0),
) -> BatchSchedule:
    """The run's batch schedule on `data_parallel` data-parallel ranks, checked whole.

    Args:
        config: the run.
        data_parallel: data-parallel degree.
        n_params: N of a law, where it is not to be the model's own count of the law's `n_kind`.
        start: (consumed tokens, step) of a resumed run.

    Raises:
        ScheduleError: some segment from `start` on is illegal.
        ConfigError: the law gives something else than a batch.
        DataError: the law file cannot be used.
    """
    train, batch = config.train, config.batch
    points, source = requested_batches(config, n_params=n_params)
    sequence_multiple = config.parallel.tensor if config.parallel.sequence_parallel else 1
    return build_batch_schedule(
        points,
        total_tokens=train.total_tokens,
        sequence_length=train.sequence_length,
        micro_batch_size=train.micro_batch_size,
        data_parallel=data_parallel,
        rounding=batch.rounding,
        max_rounding=batch.max_rounding,
        lr_coupling=batch.lr_coupling,
        reference_tokens=batch.reference_tokens,
        growth=batch.growth,
        sequence_multiple=sequence_multiple,
        max_sequence_length=config.model.max_position_embeddings,
        max_micro_batch_size=train.max_micro_batch_size,
        skip_passed=batch.megatron_rampup is not None or batch.megatron_steps is not None,
        start=start,
        source=source,
        key=f"batch.{source['kind']}",
    )


def requested_batches(
    config: RunConfig, *, n_params: int | None = None
) -> tuple[tuple[BatchPoint, ...], dict[str, Any]]:
    """The batches a run asks for, before any layout, and where they come from.

    Args and errors as `batch_schedule_from_config`.
    """
    batch, length = config.batch, config.train.sequence_length
    if batch.law is not None:
        return _law_points(config, n_params)
    if batch.remaining is not None:
        points = build_remaining_points(batch.remaining, config.lr, config.train.total_tokens)
        return points, {"kind": "remaining", **batch.remaining.model_dump()}
    if batch.megatron_rampup is not None:
        ramp = batch.megatron_rampup
        points = rampup_points(
            ramp.start_samples,
            ramp.increment_samples,
            ramp.ramp_samples,
            ramp.global_batch_samples,
            sequence_length=length,
        )
        return points, {"kind": "megatron_rampup", **ramp.model_dump()}
    if batch.megatron_steps is not None:
        points = parse_step_schedule(batch.megatron_steps, sequence_length=length)
        return points, {"kind": "megatron_steps", "text": batch.megatron_steps}
    table = batch.schedule or ()
    return table, {"kind": "schedule", "text": format_table(table)}


def lr_schedule_from_config(config: RunConfig) -> LRSchedule:
    """The run's learning-rate schedule; raises as `build_lr_schedule`."""
    return build_lr_schedule(config.lr, config.train.total_tokens)


def weight_decay_from_config(config: RunConfig) -> WeightDecaySchedule:
    """The run's weight-decay schedule."""
    return build_weight_decay_schedule(config.weight_decay, config.train.total_tokens)


def phases_from_config(config: RunConfig) -> tuple[DataPhase, ...]:
    """The run's data mixtures over consumed tokens, covering `[0, total_tokens)`."""
    starts = [phase.start_tokens for phase in config.data.phases]
    ends = [*starts[1:], config.train.total_tokens]
    return tuple(
        DataPhase(start, end, dict(phase.mixture))
        for start, end, phase in zip(starts, ends, config.data.phases, strict=True)
    )


def _law_points(
    config: RunConfig, n_params: int | None
) -> tuple[tuple[BatchPoint, ...], dict[str, Any]]:
    section = config.batch.law
    assert section is not None
    law = read_law_file(section.file)
    n = n_params or getattr(count_parameters(config.model), law.n_kind)
    return points_from_law(
        law,
        n,
        file=section.file,
        key="batch.law.file",
        interval_tokens=section.interval_tokens,
        momentum=section.momentum,
        initial_tokens=section.initial_tokens,
        total_tokens=config.train.total_tokens,
        min_tokens=section.min_tokens,
        max_tokens=section.max_tokens,
    )
