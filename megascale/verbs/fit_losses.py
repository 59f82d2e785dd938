"""What `megascale fit --law isoflop` and `--law chinchilla` do with a table of final losses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from megascale.errors import EXIT_DONE, EXIT_FIT, FitError
from megascale.formats.csv_output import write_csv
from megascale.verbs.tables import text_table

if TYPE_CHECKING:
    import polars as pl

    from megascale.laws.isoflop import IsoFlop, Minimum
    from megascale.laws.loss import Objective
    from megascale.laws.power import PowerLaw
    from megascale.runs.inputs import Recognised

ISOFLOP, CHINCHILLA = "isoflop", "chinchilla"
LOSS_LAWS = (ISOFLOP, CHINCHILLA)
"""Laws of a table of final losses that need no learning rate and no batch."""


@dataclass(frozen=True)
class LossOptions:
    """How a law of final losses is fitted.

    Attributes:
        columns: (ours, theirs) pairs that were stated.
        loss: which losses: auto, train or validation.
        constant: n_params or tokens of all runs, where the table does not say.
        group: columns whose distinct values are fitted apart.
        budgets: FLOPs of the budgets; None to tell them from the runs.
        minimum: how a budget's minimum is found.
        reach: runs within this factor of the lowest loss's size enter; None for all.
        drop_highest: rows of the highest losses that are left out, by Chinchilla's law.
        objective, delta: of Chinchilla's law.
        replicates: 0 for none.
        confidence, seed: of the intervals.
    """

    columns: Sequence[tuple[str, str]] = ()
    loss: str = "auto"
    constant: Mapping[str, float] = field(default_factory=dict)
    group: Sequence[str] = ()
    budgets: Sequence[float] | None = None
    minimum: Minimum = "parabola"
    reach: float | None = None
    drop_highest: int = 0
    objective: Objective = "huber"
    delta: float = 1e-3
    replicates: int = 500
    confidence: float = 0.9
    seed: int = 0


def fit_losses(
    held: Recognised, law: str, options: LossOptions, output: Path | None, as_json: bool
) -> int:
    """Fit a law of final losses to a table, print what was found and write it.

    Returns:
        The exit code.

    Raises:
        FitError: a column is missing; an option is not of the law; or the law cannot be fitted.
    """
    from megascale.runs.measured import loss_rows

    assert held.frame is not None
    default = LossOptions()
    of_other = (
        ("drop_highest", "delta", "objective")
        if law == ISOFLOP
        else ("budgets", "minimum", "reach")
    )
    for name in of_other:
        value = getattr(options, name)
        if value != getattr(default, name):
            option = f"--{name.replace('_', '-')}"
            other = next(one for one in LOSS_LAWS if one != law)
            raise FitError.of(option, str(value), f"is for --law {other}", "leave it out")
    rows, notes = loss_rows(
        held.frame,
        str(held.path),
        stated=options.columns,
        loss=options.loss,
        constant=options.constant,
        keep=options.group,
        whole=law == CHINCHILLA,
    )
    for note in notes:
        typer.echo(f"megascale: {note}", err=True)
    if law == ISOFLOP:
        return fit_isoflops(rows, options, output, as_json)
    if options.group:
        raise FitError.of(
            "--group", ",".join(options.group), "is for --law isoflop", "leave it out"
        )
    return fit_loss_law(rows, options, output, as_json)


def fit_isoflops(
    table: pl.DataFrame, options: LossOptions, output: Path | None, as_json: bool
) -> int:
    """Compute-optimal N and D of every group of runs, printed and written.

    Args:
        table: loss and two of n_params, tokens and flops, with the columns of `group`.

    Returns:
        The exit code: that of a failed fit where a law could not be fitted.

    Raises:
        FitError: as `fit_isoflop`; or a law file is asked for.
    """
    import polars as pl

    from megascale.laws.isoflop import fit_isoflop

    if output is not None and output.suffix == ".json":
        rule = "an IsoFLOP fit gives N and D, no law file; its table is written as"
        raise FitError.of("--output", str(output), rule, [".csv", ".parquet"])
    parts: list[tuple[tuple[Any, ...], pl.DataFrame]] = [((), table)]
    if options.group:
        grouped = table.group_by(list(options.group), maintain_order=True)
        parts = [(key, part) for key, part in grouped]
    found = {
        key: fit_isoflop(
            part,
            budgets=options.budgets,
            minimum=options.minimum,
            reach=options.reach,
            replicates=options.replicates,
            confidence=options.confidence,
            seed=options.seed,
        )
        for key, part in parts
    }
    if as_json:
        rows = [_isoflop_plain(fit, dict(zip(options.group, key))) for key, fit in found.items()]
        typer.echo(json.dumps(rows if options.group else rows[0], indent=2))
    else:
        for key, fit in found.items():
            title = ", ".join(f"{name} = {key[at]}" for at, name in enumerate(options.group))
            typer.echo("\n".join(isoflop_summary(fit, title)))
    if output is not None:
        tables = [
            fit.minima.with_columns(pl.lit(key[at]).alias(k) for at, k in enumerate(options.group))
            for key, fit in found.items()
        ]
        whole = pl.concat(tables, how="diagonal_relaxed")
        write_csv(whole, output) if output.suffix == ".csv" else whole.write_parquet(output)
    return EXIT_FIT if any(fit.reasons for fit in found.values()) else EXIT_DONE


def isoflop_summary(fit: IsoFlop, title: str = "") -> list[str]:
    """What an IsoFLOP fit found, to read."""
    import polars as pl

    percent = f"{100 * fit.confidence:g} %"
    head = f"{title}: " if title else ""
    lines = [f"{head}{len(fit.minima)} budgets, minima by {fit.minimum} ({percent} intervals):"]
    shown = {
        "flops": "C", "runs": "runs", "loss": "loss",
        "n_params": "N", "n_params_low": "low", "n_params_high": "high",
        "tokens": "D", "tokens_low": "D low", "tokens_high": "D high",
        "n_params_reason": "N not used because", "tokens_reason": "D not used because",
    }  # fmt: skip
    table = fit.minima.select(pl.col(ours).alias(theirs) for ours, theirs in shown.items())
    empty = [
        name
        for name, kind in table.schema.items()
        if table[name].null_count() == len(table)
        or (kind == pl.String and (table[name] == "").all())
    ]
    lines.append(text_table(table.drop(empty)))
    for name, symbol in (("n_params", "N"), ("tokens", "D")):
        law = fit.laws.get(name)
        lines.append(f"  {fit.reasons[name]}" if law is None else f"  {_words(law, symbol, fit)}")
    if fit.left_out:
        lines.append(f"  {fit.left_out} runs left out: fewer than four sizes at their budget")
    return lines


def _words(law: PowerLaw, symbol: str, fit: IsoFlop) -> str:
    coef, b = (law.parameters("", fit.confidence)[name] for name in ("coef", "b"))
    return (
        f"{symbol} = {law.coef:.4g} C^{law.b:.4f}  coefficient [{coef.low:.3g}, {coef.high:.3g}], "
        f"exponent [{b.low:.3f}, {b.high:.3f}], {law.points} budgets"
    )


def _isoflop_plain(fit: IsoFlop, group: dict[str, Any]) -> dict[str, Any]:
    from megascale.laws.law_files import json_types

    laws: dict[str, Any] = {}
    for name in ("n_params", "tokens"):
        law = fit.laws.get(name)
        if law is None:
            laws[name] = {"reason": fit.reasons[name]}
            continue
        limits = law.parameters("", fit.confidence)
        laws[name] = {
            key: {"value": limits[ours].value, "low": limits[ours].low, "high": limits[ours].high}
            for key, ours in (("coefficient", "coef"), ("exponent", "b"))
        } | {"budgets": law.points}
    return json_types(
        {
            "group": group,
            "minimum": fit.minimum,
            "confidence": fit.confidence,
            "budgets": fit.minima.to_dicts(),
            "laws": laws,
            "left_out": fit.left_out,
        }
    )


def fit_loss_law(
    table: pl.DataFrame, options: LossOptions, output: Path | None, as_json: bool
) -> int:
    """Chinchilla's law of final losses, printed and written.

    Args:
        table: n_params, tokens and loss.

    Returns:
        The exit code: that of a failed fit where it did not converge.

    Raises:
        FitError: as `fit_chinchilla`.
    """
    from megascale.laws.loss import fit_chinchilla
    from megascale.verbs.fit_points import write_result

    fit = fit_chinchilla(
        table,
        drop_highest=options.drop_highest,
        objective=options.objective,
        delta=options.delta,
        bootstrap="pairs" if options.replicates else None,
        replicates=max(options.replicates, 1),
        confidence=options.confidence,
        seed=options.seed,
    )
    if output is not None:
        write_result(fit.result, output)
    typer.echo(fit.result.to_json(indent=2) if as_json else fit.result.summary())
    return EXIT_DONE if bool(fit.result.converged.all()) else EXIT_FIT
