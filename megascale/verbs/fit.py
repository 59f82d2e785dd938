"""`megascale fit`: fit one law to run logs, to a table of points, or to a grid of final losses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megascale.errors import EXIT_DONE, FitError
from megascale.verbs import fit_options as asked
from megascale.verbs import option_words as words
from megascale.verbs import options as said
from megascale.verbs.fit_options import SCHEDULE, By, Form, MinimumOf, Optima
from megascale.verbs.old_spellings import Verb

LOGS = "From run logs"
EXCESS = "Excess-data batch, from points or logs"
LOSSES_PANEL = "Compute-optimal N and D, from final losses"
OUTPUT = "Output"
"""Panels of the help that belong to this verb."""


def fit_command(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH...",
            help="Run logs of any format, directories, globs; or one table of points or of final "
            "losses (.csv, .tsv, .parquet, .jsonl). What a table is, its columns say.",
            show_default=False,
        ),
    ] = None,
    law: Annotated[
        str | None,
        typer.Option(
            help="Name of the law's form; --law list shows those of points (default wsd). From "
            "logs: auto (default: what the runs support), wsd, two_power, noise_floor, "
            "loss_surface or learning_rate. From final losses: learning_rate (default), batch, "
            "isoflop or chinchilla. From points also auto."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Also write: .json, a law file where the law gives a batch or a learning rate "
            "(else the fit's result); .csv or .parquet, the fit's result.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the law file; default the output's.", rich_help_panel=OUTPUT),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            help="Of logs: write the (S, E) points here (.csv, .parquet); without --law only that.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: said.AsJson = False,
    confidence: said.Confidence = 0.9,
    bootstrap: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=said.MOST_REPLICATES,
            help="Bootstrap replicates; 0 for none (default: 200 from logs, 1000 from final "
            "losses, 0 from points).",
            rich_help_panel=said.FITTING,
        ),
    ] = None,
    seed: said.Seed = 0,
    threads: said.Threads = None,
    weight_decay: said.WeightDecayOf = None,
    n_kind: said.NKindOf = None,
    loss: said.Loss = "auto",
    target_loss: said.TargetLoss = "8",
    smooth: said.Smooth = "5%",
    phase: said.PhaseOf = said.Phase.stable,
    form: Annotated[
        Form, typer.Option(help="Of the batch law in the file.", rich_help_panel=LOGS)
    ] = Form.power,
    x: Annotated[
        str | None,
        typer.Option(
            "--x",
            help="Input column, or several with commas (default: steps to the loss).",
            rich_help_panel=asked.POINTS_PANEL,
        ),
    ] = None,
    y: Annotated[
        str | None,
        typer.Option(
            "--y",
            help="Target column (default: tokens to the loss).",
            rich_help_panel=asked.POINTS_PANEL,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Columns whose distinct values make the problems.",
            rich_help_panel=asked.POINTS_PANEL,
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Column of weights.", rich_help_panel=asked.POINTS_PANEL)
    ] = None,
    runs: Annotated[
        str | None,
        typer.Option(
            help="Column naming each point's run, for --resample runs and wild_runs.",
            rich_help_panel=asked.POINTS_PANEL,
        ),
    ] = None,
    residual: Annotated[
        str,
        typer.Option(
            help="auto, relative, log, absolute or ray.", rich_help_panel=asked.POINTS_PANEL
        ),
    ] = "auto",
    objective: said.ObjectiveOf = None,
    delta: Annotated[
        float,
        typer.Option(
            help="Where the Huber objective turns linear.", rich_help_panel=asked.POINTS_PANEL
        ),
    ] = 1e-3,
    starts: Annotated[
        str, typer.Option(help="auto, grid, or how many.", rich_help_panel=asked.POINTS_PANEL)
    ] = "auto",
    resample: said.ResampleOf = said.Resample.parametric,
    fix: asked.Fix = None,
    bound: asked.Bound = None,
    shared: asked.Shared = None,
    prior: asked.Prior = None,
    constraint: asked.Constraint = None,
    sigma: asked.Sigma = None,
    absolute_sigma: asked.AbsoluteSigma = False,
    device: Annotated[
        str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=asked.POINTS_PANEL)
    ] = "auto",
    overhead: Annotated[
        float | None,
        typer.Option(
            help="Instead of a fit: the batch at which the data to a loss is this share above the "
            "best batch's, as 0.2; --law is wsd, two_power, noise_floor, classic, interpolation "
            "or all (default).",
            rich_help_panel=EXCESS,
        ),
    ] = None,
    reference_batch: Annotated[
        str | None,
        typer.Option(
            help="Batch in tokens that the data is compared with (default: each law's best).",
            rich_help_panel=EXCESS,
        ),
    ] = None,
    by: Annotated[
        By | None,
        typer.Option(
            help="What that batch's law is of (default: N, or D where an N has several losses).",
            rich_help_panel=EXCESS,
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            help="FLOP budgets with commas (default: those of the table).",
            rich_help_panel=LOSSES_PANEL,
        ),
    ] = None,
    minimum: Annotated[
        MinimumOf,
        typer.Option(help="How a budget's minimum is found.", rich_help_panel=LOSSES_PANEL),
    ] = MinimumOf.parabola,
    reach: Annotated[
        float | None,
        typer.Option(
            help="Only runs within this factor of the lowest loss's size.",
            rich_help_panel=LOSSES_PANEL,
        ),
    ] = None,
    drop_highest: Annotated[
        int,
        typer.Option(
            min=0,
            help="Leave out so many runs of the highest losses (chinchilla).",
            rich_help_panel=LOSSES_PANEL,
        ),
    ] = 0,
    hold: asked.Hold = None,
    optima: asked.OptimaOf = Optima.near_optimal,
    next_for: asked.NextFor = None,
    budget: asked.Budget = None,
    format: said.Format = None,
    columns: said.Columns = None,
    params: said.ParamsOfInputs = None,
    tokens: said.TokensOfInputs = None,
    seq_length: said.SeqLength = None,
    batch_tokens: said.BatchTokens = None,
    batch_samples: said.BatchSamples = None,
    loss_kind: said.LossKind = None,
    join: said.Join = False,
    workers: said.Workers = 0,
    cache: said.Cache = True,
) -> None:
    """Fit a law of the best batch or learning rate to run logs or final losses, or any to points.

    From logs: runs that differ in their batch alone (or their learning rate alone) at a constant
    learning rate; six batch sizes are the least, eight to twelve are better. Exits with 0 when
    every problem converged, with 7 when one did not or a point is bad.
    """
    from megascale import fitting
    from megascale.runs.inputs import GRID as A_GRID
    from megascale.runs.inputs import LOGS, STUDY
    from megascale.runs.inputs import POINTS as ARE_POINTS
    from megascale.verbs.fit_inputs import asked_kind, recognise_all
    from megascale.verbs.fit_losses import LOSS_LAWS
    from megascale.verbs.fit_options import LOSSES, refuse_unused

    if law == "list":
        typer.echo("\n".join(sorted([*fitting.law_names(), "isoflop", "auto", SCHEDULE])))
        raise typer.Exit(EXIT_DONE)
    if not paths:
        raise FitError.of("PATH", "none", "names no table and no logs", "points.csv or runs/")
    if output is not None and output.suffix not in (".json", ".csv", ".parquet"):
        raise FitError.of("--output", str(output), "must end in .json, .csv or .parquet")
    options = words.read_options(columns, seq_length, batch_tokens, batch_samples, loss_kind)
    constant: dict[str, float] = {
        name: float(value)
        for name, value in (
            ("n_params", words.parse_count_of(params, "--params")),
            ("tokens", words.parse_count_of(tokens, "--tokens")),
        )
        if value is not None
    }
    losses_alone = law in LOSS_LAWS and x is None and y is None
    named = x is not None or y is not None
    wanted = asked_kind(law if losses_alone or overhead is None else None, named)
    held = recognise_all(paths, law, options.columns, constant, format, wanted)
    kind = held[0].holds
    holds = SCHEDULE if law == SCHEDULE and kind in (LOGS, STUDY) else kind
    refuse_unused(context, LOSSES if losses_alone else holds)
    losses = words.parse_loss(loss)
    fitting.use_threads(threads)
    if losses_alone:
        from megascale.verbs import fit_losses

        by_size = fit_losses.LossOptions(
            columns=options.columns,
            loss=losses,
            constant=constant,
            group=words.parse_names(group),
            budgets=words.parse_numbers(budgets, "--budgets"),
            minimum=minimum.value,
            reach=reach,
            drop_highest=drop_highest,
            objective="huber" if objective is None else objective.value,
            delta=delta,
            replicates=fit_losses.LossOptions.replicates if bootstrap is None else bootstrap,
            confidence=confidence,
            seed=seed,
        )
        raise typer.Exit(fit_losses.fit_losses(held[0], law or "", by_size, output, as_json))
    excess = None
    if overhead is not None:
        from megascale.verbs import fit_excess

        excess = fit_excess.ExcessOptions(
            overhead=overhead,
            reference=words.parse_count_of(reference_batch, "--reference-batch"),
            by=None if by is None else by.value,
            seq_length=seq_length,
            replicates=fit_excess.ExcessOptions.replicates if bootstrap is None else bootstrap,
            confidence=confidence,
            seed=seed,
        )
    if kind == A_GRID:
        from megascale.laws.law_files import Naming
        from megascale.verbs import fit_grid

        law = law or "learning_rate"
        grid = fit_grid.GridOptions(
            columns=options.columns,
            seq_length=seq_length,
            loss=losses,
            constant=constant,
            method=optima.value,
            n_kind=None if n_kind is None else n_kind.value,
            hold=words.parse_pairs(hold, "--hold"),
            next_for=next_for,
            budget=budget,
            confidence=confidence,
        )
        naming = Naming(name or (output.stem if output is not None else law))
        raise typer.Exit(fit_grid.fit_grid_table(held[0], law, naming, grid, output, as_json))
    if kind == ARE_POINTS:
        from megascale.fitting.prior import parse_priors
        from megascale.verbs import fit_points

        chosen = fit_points.PointOptions(
            columns=options.columns,
            seq_length=seq_length,
            x=words.parse_names(x),
            y=y,
            group=words.parse_names(group),
            weights=weights,
            runs=runs,
            residual=residual,
            objective="squared" if objective is None else objective.value,
            delta=delta,
            starts=fit_points.parse_starts(starts),
            resample=resample.value,
            replicates=bootstrap or 0,
            confidence=confidence,
            fixed=words.parse_pairs(fix, "--fix"),
            bounds=words.parse_bounds(bound),
            shared=words.parse_names(shared),
            priors=parse_priors(prior),
            constraints=constraint or (),
            sigma=sigma,
            absolute_sigma=absolute_sigma,
            device=device,
            seed=seed,
        )
        if excess is not None:
            raise typer.Exit(
                fit_points.excess_of_points(held[0], law, chosen, excess, output, as_json)
            )
        raise typer.Exit(fit_points.fit_points(held[0], law or "wsd", chosen, output, as_json))
    from megascale.laws.from_logs import LogOptions
    from megascale.laws.law_files import Naming
    from megascale.verbs import fit_logs
    from megascale.verbs.reading import load_logs

    how = LogOptions(
        targets=words.parse_target_loss(target_loss or "8"),
        window=words.parse_smooth(smooth or "5%"),
        phase=phase.value,
        losses=losses,
        n_kind=None if n_kind is None else n_kind.value,
        n_params=constant.get("n_params"),
        form=form.value,
        replicates=LogOptions.replicates if bootstrap is None else bootstrap,
        confidence=confidence,
        seed=seed,
    )
    logs = load_logs(paths, format, options, join, workers, cache)
    if law == SCHEDULE:
        from megascale.verbs.fit_schedule import fit_schedule_law

        called = name or (output.stem if output is not None else law)
        replicates = 60 if bootstrap is None else bootstrap
        raise typer.Exit(
            fit_schedule_law(
                logs,
                called,
                weight_decay=weight_decay,
                replicates=replicates,
                confidence=confidence,
                output=output,
                as_json=as_json,
            )
        )
    if points is not None:
        fit_logs.write_points(logs, how, points)
        if law is None and excess is None:
            raise typer.Exit(EXIT_DONE)
    if excess is not None:
        naming = Naming(name or (output.stem if output is not None else "critical_batch"))
        raise typer.Exit(fit_logs.excess_of_logs(logs, law, naming, how, excess, output, as_json))
    law = law or "auto"
    naming = Naming(name or (output.stem if output is not None else law))
    raise typer.Exit(fit_logs.fit_run_logs(logs, law, naming, how, output=output, as_json=as_json))


app = typer.Typer(add_completion=False)
app.command(
    "fit",
    cls=Verb,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Examples:

  megascale fit runs/study -o law.json

  megascale fit 'logs/*.out.gz' --law learning_rate --params 1.2B -o rate.json

  megascale fit runs/study --law schedule -o law.json

  megascale fit grid.csv --law batch --columns loss=final_loss -o batch.json

  megascale fit points.csv --law wsd --group N,target_loss --x S --y E --json

  megascale fit --law list""",
)(fit_command)
