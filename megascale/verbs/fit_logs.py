"""What `megascale fit` does with run logs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from megascale.errors import EXIT_DONE, FitError
from megascale.formats.csv_output import write_csv
from megascale.verbs.law_output import warn, write
from megascale.verbs.option_words import require_replicates
from megascale.verbs.tables import text_table

if TYPE_CHECKING:
    from megascale.laws.from_logs import LogFit, LogOptions
    from megascale.laws.law_files import Naming
    from megascale.runs.table import RunTable
    from megascale.verbs.fit_excess import ExcessOptions


def fit_run_logs(
    logs: RunTable,
    law: str,
    naming: Naming,
    options: LogOptions,
    *,
    output: Path | None,
    as_json: bool,
) -> int:
    """Fit a law to logs, print what was found and write the law file.

    Returns:
        The exit code.

    Raises:
        FitError: the law file's name does not end in .json; and those of `fit_logs`.
    """
    from megascale.laws.from_logs import LEARNING_RATE, fit_logs

    if law != LEARNING_RATE:
        require_replicates(options.replicates)
    if output is not None and output.suffix != ".json":
        raise FitError.of("--output", str(output), "a law from logs is written as .json")
    fit = fit_logs(logs, law, naming, options)
    typer.echo(fit.file.to_json() if as_json else log_fit_lines(fit), nl=not as_json)
    warn(fit.warnings)
    if output is not None:
        write(fit.file, output)
    return EXIT_DONE


def write_points(logs: RunTable, options: LogOptions, path: Path) -> None:
    """Write the points of E(S) of some logs as a table that `megascale fit` takes.

    Raises:
        FitError: the name ends in neither .csv nor .parquet, or the logs give no points.
    """
    from megascale.laws.from_logs import points_of_logs

    if path.suffix not in (".csv", ".parquet"):
        raise FitError.of("--points", str(path), "must end in .csv or .parquet")
    points = points_of_logs(logs, options)
    if path.suffix == ".csv":
        write_csv(points, path)
    else:
        points.write_parquet(path)
    losses = points["target_loss"].n_unique()
    typer.echo(f"{path}: {len(points):,} points at {losses} target losses", err=True)


def excess_of_logs(
    logs: RunTable,
    law: str | None,
    naming: Naming,
    options: LogOptions,
    excess: ExcessOptions,
    output: Path | None,
    as_json: bool,
) -> int:
    """`--overhead` on logs: their points, and the excess-data batches of these.

    Returns:
        The exit code.

    Raises:
        FitError: the logs give no points; and those of `fit_excess`.
    """
    from megascale.laws.from_logs import points_of_logs
    from megascale.verbs.fit_excess import ALL, fit_excess

    ours = {"N": "n_params", "B": "batch_tokens", "E": "tokens", "S": "steps"}
    points = points_of_logs(logs, options).rename(ours)
    return fit_excess(points, law or ALL, excess, naming, output, as_json)


def log_fit_lines(fit: LogFit) -> str:
    """What a fit of logs found, to read."""
    from megascale.laws.batch.from_points import BatchLaw
    from megascale.laws.batch.surface import SurfaceFit
    from megascale.laws.rate_law import RateLaw

    file = fit.file
    lines = [f"{file.name}: {file.output} = f(N, D), form {file.form}"]
    if isinstance(fit.law, BatchLaw):
        lines.append(f"  best batches by the law {fit.law.fits.law}")
    if isinstance(fit.law, SurfaceFit):
        lines.append("  best batches by one loss surface L(S, B)")
    choice = file.diagnostics.get("surface_choice")
    if choice is not None:
        lines.append(f"  {choice['reason']}")
    _, ramp = file.diagnostics.get("ramp_tokens", (0.0, 0.0))
    if ramp > 0:
        lines.append(
            f"  tokens count at the peak learning rate: up to {ramp:,.0f} that a run lost to its "
            "warmup are left out"
        )
    for name, value in file.parameters.items():
        low, high = value.low, value.high
        band = "" if low is None or high is None else f"  [{low:.4g}, {high:.4g}]"
        lines.append(f"  {name:<6}{value.value:.6g}{band} {value.unit}".rstrip())
    if file.range.d is not None:
        lines.append(f"  D from {_tokens(file.range.d[0])} to {_tokens(file.range.d[1])} tokens")
    lines.append(f"{len(fit.curves.curves)} curves, {len(fit.curves.dropped)} runs without")
    lines += [f"  {dropped.run}: {dropped.reason}" for dropped in fit.curves.dropped[:10]]
    for setting in file.diagnostics.get("settings_left_out", []):
        lines.append(f"  left out: {setting}")
    for crossing in fit.crossings:
        spread = "" if crossing.log_error is None else f" (±{100 * crossing.log_error:.0f} %)"
        loss_error = "" if crossing.loss_error is None else f" ± {crossing.loss_error:.3f}"
        lines.append(
            f"  {crossing.batch_large:,.0f} overtakes {crossing.batch_small:,.0f} at "
            f"{_tokens(crossing.tokens)} tokens{spread}, loss {crossing.loss:.3f}{loss_error}"
        )
    if isinstance(fit.law, BatchLaw):
        lines += ["", "best batch by target loss (tokens):"]
        hidden = ("lr", "log_error", "used")
        lines.append(text_table(fit.law.optimal.table.drop(hidden)))
        lines += ["", "laws compared on the same points (log E):"]
        unshown = ("groups", "points", "worst_rms", "pooled_bic", "unreachable", "failed")
        lines.append(text_table(fit.law.selection.table().drop(unshown)))
    if isinstance(fit.law, RateLaw):
        lines += ["", "best learning rates:", text_table(fit.law.found.optima)]
    if fit.audits:
        import polars as pl

        lines += ["", "extrapolation audit:"]
        rows = pl.DataFrame([asdict(audit) for audit in fit.audits], infer_schema_length=None)
        lines.append(text_table(rows.drop("worst", "in_band", "worst_cost")))
    return "\n".join(lines)


def _tokens(value: float) -> str:
    from megascale.units import short_count

    return short_count(round(value))
