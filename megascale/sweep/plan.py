"""What a study's runs take: tokens, steps, FLOPs, memory and time, checked without starting any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megascale.errors import UserError
from megascale.plan.steps import segment_work
from megascale.sweep.expand import PlannedRun
from megascale.sweep.study import Scale
from megascale.train.checks import batch_schedule_of, layout_of
from megascale.train.explain import explain


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
    """
    ends: dict[str, tuple[int, int]] = {}
    plans = []
    for run in runs:
        try:
            plan, ends[run.name] = _plan(run, scale, ends)
        except UserError as error:
            raise type(error)(f"run {run.name}: {error}") from None
        plans.append(plan)
    return plans


def _plan(
    run: PlannedRun, scale: Scale, ends: dict[str, tuple[int, int]]
) -> tuple[RunPlan, tuple[int, int]]:
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
    return plan, (schedule.total_tokens, schedule.total_steps)
