"""`megascale schedule --optimize`: from options to bounds, to a plan, to what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from megascale.errors import ConfigError
from megascale.units import parse_count

if TYPE_CHECKING:
    from megascale.propose.best_schedule import BestSchedule
    from megascale.propose.loss_draws import LossDraws
    from megascale.propose.plan_bounds import PlanBounds
    from megascale.propose.plan_check import JudgedPlan
    from megascale.propose.plan_verdict import PlanVerdict
    from megascale.propose.replan import Standing
    from megascale.propose.seen_ranges import SeenRanges
    from megascale.propose.step_times import StepTimes
    from megascale.schedule.batch import BatchSchedule

GAPS = 20
"""The least distance of changes is this part of the budget where none is given."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """The options of a plan, as the user wrote them.

    Attributes:
        objective: tokens, steps, time or cost.
        total: the budget, tokens.
        sequence, micro, ranks, multiple: the layout.
        min_batch, max_batch, lr, warmup, decay, final_ratio: texts; None takes what was seen.
        lr_kind, decay_shape, coupling: of the learning rate.
        weight_decay: of the runs and the plan.
        calibrate: whether the intervals are held against left-out runs.
        max_changes, min_gap, shrink: of the batch.
        step_seconds, price, no_worse, beyond_data: of the objective.
        confidence: of the intervals; None is 0.9.
        at: where a running run stands, of which only the rest is planned.
    """

    objective: str
    total: int
    sequence: int
    micro: int
    ranks: int
    multiple: int
    min_batch: str | None
    max_batch: str | None
    lr: str | None
    lr_kind: str
    warmup: str | None
    decay: str | None
    decay_shape: str
    final_ratio: str | None
    coupling: str
    weight_decay: float | None
    calibrate: bool
    max_changes: int
    min_gap: str | None
    shrink: bool
    step_seconds: str | None
    price: float | None
    no_worse: float
    beyond_data: bool
    confidence: float | None
    at: Standing | None = None

    @property
    def unit(self) -> int:
        """Tokens that every batch is a multiple of."""
        from math import lcm

        return lcm(self.micro * self.ranks, self.multiple) * self.sequence


def optimize_from_logs(
    paths: Sequence[Path] | None, request: PlanRequest, *, as_json: bool, **shown: Any
) -> None:
    """Fit the law of whole schedules to logs, and plan under it.

    Args:
        paths: of the logs.
        request: the plan's options.
        as_json, shown: as `optimize_schedule`.

    Raises:
        ConfigError: no logs, or as `optimize_schedule`.
        FitError: the logs do not tell the law.
    """
    if not paths:
        rule = "--optimize plans under a law of whole schedules: give the logs that it is fitted to"
        raise ConfigError.of("--runs", None, rule, "--runs runs/")
    law = _law(paths, request, quiet=as_json)
    optimize_schedule(law, request, source=", ".join(map(str, paths)), as_json=as_json, **shown)


def judge_from_logs(
    paths: Sequence[Path], request: PlanRequest, schedule: BatchSchedule, *, quiet: bool
) -> JudgedPlan:
    """Fit the law of whole schedules to logs, and judge a given schedule under it.

    Args:
        paths: of the logs.
        request: the options: learning rate, bounds of the opponent.
        schedule: realised segments from token 0.
        quiet: show no progress.

    Raises:
        FitError: the logs do not tell the law.
        ScheduleError: the opponent's bounds lie outside what the law has seen.
    """
    from megascale.propose.plan_check import judge_schedule

    law = _law(paths, request, quiet=quiet)
    request = replace(request, min_batch=None, max_batch=None)
    return judge_schedule(
        law,
        bounds_of(request, law.seen),
        [(segment.start_tokens, segment.batch_tokens) for segment in schedule.segments],
        confidence=request.confidence or 0.9,
        beyond_data=request.beyond_data,
    )


def _law(paths: Sequence[Path], request: PlanRequest, *, quiet: bool) -> LossDraws:
    from megascale.propose.planning_law import law_of_logs
    from megascale.verbs.option_words import read_options
    from megascale.verbs.progress import StageLine
    from megascale.verbs.reading import load_logs

    table = load_logs(paths, None, read_options(), False, 1, True)
    with StageLine(quiet=quiet) as line:
        return law_of_logs(
            table,
            weight_decay=request.weight_decay,
            calibrate=request.calibrate,
            progress=line.show,
        )


def optimize_schedule(
    law: LossDraws,
    request: PlanRequest,
    *,
    source: str,
    to: str | None,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Plan, print the verdict with its tables, and write what was asked for.

    Raises:
        ConfigError: an option is not legal.
        ScheduleError: the bounds are empty, or lie outside what the law has seen.
    """
    from megascale.propose.best_schedule import best_schedule
    from megascale.propose.plan_rivals import rule_rivals
    from megascale.propose.plan_verdict import best_schedule_dict, plan_verdict
    from megascale.verbs.progress import StageLine

    if output is not None and to is None:
        raise ConfigError.of("--output", str(output), "says where an export goes; give --export")
    bounds = bounds_of(request, law.seen)
    times = step_times_of(request.step_seconds)
    with StageLine(quiet=as_json) as line:
        found = best_schedule(
            law,
            bounds,
            request.objective,  # type: ignore[arg-type]
            times=times,
            price_per_hour=request.price,
            confidence=request.confidence or 0.9,
            most_loss=request.no_worse,
            beyond_data=request.beyond_data,
            rivals=lambda opponent, inside: rule_rivals(law, opponent, inside),
            progress=line.show,
        )
    verdict = plan_verdict(found)
    laid = lay_out(found, verdict, request, source)
    text = None
    if to is not None:
        from megascale.propose.export import export

        text = export(
            laid,
            to,  # type: ignore[arg-type]
            lr=verdict.chosen.plan.lr,
            lr_coupling=found.bounds.coupling,
            past=() if request.at is None else request.at.history,
        )
    if plot is not None:
        from megascale.report.plan_figure import draw_best_schedule

        draw_best_schedule(found, verdict.chosen, plot)
    _show(found, verdict, laid, text, output, plot, as_json, best_schedule_dict(found))


