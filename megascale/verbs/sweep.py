"""`megascale sweep`: run a study, or say what it would take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from megascale.runs.files import STUDY_FOLDER, STUDY_RESULTS
from megascale.verbs.old_spellings import Verb
from megascale.verbs.options import AsJson
from megascale.verbs.tables import print_lines

if TYPE_CHECKING:
    from megascale.sweep.answer import Answer
    from megascale.sweep.cluster import ClusterRunner
    from megascale.sweep.plan import RunPlan
    from megascale.sweep.runner import Runner
    from megascale.sweep.study import StudyAt
    from megascale.verbs.sweep_display import StudyDisplay
    from megascale.verbs.sweep_place import Place

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SCHEMA = "megascale.sweep/1"
EPILOG = """Examples:

  megascale sweep configs/studies/batch_size.yaml --scale smoke

  megascale sweep configs/studies/batch_size.yaml --scale paper --dry-run

  megascale sweep configs/studies/learning_rate.yaml --scale paper --export out/lr

Exit codes: 0 all runs done; 75 stopped by a signal after checkpoints: start again to go on;
otherwise that of the first failed run (docs/exit-codes.md)."""


@app.command(cls=Verb, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def sweep(
    study: Annotated[Path, typer.Argument(help="YAML file of the study.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Dotted overrides for every run, KEY=VALUE.", show_default=False),
    ] = None,
    scale: Annotated[str, typer.Option(help="smoke, workstation or paper.")] = "smoke",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Runs at a time; default: one a core (or as many cores as ranks)."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the runs; default: runs/STUDY-SCALE.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check every run and list what it takes; start nothing."),
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write every run's config and command here, for a cluster; start nothing."
        ),
    ] = None,
    on: Annotated[
        Literal["local", "slurm", "ray"],
        typer.Option(
            "--on", help="Where the runs go: this machine, a Slurm cluster or a Ray cluster."
        ),
    ] = "local",
    runs_per_job: Annotated[
        int, typer.Option(min=1, max=100_000, help="Runs of one job of a cluster.")
    ] = 1,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of a Slurm job, repeated: time=240 (minutes), partition=gpu, cpus_per_task=8.",
            show_default=False,
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(min=1, max=65536, help="Cores of a Ray job; default: one a rank."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, max=4096, help="GPUs of a Ray job.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run every combination of a study, then compare, cross and fit as it asks.

    Started again, it goes on: finished runs are kept, interrupted ones continue from their newest
    checkpoint. A failed run is started once more; its last lines are shown if it fails again.
    """
    from megascale.sweep.expand import expand
    from megascale.sweep.plan import plan_runs
    from megascale.sweep.study import load_study

    at = load_study(study).at(scale)
    folder = output if output is not None else Path("runs") / f"{at.study.name}-{scale}"
    runs = expand(at, study, folder, overrides or [])
    plans = plan_runs(runs, at.block)
    if dry_run:
        _show_plan(at, plans, folder, as_json)
        return
    if export is not None:
        from megascale.sweep.export import export_runs

        export_runs(plans, export, at.block.ranks)
        typer.echo(f"{len(plans)} configs and commands.txt in {export}")
        return
    from megascale.extras import require_torch
    from megascale.sweep.progress import is_finished

    if not all(is_finished(plan.run.config) for plan in plans):
        require_torch("sweep")
    from megascale.verbs.sweep_place import Place

    place = Place(on, runs_per_job, tuple(slurm or ()), cores, gpus)
    raise typer.Exit(_run(at, plans, folder, jobs, place, as_json))


def _run(
    at: StudyAt,
    plans: Sequence[RunPlan],
    folder: Path,
    jobs: int | None,
    place: Place,
    as_json: bool,
) -> int:
    from megascale.errors import EXIT_INTERRUPTED
    from megascale.formats.run_log import json_value
    from megascale.sweep.finish import answers
    from megascale.sweep.results import read_results
    from megascale.train.rundir import RunDirectory
    from megascale.verbs.sweep_display import StudyDisplay
    from megascale.verbs.sweep_place import runner_of

    with StudyDisplay(quiet=as_json) as display, RunDirectory(folder / STUDY_FOLDER):
        runner = runner_of(at, plans, folder, jobs, place, display)
        code = runner.run()
        _show_failures(runner, display)
        done = [state.plan.run for state in runner.states if state.state == "done"]
        found: list[Answer] = []
        if done and code != EXIT_INTERRUPTED:
            found = answers(read_results(done), at.finish)
        result = json_value(_result(at, runner, found, code))
        (folder / STUDY_FOLDER / STUDY_RESULTS).write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        for answer in found:
            _show(answer.title, answer.columns, answer.rows, answer.notes)
        if code == EXIT_INTERRUPTED:
            typer.echo("interrupted: start the same command again to go on", err=True)
        elif found:
            typer.echo(f"\nresults: {folder / 'sweep' / 'results.json'}")
    return code


