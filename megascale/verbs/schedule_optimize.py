"""`megascale schedule --optimize`: from options to bounds, to a plan, to what is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from megascale.errors import ConfigError
from megascale.verbs.schedule_request import LawSources, PlanRequest, bounds_of, step_times_of

if TYPE_CHECKING:
    from megascale.propose.best_schedule import BestSchedule
    from megascale.propose.loss_draws import LossDraws
    from megascale.propose.plan_check import JudgedPlan
    from megascale.propose.plan_verdict import PlanVerdict
    from megascale.propose.schedule_law import ScheduleLaw
    from megascale.schedule.batch import BatchSchedule


def plan_best(sources: LawSources, request: PlanRequest, *, as_json: bool, **shown: Any) -> None:
    """Read or fit the law of whole schedules, and plan under it.

    Args:
        sources: a law file, or logs.
        request: the plan's options.
        as_json, shown: as `optimize_schedule`.

    Raises:
        ConfigError: neither, or as `optimize_schedule`.
        FitError: the logs do not tell the law.
    """
    if sources.file is None and not sources.runs:
        rule = "--optimize plans under a law of whole schedules: give its file, or logs to fit"
        raise ConfigError.of("--law-file, --runs", None, rule, "--runs runs/")
    law, request = _law(sources, request, quiet=as_json)
    optimize_schedule(law, request, source=sources.words, as_json=as_json, **shown)


def judge_given(
    sources: LawSources, request: PlanRequest, schedule: BatchSchedule, *, quiet: bool
) -> JudgedPlan:
    """Read or fit the law of whole schedules, and judge a given schedule under it.

    Args:
        sources: a law file, or logs.
        request: the options: learning rate, bounds of the opponent.
        schedule: realised segments from token 0.
        quiet: show no progress.

    Raises:
        FitError: the logs do not tell the law.
        ScheduleError: the opponent's bounds lie outside what the law has seen.
    """
    from megascale.propose.plan_check import judge_schedule

    law, request = _law(sources, request, quiet=quiet)
    request = replace(request, min_batch=None, max_batch=None)
    return judge_schedule(
        law,
        bounds_of(request, law.seen),
        [(segment.start_tokens, segment.batch_tokens) for segment in schedule.segments],
        confidence=request.confidence or 0.9,
        beyond_data=request.beyond_data,
    )


def _law(
    sources: LawSources, request: PlanRequest, *, quiet: bool
) -> tuple[LossDraws, PlanRequest]:
    """The law, and the request with the weight decay that the law's runs had."""
    from megascale.formats.schedule_law_file import read_schedule_law
    from megascale.propose.schedule_law import ScheduleLaw
    from megascale.verbs.option_words import read_options
    from megascale.verbs.progress import StageLine
    from megascale.verbs.reading import load_logs
    from megascale.verbs.searched_law import searched_law

    if sources.file is not None:
        if request.weight_decay is not None:
            rule = "the law file says the weight decay of its runs"
            raise ConfigError.of("--weight-decay", request.weight_decay, rule)
        law = ScheduleLaw.of_file(read_schedule_law(sources.file))
        _warn_of_settings(law, request)
        return law.draws(), replace(request, weight_decay=law.weight_decay)
    table = load_logs(sources.runs, None, read_options(), False, 1, True)
    with StageLine(quiet=quiet) as line:
        law = searched_law(table, request.weight_decay, said=line.show).law
    _warn_of_settings(law, request)
    return law.draws(), replace(request, weight_decay=law.weight_decay)


def _warn_of_settings(law: ScheduleLaw, request: PlanRequest) -> None:
    """Tell on standard error where the run that is planned is not as the law's runs were."""
    from megascale.formats.schedule_law_file import SettingsOfRuns
    from megascale.propose.run_settings import other_settings, settings_of_run
    from megascale.verbs.law_output import warn

    settings = SettingsOfRuns(sequence_length=request.sequence)
    if request.at is not None:
        path = Path(request.at.path)
        settings = settings_of_run(path if path.is_dir() else path.parent)
    said = other_settings(law.conditions, settings)
    warn([f"the run has {words}: the law does not know what that does" for words in said])


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
