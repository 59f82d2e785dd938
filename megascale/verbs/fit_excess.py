"""What `megascale fit --overhead` prints: excess-data batches by law, and their law of N or D."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from megascale.errors import EXIT_DONE, EXIT_FIT, FitError
from megascale.formats.csv_output import write_csv
from megascale.verbs.law_output import write
from megascale.verbs.tables import text_table

if TYPE_CHECKING:
    import polars as pl

    from megascale.laws.batch.overhead import ExcessBatches
    from megascale.laws.law_files import Naming
    from megascale.laws.power import PowerLaw

ALL = "all"
MILLION = 1e6


@dataclass(frozen=True)
class ExcessOptions:
    """How excess-data batches are found.

    Attributes:
        overhead: share of data above the reference's.
        reference: batch in tokens that data is compared with; None for each law's best.
        by: what the law of the batch is of: "n_params", "tokens", or None for N where every N has
            one target loss, else tokens.
        seq_length: tokens of a sequence, to show batches in sequences too.
        replicates, confidence, seed: of the intervals.
    """

    overhead: float = 0.2
    reference: float | None = None
    by: Literal["n_params", "tokens"] | None = None
    seq_length: int | None = None
    replicates: int = 200
    confidence: float = 0.9
    seed: int = 0


def fit_excess(
    points: pl.DataFrame,
    law: str,
    options: ExcessOptions,
    naming: Naming,
    output: Path | None,
    as_json: bool,
) -> int:
    """Find excess-data batches, print them with their law, and write them.

    Args:
        points: target_loss, batch_tokens and tokens, with n_params, lr and run where known.
        law: of tokens and steps, "interpolation", or "all".

    Returns:
        The exit code: that of a failed fit where no law gives a batch for every group.

    Raises:
        FitError: as `excess_batches`; or a law file is asked for and there is no one law.
    """
    from megascale.laws.batch.overhead import EXCESS_LAWS, excess_batches

    laws = list(EXCESS_LAWS) if law == ALL else [law]
    found: list[ExcessBatches] = []
    failed: dict[str, str] = {}
    for each in laws:
        try:
            found.append(
                excess_batches(
                    points,
                    each,
                    overhead=options.overhead,
                    reference=options.reference,
                    replicates=options.replicates,
                    confidence=options.confidence,
                    seed=options.seed,
                )
            )
        except FitError as error:
            if len(laws) == 1:
                raise
            failed[each] = str(error)
    powers = {each.law: _power(each, options.by) for each in found}
    if as_json:
        typer.echo(json.dumps(_plain(found, powers, failed, options), indent=2))
    else:
        typer.echo("\n".join(summary(found, powers, failed, options)))
    if output is not None:
        _write(found, powers, options, naming, output)
    whole = [bool(each.table["used"].all()) for each in found]
    return EXIT_DONE if any(whole) else EXIT_FIT


Power = tuple[str, "PowerLaw | None", str]
"""What a law is of, the law, and why there is none."""


def _power(found: ExcessBatches, by: Literal["n_params", "tokens"] | None) -> Power:
    from megascale.laws.batch.overhead import excess_law

    sizes = found.table["n_params"].drop_nulls().n_unique()
    one_each = 1 < sizes == len(found.table)
    chosen: Literal["n_params", "tokens"] = by or ("n_params" if one_each else "tokens")
    try:
        return chosen, excess_law(found, chosen), ""
    except FitError as error:
        return chosen, None, str(error)


def summary(
    found: Sequence[ExcessBatches],
    powers: dict[str, Power],
    failed: dict[str, str],
    options: ExcessOptions,
) -> list[str]:
    """What was found, to read."""
    share = f"{100 * options.overhead:g} %"
    against = "each law's best batch"
    if options.reference is not None:
        against = f"a batch of {options.reference:,.0f} tokens"
    lines = [f"batch at which the data to the loss is {share} above that of {against}"]
    for each in found:
        lines += ["", f"{each.law} (tokens; {100 * each.confidence:g} % intervals):"]
        lines.append(text_table(_shown(each, options.seq_length)))
        of, power, why = powers[each.law]
        lines.append("  " + (why if power is None else law_words(power, of, options, each)))
    lines += ["", *(f"{law}: {why}" for law, why in failed.items())] if failed else []
    return lines


def law_words(power: PowerLaw, of: str, options: ExcessOptions, found: ExcessBatches) -> str:
    """The law with its intervals; also in sequences, where their length is known."""
    name = "N" if of == "n_params" else "D"
    limits = power.parameters("tokens", found.confidence)["b"]
    text = f"B = {power.coef:.4g} {name}^{power.b:.4f} tokens"
    if options.seq_length is not None:
        scaled = power.coef * MILLION**power.b / options.seq_length
        text += (
            f" = {scaled:.4g} ({name} in millions)^{power.b:.4f} sequences of {options.seq_length}"
        )
    low, high = (float("nan") if end is None else end for end in (limits.low, limits.high))
    return f"{text}; exponent [{low:.3f}, {high:.3f}], {power.points} groups"


def _shown(found: ExcessBatches, seq_length: int | None) -> Any:
    """The columns that people read, without those that are empty."""
    import polars as pl

    columns = [
        pl.col("n_params").alias("N"),
        pl.col("lr"),
        pl.col("target_loss").alias("loss"),
        pl.col("reference_batch").alias("reference"),
        pl.col("reference_tokens").alias("its tokens"),
        pl.col("batch_tokens").alias("batch"),
        pl.col("low"),
        pl.col("high"),
    ]
    if seq_length is not None:
        columns.insert(6, (pl.col("batch_tokens") / seq_length).alias("sequences"))
    table = found.table.select(*columns, "status", pl.col("reason").alias("not used because"))
    empty = [
        name
        for name, kind in table.schema.items()
        if table[name].null_count() == len(table)
        or (kind == pl.String and (table[name] == "").all())
    ]
    return table.drop(empty)


def _plain(
    found: Sequence[ExcessBatches],
    powers: dict[str, Power],
    failed: dict[str, str],
    options: ExcessOptions,
) -> dict[str, Any]:
    """Everything as JSON holds it."""
    from megascale.laws.law_files import json_types

    laws = []
    for each in found:
        of, power, why = powers[each.law]
        row: dict[str, Any] = {"law": each.law, "groups": each.table.to_dicts(), "of": of}
        if power is None:
            row["reason"] = why
        else:
            limits = power.parameters("tokens", each.confidence)
            row["power"] = {
                key: {
                    "value": limits[ours].value,
                    "low": limits[ours].low,
                    "high": limits[ours].high,
                }
                for key, ours in (("coefficient", "coef"), ("exponent", "b"))
            }
        laws.append(row)
    return json_types(
        {
            "overhead": options.overhead,
            "reference_batch": options.reference,
            "confidence": options.confidence,
            "laws": laws,
            "failed": failed,
        }
    )


def _write(
    found: Sequence[ExcessBatches],
    powers: dict[str, Power],
    options: ExcessOptions,
    naming: Naming,
    output: Path,
) -> None:
    """The table as .csv or .parquet, or the one law as a law file of the critical batch."""
    import polars as pl

    from megascale.laws.law_files import power_law_file

    if output.suffix != ".json":
        tables = [each.table.with_columns(pl.lit(each.law).alias("law")) for each in found]
        whole = pl.concat(tables, how="diagonal_relaxed")
        write_csv(whole, output) if output.suffix == ".csv" else whole.write_parquet(output)
        return
    if len(found) != 1:
        rule = "a law file holds one law: name it with --law"
        raise FitError.of("--output", str(output), rule, "--law two_power")
    of, power, why = powers[found[0].law]
    if power is None:
        raise FitError(why)
    used = found[0].table.filter(pl.col("used"))
    spent = used["reference_tokens"].to_numpy()
    if of == "n_params":
        order = [0, 2, 1]
        power = replace(
            power,
            a=power.b,
            b=0.0,
            with_n=True,
            covariance=power.covariance[order][:, order],
            n_range=power.d_range,
            d_range=(float(spent.min()), float(spent.max())),
        )
    evidence = {
        "law": found[0].law,
        "regime": "critical batch",
        "overhead": options.overhead,
        "reference_batch": options.reference,
        "groups": found[0].table.to_dicts(),
    }
    file = power_law_file(
        power,
        "batch_tokens",
        naming,
        d_kind="consumed",
        confidence=found[0].confidence,
        evidence=evidence,
    )
    write(file, output)
