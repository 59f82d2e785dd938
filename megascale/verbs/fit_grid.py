"""What `megascale fit` does with a table of final losses over learning rate and batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from megascale.errors import EXIT_DONE, FitError, UserError
from megascale.verbs.law_output import warn, write
from megascale.verbs.tables import text_table

if TYPE_CHECKING:
    from megascale.laws.grid.fit import GridFit, GridLaw, Method
    from megascale.laws.law_files import Naming
    from megascale.laws.planner import Plan
    from megascale.runs.inputs import Recognised

GRID_LAWS = {"learning_rate": "lr", "batch": "batch_tokens"}
"""Laws that are fitted to final losses, and their column."""
PUBLISHED_SHOWN = 4
PLAIN = ("runs", "loss")
"""Columns of the cells that are shown under their own names."""
PERCENT = 100.0


@dataclass(frozen=True)
class GridOptions:
    """How a grid becomes laws.

    Attributes:
        columns: (ours, theirs) pairs that were stated.
        seq_length: tokens of a sequence, for batches in sequences.
        loss: which losses: auto, train or validation.
        constant: n_params or tokens of all runs, where the table does not say.
        method: whose points the law file's law goes through.
        n_kind: which parameters N counts; None takes non-embedding, and says so; of a table with
            total and active parameters it must be stated.
        hold: {column: value} of runs that are kept.
        next_for: "N,D" that the next runs are for.
        budget: FLOPs of the next runs.
        replicates, confidence, seed: of the bootstrap.
    """

    columns: Sequence[tuple[str, str]] = ()
    seq_length: int | None = None
    loss: str = "auto"
    constant: Mapping[str, float] = field(default_factory=dict)
    method: Method = "near_optimal"
    n_kind: Any = None
    hold: Mapping[str, float] = field(default_factory=dict)
    next_for: str | None = None
    budget: float | None = None
    replicates: int = 1000
    confidence: float = 0.9
    seed: int = 0


def fit_grid_table(
    held: Recognised,
    law: str,
    naming: Naming,
    options: GridOptions,
    output: Path | None,
    as_json: bool,
) -> int:
    """Fit the laws of a grid, print what was found and write the law file.

    Returns:
        The exit code.

    Raises:
        FitError: the table lacks a column, no cell can be fitted, or the law asked for cannot:
            then the cells have been printed.
    """
    from megascale.formats.law_file import input_of
    from megascale.laws.grid.fit import fit_grid, grid_law_file
    from megascale.laws.grid.table import grid_table
    from megascale.laws.law_files import json_types

    if output is not None and output.suffix != ".json":
        raise FitError.of("--output", str(output), "a law from a grid is written as .json")
    column = GRID_LAWS[law]
    target = parse_next_for(options.next_for)
    path = held.path
    assert held.frame is not None
    table, notes, sized = grid_table(
        held.frame,
        str(path),
        columns=options.columns,
        seq_length=options.seq_length,
        loss=options.loss,
        constant=options.constant,
        needs=(column,),
        n_kind=options.n_kind,
        hold=options.hold,
    )
    if options.n_kind is None and sized.kind == "non_embedding":
        notes.append(f"{path}: N is taken as non-embedding parameters; --n-kind says otherwise")
    for note in notes:
        typer.echo(f"megascale: {note}", err=True)
    fit = fit_grid(
        table, replicates=options.replicates, confidence=options.confidence, seed=options.seed
    )
    plan, why = _plan(fit, options.budget, target)
    if not as_json:
        typer.echo("\n".join(grid_fit_lines(fit, plan, why, options.confidence)))
    warn(fit.doubts)
    method = options.method
    if method not in fit.methods:
        rule = "needs learning rates and batches in the table"
        raise FitError.of("--optima", method, rule, list(fit.methods))
    naming = replace(naming, n_kind=sized.kind, inputs=[*naming.inputs, input_of(path)])
    file = grid_law_file(fit, column, method, naming, confidence=options.confidence, plan=plan)
    if sized.other or sized.held:
        sizes = {"other_size": sized.other, "held": sized.held}
        file = file.model_copy(update={"diagnostics": file.diagnostics | json_types(sizes)})
    if as_json:
        typer.echo(file.to_json(), nl=False)
    if output is not None:
        write(file, output)
    return EXIT_DONE


def parse_next_for(text: str | None) -> tuple[float, float] | None:
    """`--next-for`: N,D as in 7B,2T.

    Raises:
        FitError: not two counts.
    """
    from megascale.units import parse_count

    if text is None:
        return None
    parts = text.split(",")
    try:
        n, d = (parse_count(part.strip(), "--next-for") for part in parts)
    except (ValueError, UserError):
        raise FitError.of("--next-for", text, "must be N,D", "7B,2T") from None
    return float(n), float(d)


def _plan(
    fit: GridFit, budget: float | None, target: tuple[float, float] | None
) -> tuple[Plan | None, str]:
    """The next runs, or why there are none; an error where they were asked for."""
    from megascale.laws.grid.fit import next_runs

    if "lr" not in fit.columns:
        return None, "the table has no learning rates"
    try:
        return next_runs(fit, budget_flops=budget, target=target), ""
    except FitError as error:
        if budget is not None or target is not None:
            raise
        return None, str(error)


def grid_fit_lines(fit: GridFit, plan: Plan | None, why: str, confidence: float) -> list[str]:
    """What a grid says, to read."""
    runs, cells = len(fit.table), len(fit.cells)
    lines = [f"{runs:,} runs at {cells} (N, D); the best of each:"]
    lines.append(text_table(_cells(fit)))
    lines += ["", f"laws ({confidence:.0%} intervals by bootstrap over runs, else over cells):"]
    for name, method in fit.methods.items():
        for column, found in method.laws.items():
            lines.append(f"  {name:<14}{_law(column, found)}")
        lines += [f"  {name:<14}{reason}" for reason in method.reasons.values()]
    lines += ["", "regret, loss of the nearest run above its cell's lowest:"]
    lines.append(text_table(_regret(fit)))
    lines += ["", "learning rates to run next, so that their law becomes surer:"]
    if plan is None:
        return [*lines, f"  none: {why}"]
    batches = next((m.laws["batch_tokens"] for m in fit.methods.values() if len(m.laws) > 1), None)
    for cell in plan.cells:
        at = ""
        if batches is not None:
            at = f", batch {float(batches.law.at(cell.n_params, cell.tokens)):,.0f}"
        rates = ", ".join(f"{rate:g}" for rate in cell.rates)
        lines.append(
            f"  N = {cell.n_params:.4g}, D = {cell.tokens:.4g}{at}: {rates} ({cell.flops:.2g} FLOP)"
        )
    lines.append(f"  standard error in log from {plan.before:.3g} to {plan.after:.3g}")
    return lines


def _cells(fit: GridFit) -> Any:
    """The cells with the columns that people read."""
    import polars as pl

    both = len(fit.columns) == 2
    suffix = "_opt" if both else "_opt_1d"
    shown = [pl.col("n_params").alias("N"), pl.col("tokens").alias("D"), *map(pl.col, PLAIN)]
    for column, name in (("lr", "lr"), ("batch_tokens", "batch")):
        if column in fit.columns:
            shown += [
                pl.col(column).alias(f"{name} run"),
                pl.col(f"{column}_edge").alias(f"{name} edge"),
                pl.col(f"{column}{suffix}").alias(f"{name} fit"),
            ]
            shown += [pl.col(f"{column}_log_error").alias(f"±{name}")] if both else []
            if not both:
                shown.append(pl.col(f"{column}_curvature_1d").alias("curvature"))
    if both:
        shown += [
            pl.col("c_ee").alias("c_lr"), pl.col("c_eb").alias("c_cross"),
            pl.col("c_bb").alias("c_batch"), pl.col("convex_share").alias("convex"),
        ]  # fmt: skip
    cells = fit.cells.select(*shown, pl.col("reason").alias("not used because"))
    words = [name for name, kind in cells.schema.items() if kind == pl.String]
    return cells.drop(name for name in words if (cells[name] == "").all())


def _law(column: str, found: GridLaw) -> str:
    law, interval = found.law, found.interval
    terms = [("N", law.a, 1), ("D", law.b, 2)] if law.with_n else [("D", law.b, 2)]
    name = "lr" if column == "lr" else "batch"
    text = f"{name:<6}= {law.coef:.4g} " + " ".join(f"{n}^{value:.4f}" for n, value, _ in terms)
    if interval is not None:
        bands = [f"[{interval.low[0]:.3g}, {interval.high[0]:.3g}]"]
        bands += [f"{n} [{interval.low[i]:.3f}, {interval.high[i]:.3f}]" for n, _, i in terms]
        text += "  " + " ".join(bands)
    return f"{text}  {law.points} points"


def _regret(fit: GridFit) -> Any:
    """Regret of our laws and of the publications', in per cent."""
    import polars as pl

    rows = []
    for name, method in fit.methods.items():
        if method.regret is not None:
            rows.append({"law": f"this table, {name}", **method.regret})
        rows += [{"law": f"  held out: {held['question']}", **held} for held in method.held_out]
    rows += [{"law": row["name"], **row} for row in fit.published[:PUBLISHED_SHOWN]]
    return pl.DataFrame(
        [
            {
                "law": row["law"],
                "gives": row["gives"],
                "mean %": PERCENT * row["mean_regret"],
                "worst %": PERCENT * row["worst_regret"],
                "cells": row["cells"],
                "inside": row["inside"],
            }
            for row in rows
        ]
    )