def _show(
    found: BestSchedule,
    verdict: PlanVerdict,
    laid: BatchSchedule,
    text: str | None,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
    content: dict[str, Any],
) -> None:
    from megascale.verbs.schedule_output import segments_json, write_export

    if as_json:
        from megascale.propose.proposal import segments_dict

        more = {"source": dict(laid.source), "segments": segments_dict(laid), "export": text}
        typer.echo(segments_json(content | more))
    elif text is None or output is not None:
        from megascale.verbs.schedule_plan_tables import print_best_schedule, print_segments
        from megascale.verbs.tables import wide_console

        console = wide_console()
        print_best_schedule(found, verdict, console)
        print_segments(laid, verdict, console)
        if plot is not None:
            typer.echo(f"{plot}: written")
    else:
        for sentence in verdict.sentences:
            typer.echo(f"megascale: {sentence}", err=True)
    if text is not None and output is not None:
        write_export(output, text)
    elif text is not None and not as_json:
        typer.echo(text, nl=False)


def lay_out(
    found: BestSchedule, verdict: PlanVerdict, request: PlanRequest, law_source: str
) -> BatchSchedule:
    """The chosen plan's segments on the layout.

    Raises:
        ScheduleError: a segment is illegal for it.
    """
    from megascale.schedule.batch import build_batch_schedule
    from megascale.schedule.points import BatchPoint, format_table

    points = [BatchPoint(start, size) for start, size in verdict.chosen.plan.batches]
    source = {
        "kind": "optimized",
        "law_from": law_source,
        "objective": found.objective,
        "verdict": verdict.kind,
        "text": format_table(points),
    }
    return build_batch_schedule(
        points,
        total_tokens=request.total,
        sequence_length=request.sequence,
        micro_batch_size=request.micro,
        data_parallel=request.ranks,
        batch_multiple=request.multiple,
        rounding="exact",
        start=(0, 0) if request.at is None else (request.at.tokens, request.at.step),
        lr_coupling=found.bounds.coupling,
        source=source,
        key="--optimize",
    )


