"""`megascale fit`: fit one law to the points of a table, or to run logs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from megascale.errors import EXIT_DONE, EXIT_FIT, FitError

LOGS = "From run logs"
"""Panel of the help that holds the options for logs."""
GRID = "From a table of final losses"
"""Panel of the help that holds the options for grids over learning rate and batch."""


class NKind(StrEnum):
    """Which parameters N counts."""

    total = "total"
    active = "active"
    non_embedding = "non_embedding"
    active_non_embedding = "active_non_embedding"


class Method(StrEnum):
    """How tokens to a loss are cut from a curve."""

    local = "local"
    first = "first"


class Phase(StrEnum):
    """Which records count."""

    stable = "stable"
    all = "all"


class Optima(StrEnum):
    """Points of the laws of a grid."""

    near_optimal = "near_optimal"
    quadratic = "quadratic"
    search_factor = "search_factor"


class Form(StrEnum):
    """Form of a batch law's file."""

    power = "power"
    loglog_table = "loglog_table"


def parse_pairs(values: list[str], option: str) -> dict[str, float]:
    """`NAME=VALUE` options as a mapping.

    Raises:
        FitError: an entry is not NAME=NUMBER.
    """
    out = {}
    for entry in values:
        name, _, number = entry.partition("=")
        try:
            out[name] = float(number)
        except ValueError:
            raise FitError.of(option, entry, "must be NAME=NUMBER") from None
    return out


