"""What `megascale fit` does with a table of points, and the law files that it makes of one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from megascale.errors import EXIT_DONE, EXIT_FIT, FitError
from megascale.formats.csv_output import write_csv
from megascale.verbs.tables import text_table

if TYPE_CHECKING:
    import polars as pl

    from megascale.fitting import FitResult
    from megascale.formats.law_file import LawFile
    from megascale.runs.inputs import Recognised
    from megascale.verbs.fit_excess import ExcessOptions

AUTO = "auto"
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
        weights, sigma: columns, or None.
        runs, residual, objective, delta, starts, resample, confidence, fixed, bounds, shared,
            priors, constraints, absolute_sigma, device, seed: as `megascale.fitting.fit` takes
            them.
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
    shared: Sequence[str] = ()
    priors: Mapping[str, Any] = field(default_factory=dict)
    constraints: Sequence[str] = ()
    sigma: str | None = None
    absolute_sigma: bool = False
    device: str = "auto"
    seed: int = 0

    @property
    def of_one_law(self) -> dict[str, str]:
        """Options that name parameters of a law, as they were given."""
        said = {
            "--shared": ",".join(self.shared),
            "--prior": ",".join(self.priors),
            "--constraint": "; ".join(self.constraints),
            "--fix": ",".join(self.fixed),
            "--bound": ",".join(self.bounds),
        }
        return {option: words for option, words in said.items() if words}


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
    from megascale.laws.law_files import json_types
    from megascale.verbs.progress import FitProgressBar

    frame, x, y = points_to_fit(held, options)
    if options.objective == "absolute":
        rule = "is for --law chinchilla on a table of final losses"
        raise FitError.of("--objective", options.objective, rule, "huber")
    if options.shared and not options.group:
        rule = "is common to several problems, and without --group there is one"
        raise FitError.of("--shared", ",".join(options.shared), rule, "--group target_loss")
    if law == AUTO:
        for option, said in options.of_one_law.items():
            raise FitError.of(option, said, "needs one law", "--law noise_floor")
    rivals = None
    if law == AUTO:
        law, options, rivals = choose_law(frame, x, y, held, options)
    with FitProgressBar(quiet=as_json) as progress:
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
            shared=options.shared or None,
            priors=options.priors or None,
            constraints=options.constraints or None,
            sigma=options.sigma,
            absolute_sigma=options.absolute_sigma,
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
            write_result(result, output)
    if as_json:
        compared = {} if rivals is None else {"rivals": json_types(rivals.to_dicts())}
        typer.echo(json.dumps(result.to_dict() | compared, indent=2))
    else:
        if rivals is not None:
            typer.echo("laws compared on the same points:\n" + text_table(rivals) + "\n")
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


def choose_law(
    frame: pl.DataFrame, x: Sequence[str], y: str, held: Recognised, options: PointOptions
) -> tuple[str, PointOptions, pl.DataFrame]:
    """The law that the points support, by pooled AICc: `--law auto`.

    Points of tokens and steps are compared by target loss, N and learning rate, as far as the table
    has them; other points by the columns of `--group`.

    Returns:
        Its name, the options with those groups, and how every rival did.

    Raises:
        FitError: there are no rivals for such points, or too few of them.
    """
    import numpy as np

    from megascale.laws.batch.select import select
    from megascale.laws.batch.tokens_steps import LAWS, enough_points
    from megascale.laws.choice import compare_laws, verdict_table

    keys = list(options.group)
    if not options.x and options.y is None:
        rows, _ = rows_of_points(frame, x, y, held, options)
        if keys:
            number = frame.select(pl_rank(keys))["number"]
            rows = rows.with_columns(target_loss=number).drop("n_params", "lr", strict=False)
        elif "target_loss" not in rows.columns:
            rows = rows.with_columns(target_loss=1.0)
        able = [law for law in LAWS if len(enough_points(rows, law))]
        if not able:
            raise FitError.of("--law", AUTO, "no target loss has as many batches as a law needs", 4)
        verdicts = select(rows, able).table()
        names = held.columns
        groups = keys or [names[n] for n in ("n_params", "lr", "target_loss") if n in names]
        chosen = replace(options, group=groups)
        shown = verdicts.select("law", "rms", "worst_rms", "pooled_aicc", "held_out", "failed")
        return str(verdicts["law"][0]), chosen, shown
    owner = frame.select(pl_rank(keys))["number"].to_numpy() if keys else None
    found = compare_laws(
        [frame[name].to_numpy() for name in x], np.asarray(frame[y].to_numpy(), float), owner
    )
    return found[0].law, replace(options, residual="log"), verdict_table(found)


def pl_rank(keys: Sequence[str]) -> pl.Expr:
    """A number a group of the columns, from 1 on."""
    import polars as pl

    return pl.struct(list(keys)).rank("dense").cast(pl.Float64).alias("number")


def rows_of_points(
    frame: pl.DataFrame, x: Sequence[str], y: str, held: Recognised, options: PointOptions
) -> tuple[pl.DataFrame, list[str]]:
    """The points under our names, x and y as steps and tokens where the user named them."""
    from megascale.runs.measured import point_rows

    stated = list(options.columns)
    if options.x or options.y is not None:
        stated = [pair for pair in stated if pair[1] not in (*x, y)]
        stated += [("steps", x[0]), ("tokens", y)]
    return point_rows(frame, str(held.path), stated=stated, seq_length=options.seq_length)


def excess_of_points(
    held: Recognised,
    law: str | None,
    options: PointOptions,
    excess: ExcessOptions,
    output: Path | None,
    as_json: bool,
) -> int:
    """`--overhead` on a table of points.

    Returns:
        The exit code.

    Raises:
        FitError: a column is missing, or as `fit_excess`.
    """
    import polars as pl

    from megascale.formats.law_file import input_of
    from megascale.laws.law_files import Naming
    from megascale.verbs.fit_excess import ALL, fit_excess

    assert held.frame is not None
    if options.group:
        rule = "is not for --overhead: points belong together by target loss, N and learning rate"
        raise FitError.of("--group", ",".join(options.group), rule, "leave it out")
    x = list(options.x) or [STEPS]
    rows, notes = rows_of_points(held.frame, x, options.y or TOKENS, held, options)
    for note in notes:
        typer.echo(f"megascale: {note}", err=True)
    if "target_loss" not in rows.columns:
        rows = rows.with_columns(target_loss=pl.lit(None, pl.Float64))
    naming = Naming(output.stem if output else held.path.stem, inputs=[input_of(held.path)])
    return fit_excess(rows, law or ALL, excess, naming, output, as_json)


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
    if options.of_one_law:
        said = ", ".join(options.of_one_law)
        warn([f"a law file's own fits know no {said}: the file holds the result of this fit"])
        return None
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


def write_result(result: Any, path: Path) -> None:
    """A fit's result as .json, .csv or .parquet."""
    if path.suffix == ".json":
        path.write_text(result.to_json(indent=2) + "\n")
    elif path.suffix == ".csv":
        write_csv(result.to_polars(), path)
    else:
        result.to_polars().write_parquet(path)
