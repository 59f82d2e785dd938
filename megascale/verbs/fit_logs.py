"""What `megascale fit` does with run logs, and the law files it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from megascale.errors import EXIT_DONE, FitError

if TYPE_CHECKING:
    import polars as pl

    from megascale.fitting import FitResult
    from megascale.formats.law_file import LawFile
    from megascale.laws.from_logs import LogFit, LogOptions
    from megascale.laws.law_files import Naming
    from megascale.runs.table import RunTable

POINT_COLUMNS = {
    "n_params": ("n_params", "N"),
    "lr": ("lr", "eta"),
    "target_loss": ("target_loss", "L", "loss"),
    "run": ("run",),
}
"""Columns of a table of (S, E) points, and the names each goes by."""
OUTPUTS: dict[str, Literal["batch_tokens", "peak_lr"]] = {
    **dict.fromkeys(("batch_tokens", "B", "B_opt", "batch"), "batch_tokens"),
    **dict.fromkeys(("peak_lr", "lr", "lr_opt", "eta", "eta_opt"), "peak_lr"),
}
"""Targets of a power law that make a law file, and what it then gives."""


def are_points(
    paths: Sequence[Path], law: str | None, x: Sequence[str], y: str, suffixes: Sequence[str]
) -> bool:
    """Whether the paths are one table of points, and not logs.

    That is a single table with one of the columns to be fitted, one for a law that is not fitted
    to logs, or one that no log reader knows.
    """
    if len(paths) != 1 or paths[0].suffix.lower() not in suffixes or not paths[0].is_file():
        return False
    from megascale.laws.from_logs import LOG_LAWS
    from megascale.runs.readers import detect
    from megascale.runs.table_file import read_table

    if law is not None and law not in LOG_LAWS:
        return True
    try:
        if {*x, y} & set(read_table(paths[0]).columns):
            return True
    except FitError:
        pass
    return detect.reader_of(paths[0].read_bytes(), str(paths[0]), None) is None


def parse_targets(text: str) -> int | list[float]:
    """`--targets`: how many, or the losses themselves with commas.

    Raises:
        FitError: neither.
    """
    try:
        return int(text) if text.isdigit() else [float(part) for part in text.split(",")]
    except ValueError:
        rule = "must be how many target losses, or the losses with commas"
        raise FitError.of("--targets", text, rule, "8 or 3.4,3.2,3.0") from None


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
    from megascale.laws.from_logs import fit_logs

    if output is not None and output.suffix != ".json":
        raise FitError.of("--output", str(output), "a law from logs is written as .json")
    fit = fit_logs(logs, law, naming, options)
    typer.echo(fit.file.to_json() if as_json else summary(fit), nl=not as_json)
    warn(getattr(fit.law, "warnings", []))
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
        points.write_csv(path)
    else:
        points.write_parquet(path)
    losses = points["target_loss"].n_unique()
    typer.echo(f"{path}: {len(points):,} points at {losses} target losses", err=True)


def warn(doubts: Sequence[str]) -> None:
    """What speaks against a law, on standard error."""
    for doubt in doubts:
        typer.echo(f"megascale: warning: {doubt}.", err=True)


def write(file: LawFile, output: Path) -> None:
    """Write a law file and say so on standard error."""
    from megascale.formats.law_file import write_law_file

    digest = write_law_file(file, output)
    typer.echo(f"{output}: law file {file.name}, sha256 {digest[:16]}", err=True)


def law_of_points(
    law: str, frame: pl.DataFrame, result: FitResult, x: Sequence[str], y: str, path: Path
) -> LawFile | None:
    """The law file of a table of points; None where the fit says no batch and no learning rate.

    A tokens-steps law becomes one where the table has target losses and batches enough; a power
    law of D, or of N and D in that order, where its target is called like a batch or a rate.

    Raises:
        FitError: the points do not make such a law.
    """
    from megascale.formats.law_file import input_of
    from megascale.laws.batch.from_points import BATCH_LAWS, batch_law_from_points
    from megascale.laws.law_files import Naming, power_law_file
    from megascale.laws.power import fit_power

    naming = Naming(path.stem, inputs=[input_of(path)])
    if law in BATCH_LAWS:
        points = points_table(frame, x[0], y)
        if points is None:
            return None
        made = batch_law_from_points(points, law, naming, confidence=result.confidence)
        warn(made.warnings)
        return made.file
    if law == "power_law" and y in OUTPUTS and len(result) == 1 and len(x) in (1, 2):
        n_params = frame[x[0]].to_numpy() if len(x) == 2 else None
        power = fit_power(frame[y].to_numpy(), frame[x[-1]].to_numpy(), n_params)
        return power_law_file(
            power, OUTPUTS[y], naming, d_kind="horizon", confidence=result.confidence
        )
    return None


def points_table(frame: pl.DataFrame, steps: str, tokens: str) -> pl.DataFrame | None:
    """(S, E) points under our column names; None where the table has no target losses."""
    import polars as pl

    columns = {
        ours: next((name for name in names if name in frame.columns), None)
        for ours, names in POINT_COLUMNS.items()
    }
    if columns["target_loss"] is None:
        return None
    known = [pl.col(theirs).alias(ours) for ours, theirs in columns.items() if theirs]
    return frame.select(
        *known,
        pl.col(tokens).alias("tokens"),
        (pl.col(tokens) / pl.col(steps)).alias("batch_tokens"),
    )


def summary(fit: LogFit) -> str:
    """What a fit of logs found, to read."""
    from megascale.laws.batch.from_points import BatchLaw
    from megascale.laws.rate_law import RateLaw

    file = fit.file
    lines = [f"{file.name}: {file.output} = f(N, D), form {file.form}"]
    if isinstance(fit.law, BatchLaw):
        lines.append(f"  best batches by the law {fit.law.fits.law}")
    for name, value in file.parameters.items():
        low, high = value.low, value.high
        band = "" if low is None or high is None else f"  [{low:.4g}, {high:.4g}]"
        lines.append(f"  {name:<6}{value.value:.6g}{band} {value.unit}".rstrip())
    if file.range.d is not None:
        lines.append(f"  D from {file.range.d[0]:.4g} to {file.range.d[1]:.4g} tokens")
    lines.append(f"{len(fit.curves.curves)} curves, {len(fit.curves.dropped)} runs without")
    lines += [f"  {dropped.run}: {dropped.reason}" for dropped in fit.curves.dropped[:10]]
    for setting in file.diagnostics.get("settings_left_out", []):
        lines.append(f"  left out: {setting}")
    for crossing in fit.crossings:
        spread = "" if crossing.log_error is None else f" (±{100 * crossing.log_error:.0f} %)"
        loss_error = "" if crossing.loss_error is None else f" ± {crossing.loss_error:.3f}"
        lines.append(
            f"  {crossing.batch_large:,.0f} overtakes {crossing.batch_small:,.0f} at "
            f"{crossing.tokens:.4g} tokens{spread}, loss {crossing.loss:.3f}{loss_error}"
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


def text_table(frame: pl.DataFrame) -> str:
    """A plain table: numbers to four digits, columns aligned."""
    rows = [frame.columns, *([_cell(value) for value in row] for row in frame.iter_rows())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(frame.columns))]
    return "\n".join(
        "  "
        + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
