"""What `megascale fit` does with a table of points, and the law files that it makes of one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from megascale.errors import EXIT_DONE, EXIT_FIT, FitError

if TYPE_CHECKING:
    import polars as pl

    from megascale.fitting import FitResult
    from megascale.formats.law_file import LawFile
    from megascale.runs.inputs import Recognised

STEPS, TOKENS = "S", "E"
"""What the steps and the tokens to a loss are called where no column is named."""
SHOWN_PROBLEMS = 100


@dataclass(frozen=True)
class PointOptions:
    """How a law is fitted to points.

    Attributes:
        columns: (ours, theirs) pairs that were stated.
        seq_length: tokens of a sequence, for batches in sequences.
        x, y: the columns to be fitted; empty and None take steps and tokens to the loss.
        group: columns whose distinct values make the problems.
        replicates: of the bootstrap; 0 for none.
        weights, runs, residual, objective, delta, starts, resample, confidence, fixed, bounds,
            device, seed: as `megascale.fitting.fit` takes them.
    """

    columns: Sequence[tuple[str, str]] = ()
    seq_length: int | None = None
    x: Sequence[str] = ()
    y: str | None = None
    group: Sequence[str] = ()
    weights: str | None = None
    runs: str | None = None
    residual: str = "auto"
    objective: str = "squared"
    delta: float = 1e-3
    starts: int | str = "auto"
    resample: str = "parametric"
    replicates: int = 0
    confidence: float = 0.9
    fixed: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    device: str = "auto"
    seed: int = 0


def fit_points(
    held: Recognised, law: str, options: PointOptions, output: Path | None, as_json: bool
) -> int:
    """Fit a law to the points of a table, print the result and write it.

    Returns:
        The exit code: that of a failed fit where one problem did not converge.

    Raises:
        FitError: a column is missing, or the points cannot be fitted.
    """
    from megascale import fitting
    from megascale.verbs.progress import Progress

    frame, x, y = points_to_fit(held, options)
    with Progress(quiet=as_json) as progress:
        result = fitting.fit_frame(
            law,
            frame,
            x=x if len(x) > 1 else x[0],
            y=y,
            group=list(options.group) or None,
            weights=options.weights,
            runs=options.runs,
            residual=options.residual,
            loss=options.objective,
            delta=options.delta,
            starts=options.starts,
            bootstrap=options.resample if options.replicates else None,
            replicates=options.replicates or 1,
            confidence=options.confidence,
            fixed=options.fixed,
            bounds=options.bounds,
            device=options.device,
            seed=options.seed,
            progress=progress.update,
        )
    if output is not None:
        file = None
        if output.suffix == ".json":
            file = law_of_points(law, frame, result, x, y, held, options)
        if file is not None:
            from megascale.verbs.law_output import write

            write(file, output)
        else:
            _write(result, output)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        typer.echo(result.summary(limit=SHOWN_PROBLEMS))
    return EXIT_DONE if bool(result.converged.all()) else EXIT_FIT


def points_to_fit(held: Recognised, options: PointOptions) -> tuple[pl.DataFrame, list[str], str]:
    """The table with the columns to be fitted, and their names.

    Where no columns are named they are the steps and the tokens to the loss, by any of their names;
    of tokens, steps and batch the third follows from two.

    Raises:
        FitError: the table does not have them.
    """
    import polars as pl

    from megascale.runs.measured import name_columns, point_rows

    frame = held.frame
    assert frame is not None
    if options.x and options.y is not None:
        if options.columns:
            name_columns(frame.columns, "points", options.columns)
        return frame, list(options.x), options.y
    default = {"x": list(options.x) or [STEPS], "y": [options.y or TOKENS]}
    if (options.x or options.y) and {*default["x"], *default["y"]} <= {*frame.columns}:
        return frame, default["x"], default["y"][0]
    rows, notes = point_rows(
        frame, str(held.path), stated=options.columns, seq_length=options.seq_length
    )
    for note in notes:
        typer.echo(f"megascale: {note}", err=True)
    made = {STEPS: rows["steps"], TOKENS: rows["tokens"]}
    frame = frame.with_columns(
        [series.alias(name) for name, series in made.items() if name not in frame.columns]
    )
    assert isinstance(frame, pl.DataFrame)
    return frame, list(options.x) or [STEPS], options.y or TOKENS


def parse_starts(text: str) -> int | str:
    """`--starts`: auto, grid, or how many.

    Raises:
        FitError: none of these.
    """
    if text in ("auto", "grid"):
        return text
    if not text.isdigit():
        raise FitError.of("--starts", text, "must be auto, grid or a number", "auto")
    return int(text)


def law_of_points(
    law: str,
    frame: pl.DataFrame,
    result: FitResult,
    x: Sequence[str],
    y: str,
    held: Recognised,
    options: PointOptions,
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
    from megascale.runs.measured import point_rows
    from megascale.verbs.law_output import warn

    naming = Naming(held.path.stem, inputs=[input_of(held.path)])
    if law in BATCH_LAWS:
        stated = [pair for pair in options.columns if pair[1] not in (x[0], y)]
        rows, _ = point_rows(
            frame, str(held.path), stated=[*stated, ("steps", x[0]), ("tokens", y)]
        )
        if "target_loss" not in rows.columns:
            return None
        kept = rows.drop("steps", "log_error", strict=False)
        made = batch_law_from_points(kept, law, naming, confidence=result.confidence)
        warn(made.warnings)
        return made.file
    gives = output_of(y)
    if law == "power_law" and gives is not None and len(result) == 1 and len(x) in (1, 2):
        n_params = frame[x[0]].to_numpy() if len(x) == 2 else None
        power = fit_power(frame[y].to_numpy(), frame[x[-1]].to_numpy(), n_params)
        return power_law_file(power, gives, naming, d_kind="horizon", confidence=result.confidence)
    return None


def output_of(name: str) -> Literal["batch_tokens", "peak_lr"] | None:
    """What a law of a column of this name gives, `_opt` or not: a batch (tokens), a peak rate."""
    from megascale.runs.vocabulary import GRID, our_name

    ours = our_name(name.removesuffix("_opt"), GRID)
    if ours == "lr":
        return "peak_lr"
    return "batch_tokens" if ours == "batch_tokens" else None


def _write(result: Any, path: Path) -> None:
    if path.suffix == ".json":
        path.write_text(result.to_json(indent=2) + "\n")
    elif path.suffix == ".csv":
        result.to_polars().write_csv(path)
    else:
        result.to_polars().write_parquet(path)