def bounds_of(request: PlanRequest, seen: SeenRanges) -> PlanBounds:
    """The bounds of the options; what is not given is what the law has seen.

    Raises:
        ConfigError: a range is none, or a learning rate's option does not go with its kind.
    """
    from megascale.propose.plan_bounds import PlanBounds

    total, kind = request.total, request.lr_kind
    if kind != "wsd" and request.decay is not None:
        rule = f"a learning rate of kind {kind} has no decay of its own length"
        raise ConfigError.of("--decay", request.decay, rule, "--lr-kind wsd")
    decay = (0, 0)
    if kind == "wsd" and request.decay is not None:
        low, high = _range(request.decay, "--decay", count=True)
        decay = (int(low), int(high))
    elif kind == "wsd" and seen.decay_share is not None:
        decay = (round(seen.decay_share[0] * total), round(seen.decay_share[1] * total))
    final = seen.final_ratio or (0.1, 0.1)
    if request.final_ratio is not None:
        final = _range(request.final_ratio, "--final-ratio")
    batch = seen.batch
    if (decay[1] > 0 or kind == "cosine") and seen.batch_decayed is not None:
        batch = seen.batch_decayed
    unit = request.unit
    least = -(-round(batch[0]) // unit) * unit
    most = max(round(batch[1]) // unit * unit, least)
    if request.min_batch is not None:
        least = parse_count(request.min_batch, "--min-batch")
    if request.max_batch is not None:
        most = parse_count(request.max_batch, "--max-batch")
    warmup = min(round(seen.warmup_tokens), total // 2)
    if request.warmup is not None:
        warmup = parse_count(request.warmup, "--warmup")
    gap = max((total - (0 if request.at is None else request.at.tokens)) // GAPS, 1)
    made = PlanBounds(
        total_tokens=total,
        unit_tokens=unit,
        batch=(least, most),
        peak=seen.peak if request.lr is None else _range(request.lr, "--lr"),
        max_changes=request.max_changes,
        min_gap=gap if request.min_gap is None else parse_count(request.min_gap, "--min-gap"),
        direction="any" if request.shrink else "up",
        lr_kind=kind,  # type: ignore[arg-type]
        warmup_tokens=warmup,
        decay_tokens=decay,
        final_ratio=final,
        shapes=(request.decay_shape,),  # type: ignore[arg-type]
        coupling=request.coupling,  # type: ignore[arg-type]
        weight_decay=request.weight_decay or 0.0,
    )
    return made if request.at is None else _bounds_of_rest(made, request, request.at)


def _bounds_of_rest(bounds: PlanBounds, request: PlanRequest, at: Standing) -> PlanBounds:
    """The bounds of a running run's rest: its batches so far, its learning rate's warmup and peak,
    and its decay unless another is asked for.

    Raises:
        ConfigError: the run's config does not say its learning rate, or the option changes what
            has been run.
    """
    for key, given in (("--lr", request.lr), ("--warmup", request.warmup)):
        if given is not None:
            raise ConfigError.of(key, given, "has been run already; the run's own holds")
    peak, kind = at.lr.get("peak"), at.lr.get("kind")
    if not isinstance(peak, float) or kind not in ("wsd", "constant"):
        rule = "must have a config beside its log that says a learning rate of kind wsd or constant"
        raise ConfigError.of("--replan", at.path, rule)
    decay, final = bounds.decay_tokens, bounds.final_ratio
    if request.decay is None:
        decay = (int(at.lr.get("decay_tokens") or 0),) * 2
    if request.final_ratio is None:
        own = at.lr.get("final_lr")
        ratio = at.lr.get("final_ratio", 0.1) if own is None else own / peak
        final = (float(ratio),) * 2
    left = bounds.total_tokens - at.tokens
    if request.decay is not None and decay[1] > left:
        raise ConfigError.of("--decay", request.decay, "longer than what is left of the run", left)
    past = tuple(
        (point.start_tokens, point.batch_tokens)
        for point in at.history
        if point.start_tokens < max(at.tokens, 1)
    )
    return replace(
        bounds,
        lr_kind=kind,
        peak=(peak, peak),
        warmup_tokens=int(at.lr.get("warmup_tokens") or 0),
        decay_tokens=decay,
        final_ratio=final,
        past=past,
        start_tokens=at.tokens,
    )


def step_times_of(text: str | None) -> StepTimes | None:
    """Step times of a table or of logs; None where nothing is given.

    Raises:
        ScheduleError: neither, or logs without the seconds of a step.
    """
    from megascale.propose.step_times import logged_step_times, parse_step_seconds
    from megascale.runs.table import load_runs

    if text is None:
        return None
    if Path(text).exists():
        return logged_step_times(load_runs([text]))
    return parse_step_seconds(text)


def _range(text: str, key: str, *, count: bool = False) -> tuple[float, float]:
    """`LOW:HIGH`, or one value twice."""
    low, colon, high = text.partition(":")
    values = []
    for part in (low, high if colon else low):
        try:
            values.append(float(parse_count(part, key)) if count else float(part))
        except ValueError:
            raise ConfigError.of(key, text, "must be a number, or LOW:HIGH") from None
    if not 0 <= values[0] <= values[1] < float("inf"):
        nearest = f"{high}:{low}" if colon else None
        raise ConfigError.of(key, text, "must be positive, the lower end first", nearest)
    return values[0], values[1]