def parse_bounds(values: list[str]) -> dict[str, tuple[float | None, float | None]]:
    """`NAME=LOW:HIGH` options as a mapping; an empty side is open.

    Raises:
        FitError: an entry is not NAME=LOW:HIGH.
    """
    out: dict[str, tuple[float | None, float | None]] = {}
    for entry in values:
        name, _, span = entry.partition("=")
        low, colon, high = span.partition(":")
        try:
            if not colon:
                raise ValueError
            out[name] = (float(low) if low else None, float(high) if high else None)
        except ValueError:
            raise FitError.of("--bound", entry, "must be NAME=LOW:HIGH") from None
    return out


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def fit_command(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH...",
            help="A table of points (.csv, .tsv, .parquet, .jsonl), or run logs of any format.",
            show_default=False,
        ),
    ] = None,
    law: Annotated[
        str | None,
        typer.Option(
            help="Law to fit; --law list shows those of points (default wsd). From logs: auto, "
            "wsd, two_power, noise_floor, loss_surface or learning_rate (default auto, the best "
            "batch by the law that the runs support). From final losses: learning_rate (default) "
            "or batch."
        ),
    ] = None,
    x: Annotated[str, typer.Option("--x", help="Input column, or several with commas.")] = "S",
    y: Annotated[str, typer.Option("--y", help="Target column.")] = "E",
    group: Annotated[
        str | None, typer.Option(help="Columns whose distinct values make the problems.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Column of weights.")] = None,
    runs: Annotated[
        str | None, typer.Option(help="Column naming each point's run, for --resample runs.")
    ] = None,
    residual: Annotated[str, typer.Option(help="auto, relative, log, absolute or ray.")] = "auto",
    loss: Annotated[str, typer.Option(help="squared or huber.")] = "squared",
    delta: Annotated[float, typer.Option(help="Where the Huber loss turns linear.")] = 1e-3,
    starts: Annotated[str, typer.Option(help="auto, grid, or how many.")] = "auto",
    bootstrap: Annotated[int, typer.Option(help="Bootstrap replicates; 0 for none.")] = 0,
    resample: Annotated[
        str, typer.Option(help="Kind of bootstrap: parametric, pairs or runs.")
    ] = "parametric",
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    fix: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, held fixed.")] = None,
    bound: Annotated[list[str] | None, typer.Option(help="NAME=LOW:HIGH.")] = None,
    threads: Annotated[int | None, typer.Option(help="Default: all cores.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the bootstrap draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Also write: .json, a law file where the law gives a batch or a learning rate "
            "(else the fit's result); .csv or .parquet, the fit's result.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the law file; default the output's.", rich_help_panel=LOGS),
    ] = None,
    targets: Annotated[
        str,
        typer.Option(
            help="How many target losses, or the losses with commas.", rich_help_panel=LOGS
        ),
    ] = "8",
    points: Annotated[
        Path | None,
        typer.Option(
            help="Write the (S, E) points here (.csv, .parquet); without --law only that.",
            rich_help_panel=LOGS,
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(help="Tokens to a loss: local power law or first.", rich_help_panel=LOGS),
    ] = Method.local,
    smooth: Annotated[
        str, typer.Option(help="Smoothing window: 5%, 2M or none.", rich_help_panel=LOGS)
    ] = "5%",
    phase: Annotated[
        Phase,
        typer.Option(help="Records at the peak learning rate, or all.", rich_help_panel=LOGS),
    ] = Phase.stable,
    losses: Annotated[
        str,
        typer.Option(help="auto, train, validation or validation:SET.", rich_help_panel=LOGS),
    ] = "auto",
    params: Annotated[
        str | None,
        typer.Option(help="N of runs whose logs do not say, as in 1.2B.", rich_help_panel=LOGS),
    ] = None,
    n_kind: Annotated[
        NKind | None,
        typer.Option(
            help="Which parameters N counts; default non-embedding where all logs give them.",
            rich_help_panel=LOGS,
        ),
    ] = None,
    form: Annotated[
        Form, typer.Option(help="Of the batch law in the file.", rich_help_panel=LOGS)
    ] = Form.power,
    format: Annotated[
        str | None,
        typer.Option(help="Read every log as this format.", rich_help_panel=LOGS),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="For logs in tables, and final losses: OUR=THEIRS. Repeat.", rich_help_panel=LOGS
        ),
    ] = None,
    seq_length: Annotated[
        int | None,
        typer.Option(help="Tokens per sample, where no log says.", rich_help_panel=LOGS),
    ] = None,
    batch_tokens: Annotated[
        str | None,
        typer.Option(help="Global batch in tokens, where no log says.", rich_help_panel=LOGS),
    ] = None,
    batch_samples: Annotated[
        str | None,
        typer.Option(help="Global batch in samples, where no log says.", rich_help_panel=LOGS),
    ] = None,
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="The files of one directory are one run.", rich_help_panel=LOGS
        ),
    ] = False,
    optima: Annotated[
        Optima,
        typer.Option(help="Points of the law that -o writes.", rich_help_panel=GRID),
    ] = Optima.near_optimal,
    target: Annotated[
        str | None,
        typer.Option(help="N,D that the next runs are for: 7B,2T.", rich_help_panel=GRID),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="FLOPs of the next runs; default a tenth of the table's.", rich_help_panel=GRID
        ),
    ] = None,
) -> None:
    """Fit a law of the best batch or learning rate to run logs or final losses, or any to points.

    From logs: runs that differ in their batch alone (or their learning rate alone) at a constant
    learning rate; six batch sizes are the least, eight to twelve are better. Exits with 0 when
    every problem converged, with 7 when one did not or a point is bad.
    """
    from megascale import fitting
    from megascale.runs.table_file import TABLES, read_table
    from megascale.verbs import fit_grid as grid_cli
    from megascale.verbs import fit_logs as fit_cli
    from megascale.verbs import fit_options as meant
    from megascale.verbs.progress import Progress

    if law == "list":
        typer.echo("\n".join(fitting.law_names()))
        raise typer.Exit(EXIT_DONE)
    if not paths:
        raise FitError.of("PATH", "none", "names no table and no logs", "points.csv or runs/")
    if output is not None and output.suffix not in (".json", ".csv", ".parquet"):
        raise FitError.of("--output", str(output), "must end in .json, .csv or .parquet")
    if starts not in ("auto", "grid"):
        if not starts.isdigit():
            raise FitError.of("--starts", starts, "must be auto, grid or a number", "auto")
        chosen: int | str = int(starts)
    else:
        chosen = starts
    inputs = _names(x)
    if format is None and grid_cli.is_grid_table(paths, law, columns or [], [*inputs, y], TABLES):
        from megascale.laws.law_files import Naming

        meant.refuse_unused(context, meant.GRID)
        law = law or "learning_rate"
        naming = Naming(name or (output.stem if output is not None else law))
        grid = grid_cli.GridOptions(
            columns=columns or [],
            seq_length=seq_length,
            method=optima.value,
            n_kind=None if n_kind is None else n_kind.value,
            target=target,
            budget=budget,
            confidence=confidence,
        )
        raise typer.Exit(grid_cli.fit_grid_table(paths[0], law, naming, grid, output, as_json))
    logs_stated = format is not None or columns is not None
    if logs_stated or not fit_cli.are_points(paths, law, inputs, y, TABLES):
        from megascale.laws.from_logs import LogOptions
        from megascale.laws.law_files import Naming
        from megascale.units import parse_count
        from megascale.verbs.runs import load_logs, read_options

        meant.refuse_unused(context, meant.LOGS)
        options = LogOptions(
            targets=fit_cli.parse_targets(targets),
            method=method.value,
            window=fit_cli.parse_window(smooth),
            phase=phase.value,
            losses=losses,
            n_kind=None if n_kind is None else n_kind.value,
            n_params=None if params is None else parse_count(params, "--params"),
            form=form.value,
            replicates=bootstrap or LogOptions.replicates,
            confidence=confidence,
            seed=seed,
        )
        stated = read_options(columns, seq_length, batch_tokens, batch_samples, None)
        logs = load_logs(paths, format, stated, join, 0, True)
        if points is not None:
            fit_cli.write_points(logs, options, points)
            if law is None:
                raise typer.Exit(EXIT_DONE)
        law = law or "auto"
        title = name or (output.stem if output is not None else law)
        naming = Naming(title)
        raise typer.Exit(
            fit_cli.fit_run_logs(logs, law, naming, options, output=output, as_json=as_json)
        )
    meant.refuse_unused(context, meant.POINTS)
    frame = read_table(paths[0])
    law = law or "wsd"
    with Progress(quiet=as_json) as progress:
        result = fitting.fit_frame(
            law,
            frame,
            x=inputs if len(inputs) > 1 else inputs[0] if inputs else "",
            y=y,
            group=_names(group) or None,
            weights=weights,
            runs=runs,
            residual=residual,
            loss=loss,
            delta=delta,
            starts=chosen,
            bootstrap=resample if bootstrap else None,
            replicates=bootstrap or 1,
            confidence=confidence,
            fixed=parse_pairs(fix or [], "--fix"),
            bounds=parse_bounds(bound or []),
            threads=threads,
            device=device,
            seed=seed,
            progress=progress.update,
        )
    if output is not None:
        file = None
        if output.suffix == ".json":
            file = fit_cli.law_of_points(law, frame, result, inputs, y, paths[0])
        if file is not None:
            fit_cli.write(file, output)
        else:
            _write(result, output)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        typer.echo(result.summary(limit=100))
    raise typer.Exit(EXIT_DONE if bool(result.converged.all()) else EXIT_FIT)


def _write(result: Any, path: Path) -> None:
    if path.suffix == ".json":
        path.write_text(result.to_json(indent=2) + "\n")
    elif path.suffix == ".csv":
        result.to_polars().write_csv(path)
    else:
        result.to_polars().write_parquet(path)


app = typer.Typer(add_completion=False)
app.command(
    "fit",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Examples:

  megascale fit runs/study -o law.json

  megascale fit 'logs/*.out.gz' --law learning_rate --params 1.2B -o rate.json

  megascale fit grid.csv --law batch --columns loss=final_loss -o batch.json

  megascale fit points.csv --law wsd --group N,target_loss --x S --y E --json

  megascale fit --law list""",
)(fit_command)
