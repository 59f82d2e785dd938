"""Best batches written as a law file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import polars as pl

from megascale.errors import FitError
from megascale.formats.law_conditions import Conditions
from megascale.formats.law_file import (
    TOKENS_STEPS_PARAMETERS,
    Input,
    LawFile,
)
from megascale.laws.batch.batch_power import fit_batch_power
from megascale.laws.batch.optimum import OptimalBatches
from megascale.laws.batch.tokens_steps import TokensStepsFits
from megascale.laws.law_files import Naming, NKind, new_law_file, power_fields


def batch_law_file(
    fits: TokensStepsFits,
    optimal: OptimalBatches,
    *,
    name: str,
    form: Literal["power", "loglog_table"] = "power",
    n_kind: NKind = "non_embedding",
    evidence: dict[str, Any] | None = None,
    inputs: Sequence[Input] = (),
    source: str = "",
    banded: bool = True,
) -> LawFile:
    """B_opt(D) as a law file of consumed tokens.

    Args:
        fits: the laws of tokens and steps, kept in the file where they are of one setting.
        optimal: best batches of the same fits.
        name: of the law.
        form: `power`, or `loglog_table` with the targets' own best batches as knots.
        n_kind: which parameters the points' N counts.
        evidence: added to the file's diagnostics.
        inputs: files the points come from.
        source: study the points come from.
        banded: whether the law has its band and its parameters their intervals.

    Raises:
        FitError: too few usable targets, a table of several model sizes or learning rates, or a
            number that is not finite.
    """
    used = optimal.table.filter(pl.col("used"))
    settings = used.select("n_params", "lr").unique()
    diagnostics: dict[str, Any] = {
        "law": fits.law,
        "rms": _pooled_rms(fits),
        "weak": sorted({name for g in range(len(fits.groups)) for name in fits.result.weak(g)}),
        "targets": optimal.table.to_dicts(),
        "bootstrap": "parametric, errors of whole runs",
        "rival_weights": {law: weight for law, weight, *_ in optimal.rivals},
    }
    if form == "power":
        power = fit_batch_power(optimal)
        law = power.law
        if not banded:
            law = replace(law, covariance=np.full_like(law.covariance, np.nan))
        body = power_fields(law, "tokens", optimal.confidence)
        diagnostics["power"] = {
            "rms": power.law.rms,
            "birge": power.birge,
            "points": power.law.points,
        }
    else:
        if len(settings) != 1:
            raise FitError.of(
                "form", form, f"a table is of one N and learning rate, not {len(settings)}", "power"
            )
        sizes = used["n_params"].drop_nulls()
        body = {
            "form": form,
            "table": _table(optimal),
            "confidence": optimal.confidence,
            "degrees_of_freedom": float(np.median(optimal.freedom[optimal.used])),
            "range": {
                "n": (_number(sizes.min()), _number(sizes.max()))
                if len(sizes) == len(used)
                else None,
                "d": (_number(used["tokens"].min()), _number(used["tokens"].max())),
            },
        }
    return new_law_file(
        Naming(name, n_kind, inputs, source),
        output="batch_tokens",
        d_kind="consumed",
        tokens_steps=_family(fits, optimal) if len(settings) == 1 else None,
        diagnostics=diagnostics | (evidence or {}),
        conditions=_conditions(used, evidence or {}),
        **body,
    )


def _conditions(used: pl.DataFrame, evidence: dict[str, Any]) -> Conditions:
    """The learning rates of the settings, and its schedule where the records were chosen by it."""
    rates = used["lr"].drop_nulls()
    known = bool(len(rates)) and len(rates) == len(used)
    return Conditions(
        peak_lr=(_number(rates.min()), _number(rates.max())) if known else None,
        lr_schedule="constant" if known and evidence.get("phase") == "stable" else "",
    )


def _pooled_rms(fits: TokensStepsFits) -> float:
    return float(np.sqrt(np.nanmean(fits.log_residuals() ** 2)))


def _table(optimal: OptimalBatches) -> dict[str, Any]:
    """Knots by rising tokens; a target whose tokens do not exceed the last one's is passed over."""
    rows = optimal.table.filter(pl.col("used")).sort("target_loss", descending=True).to_dicts()
    if len(rows) < 2:
        raise FitError.of("targets with a best batch", len(rows), "a table needs 2")
    knots: list[dict[str, Any]] = []
    for row in rows:
        if not knots or row["tokens"] > knots[-1]["tokens"]:
            knots.append(row)
    return {
        "d": [row["tokens"] for row in knots],
        "value": [row["batch_tokens"] for row in knots],
        **_limits(knots),
    }


def _limits(knots: list[dict[str, Any]]) -> dict[str, list[float]]:
    """low and high of the knots, where all have both; the value between them by the format."""
    if any(row["low"] is None or row["high"] is None for row in knots):
        return {}
    return {
        "low": [min(row["low"], row["batch_tokens"]) for row in knots],
        "high": [max(row["high"], row["batch_tokens"]) for row in knots],
    }


def _family(fits: TokensStepsFits, optimal: OptimalBatches) -> dict[str, Any] | None:
    """The converged fits as the law file's family, where there are two targets or more."""
    keep = [g for g in range(len(fits.groups)) if fits.result.solved[g] and optimal.used[g]]
    if len(keep) < 2:
        return None
    return {
        "form": fits.law,
        "target_loss": [fits.groups[g].target_loss for g in keep],
        "parameters": {
            name: [float(fits.result[name][g]) for g in keep]
            for name in TOKENS_STEPS_PARAMETERS[fits.law]
        },
    }


def _number(value: Any) -> float:
    return float(value)
