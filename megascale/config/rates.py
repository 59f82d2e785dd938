"""Schedules of a config's sections: learning rate, weight decay, and the batch by rule."""

from __future__ import annotations

from megascale.config.schedule_sections import (
    BatchRemainingConfig,
    LRConfig,
    WeightDecayConfig,
)
from megascale.errors import ScheduleError
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import BatchPoint
from megascale.schedule.rules import remaining_points
from megascale.schedule.weight_decay import WeightDecaySchedule


def build_lr_schedule(config: LRConfig, total_tokens: int) -> LRSchedule:
    """The learning-rate schedule of a config section over a run of `total_tokens` tokens.

    Raises:
        ScheduleError: warmup and decay are longer than the run, or the final learning rate is
            above the one the decay starts from.
    """
    cosine = config.kind == "cosine"
    decay = total_tokens - config.warmup_tokens if cosine else config.decay_tokens
    if decay < 0 or config.warmup_tokens + decay > total_tokens:
        raise ScheduleError.of(
            "lr.warmup_tokens + lr.decay_tokens",
            config.warmup_tokens + config.decay_tokens,
            "longer than the run",
            total_tokens,
        )
    final = config.peak * config.final_ratio if config.final_lr is None else config.final_lr
    schedule = LRSchedule(
        kind=config.kind,
        peak=config.peak,
        total_tokens=total_tokens,
        warmup_tokens=config.warmup_tokens,
        start_ratio=config.start_ratio,
        decay_tokens=decay,
        decay_shape="cosine" if cosine else config.decay_shape,
        final=final,
        coefficient=config.power_coefficient or 1.0,
        exponent=config.power_exponent or 0.0,
    )
    if decay:
        begin = schedule.at(schedule.decay_start_tokens)
        if final > begin:
            key = "lr.final_ratio" if config.final_lr is None else "lr.final_lr"
            value = config.final_ratio if config.final_lr is None else final
            limit = begin / config.peak if config.final_lr is None else begin
            raise ScheduleError.of(
                key,
                value,
                f"the decay would rise: it starts from a learning rate of {begin:.6g}",
                f"{limit:.6g} or less",
            )
    return schedule


def build_weight_decay_schedule(
    config: WeightDecayConfig, total_tokens: int
) -> WeightDecaySchedule:
    """The weight-decay schedule of a config section over a run of `total_tokens` tokens."""
    end = config.value if config.end_value is None else config.end_value
    return WeightDecaySchedule(config.schedule, config.value, end, total_tokens)


def build_remaining_points(
    config: BatchRemainingConfig, lr: LRConfig, total_tokens: int
) -> tuple[BatchPoint, ...]:
    """The batches of a section `batch.remaining`, under its run's learning rate.

    Raises:
        ScheduleError: the learning rate decays throughout, or as `remaining_points`.
    """
    if lr.kind == "cosine":
        raise ScheduleError.of(
            "batch.remaining",
            "lr.kind: cosine",
            "the rule is for a learning rate that is stable before its decay",
            "lr.kind: wsd",
        )
    return remaining_points(
        config.initial_tokens,
        total_tokens=total_tokens,
        decay_tokens=min(lr.decay_tokens, total_tokens),
        max_tokens=config.max_tokens,
        ratio=config.ratio,
    )
