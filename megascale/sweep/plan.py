"""What a study's runs take: tokens, steps, FLOPs, memory and time, checked without starting any."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from megascale.errors import ConfigError, UserError
from megascale.plan.steps import segment_work
from megascale.schedule.batch import BatchSchedule
from megascale.sweep.expand import PlannedRun
from megascale.sweep.study import Scale
from megascale.train.checks import batch_schedule_of, layout_of
from megascale.train.explain import explain
from megascale.units import format_count


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run on paper.

    Attributes:
        run: the run.
        tokens: consumed by this run itself; a branch's exclude its parent's.
        steps: optimizer steps over them.
        batches: realised global batches (tokens) in order.
        parameters, active: of the model.
        flops: model FLOPs.
        memory_bytes: estimate for one rank.
        seconds: estimate of the run's time; None where the scale states no speed.
    """

    run: PlannedRun
    tokens: int
    steps: int
    batches: tuple[int, ...]
    parameters: int
    active: int
    flops: int
    memory_bytes: int
    seconds: float | None


def plan_runs(runs: Sequence[PlannedRun], scale: Scale) -> list[RunPlan]:
    """Check layout and schedules of every run and say what it takes. No data file is looked at.

    Args:
        runs: of one study, parents before branches.
        scale: ranks and stated speeds.

    Raises:
        LayoutError: the ranks do not fit a run.
        ScheduleError: some segment is illegal on them.
        ConfigError: two runs are one, once their batches are rounded and clipped.
    """
    ends: dict[str, tuple[int, int]] = {}
    plans = []
    first: dict[str, PlannedRun] = {}
    twins: list[UserError] = []
    for run in runs:
        try:
            plan, schedule = _plan(run, scale, ends)
        except UserError as error:
            raise type(error)(f"run {run.name}: {error}") from None
        ends[run.name] = (schedule.total_tokens, schedule.total_steps)
        plans.append(plan)
        twin = first.setdefault(_what_it_does(run, schedule), run)
        if twin is not run and not _varies_micro_batches(twin, run):
            batches = " > ".join(format_count(batch) for batch in plan.batches[:4])
            more = " > ..." if len(plan.batches) > 4 else ""
            rule = f"trains the same as {twin.name}: batches {batches}{more} tokens once realised"
            twins.append(ConfigError.of("run", run.name, f"{rule}; leave one of them out"))
    if twins:
        raise ConfigError.together(twins)
    return plans


def _what_it_does(run: PlannedRun, schedule: BatchSchedule) -> str:
    """All that decides a run's numbers but for their rounding, as text.

    Micro-batches cut the same batch, so they do not count.
    """
    content = run.config.model_dump(mode="json")
    for key in ("name", "output_dir", "batch", "log", "checkpoint"):
        del content[key]
    for key in ("micro_batch_size", "max_micro_batch_size"):
        del content["train"][key]
    changes: list[tuple[int, tuple[float, ...]]] = []
    for part in schedule.segments:
        size = (part.batch_tokens, part.sequence_length, part.lr_scale)
        if not changes or changes[-1][1] != size:
            changes.append((part.start_tokens, size))
    return json.dumps([run.parent, content, changes], sort_keys=True)


def _varies_micro_batches(one: PlannedRun, other: PlannedRun) -> bool:
    """Whether two runs ask for the same batches and were given different micro-batches for it."""
    cuts = [
        (run.config.train.micro_batch_size, run.config.train.max_micro_batch_size)
        for run in (one, other)
    ]
    return one.config.batch == other.config.batch and cuts[0] != cuts[1]


def _plan(
    run: PlannedRun, scale: Scale, ends: dict[str, tuple[int, int]]
) -> tuple[RunPlan, BatchSchedule]:
    config = run.config
    report = explain(config, scale.ranks)
    start = (0, 0) if run.parent is None else ends[run.parent]
    data = layout_of(config, scale.ranks).data
    schedule = report.schedule if start == (0, 0) else batch_schedule_of(config, data, start)
    tokens = schedule.total_tokens - start[0]
    flops = sum(part.flops for part in segment_work(config.model, schedule))
    seconds = None
    if scale.tokens_per_second is not None:
        seconds = tokens / scale.tokens_per_second
    elif scale.flops_per_second is not None:
        seconds = flops / (scale.flops_per_second * scale.ranks)
    plan = RunPlan(
        run=run,
        tokens=tokens,
        steps=schedule.total_steps - start[1],
        batches=tuple(segment.batch_tokens for segment in schedule.segments),
        parameters=report.parameters.total,
        active=report.parameters.active,
        flops=flops,
        memory_bytes=report.memory.total,
        seconds=seconds,
    )
    return plan, schedule