def _show_failures(runner: Runner | ClusterRunner, display: StudyDisplay) -> None:
    for state in runner.states:
        if state.state == "failed":
            display.line(f"\n{state.name} failed ({state.note}); {runner.log_of(state)} ends:")
            for line in runner.last_lines(state):
                display.line(f"  {line}")


def _result(
    at: StudyAt, runner: Runner | ClusterRunner, found: Sequence[Answer], code: int
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "study": at.study.name,
        "scale": at.scale,
        "question": at.study.question,
        "expected": at.study.expected,
        "exit_code": code,
        "runs": [
            {
                "run": state.name,
                "group": state.plan.run.group,
                "seed": state.plan.run.seed,
                "state": state.state,
                "tokens": state.progress.tokens,
                "attempts": state.attempts,
                "note": state.note,
            }
            for state in runner.states
        ],
        "answers": [
            {
                "title": answer.title,
                "columns": answer.columns,
                "rows": answer.rows,
                "notes": answer.notes,
                "data": answer.data,
            }
            for answer in found
        ],
    }


def _show_plan(at: StudyAt, plans: Sequence[RunPlan], folder: Path, as_json: bool) -> None:
    from megascale.units import duration, short_count

    if as_json:
        typer.echo(json.dumps(_plan_data(at, plans, folder), indent=2))
        return
    typer.echo(f"{at.study.name} at {at.scale} scale -> {folder}")
    typer.echo(f"question: {' '.join(at.study.question.split())}")
    if at.block.about:
        typer.echo(f"scale: {' '.join(at.block.about.split())}")
    columns = ("run", "parameters", "tokens", "steps", "batch", "FLOPs", "GiB/rank", "time")
    rows = [
        (
            plan.run.name,
            short_count(plan.parameters),
            short_count(plan.tokens),
            f"{plan.steps:,}",
            " > ".join(short_count(batch) for batch in plan.batches),
            f"{plan.flops:.2e}",
            f"{plan.memory_bytes / 2**30:.1f}",
            duration(plan.seconds),
        )
        for plan in plans
    ]
    seconds = [plan.seconds for plan in plans if plan.seconds is not None]
    known = len(seconds) == len(plans)
    notes = [
        f"{len(plans)} runs on {at.block.ranks} rank{'s' if at.block.ranks > 1 else ''} each: "
        f"{short_count(sum(plan.tokens for plan in plans))} tokens, "
        f"{sum(plan.flops for plan in plans):.2e} FLOPs"
        + (
            f", {sum(seconds) * at.block.ranks / 3600:,.1f} rank-hours"
            if known
            else ", time unknown"
        )
    ]
    if at.block.tokens_per_second is not None:
        notes.append(f"time at {at.block.tokens_per_second:,} tokens/s a run, as the study says")
    elif at.block.flops_per_second is not None:
        notes.append(f"time at {at.block.flops_per_second:.3g} FLOP/s a rank, as the study says")
    notes.append("every config, layout and schedule is in order; nothing was started")
    _show("Runs", columns, rows, notes)


def _plan_data(at: StudyAt, plans: Sequence[RunPlan], folder: Path) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "study": at.study.name,
        "scale": at.scale,
        "question": at.study.question,
        "output": str(folder),
        "ranks": at.block.ranks,
        "runs": [
            {
                "run": plan.run.name,
                "group": plan.run.group,
                "seed": plan.run.seed,
                "parent": plan.run.parent,
                "tokens": plan.tokens,
                "steps": plan.steps,
                "batch_tokens": list(plan.batches),
                "parameters": plan.parameters,
                "active_parameters": plan.active,
                "flops": plan.flops,
                "memory_bytes_per_rank": plan.memory_bytes,
                "seconds": plan.seconds,
                "config_digest": plan.run.config.digest(),
            }
            for plan in plans
        ],
    }


def _show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> None:
    """A table of texts with a title above it and lines under it."""
    typer.echo(f"\n{title}")
    if rows:
        print_lines(columns, rows)
    for note in notes:
        typer.echo(f"  {note}")
