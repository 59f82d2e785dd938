"""Best batches written as a law file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from megascale.errors import FitError
from megascale.formats.law_file import (
    TOKENS_STEPS_PARAMETERS,
    Input,
    LawFile,
    Range,
    Table,
    TokensSteps,
)
from megascale.laws.batch.optimum import OptimalBatches, fit_batch_power
from megascale.laws.batch.tokens_steps import TokensStepsFits
from megascale.laws.law_files import NKind, json_types


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

    Raises:
        FitError: too few usable targets, or a table of several model sizes or learning rates.
    """
    used = optimal.table.filter(pl.col("used"))
    settings = used.select("n_params", "lr").unique()
    diagnostics: dict[str, Any] = {
        "law": fits.law,
        "rms": _pooled_rms(fits),
        "weak": sorted({name for g in range(len(fits.groups)) for name in fits.result.weak(g)}),
        "targets": optimal.table.to_dicts(),
        "confidence": optimal.confidence,
        "bootstrap": "parametric by run",
    }
    body: dict[str, Any] = {}
    if form == "power":
        power = fit_batch_power(optimal)
        body["parameters"] = power.law.parameters("tokens", optimal.confidence)
        diagnostics["covariance"] = {
            "parameters": ["log_coef", "a", "b"],
            "matrix": power.law.covariance.tolist(),
        }
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
        body["table"] = _table(optimal)
    sizes = used["n_params"].drop_nulls()
    return LawFile(
        schema="megascale.law/1",
        name=name,
        version="1",
        form=form,
        output="batch_tokens",
        n_kind=n_kind,
        d_kind="consumed",
        range=Range(
            n=(_number(sizes.min()), _number(sizes.max())) if len(sizes) == len(used) else None,
            d=(_number(used["tokens"].min()), _number(used["tokens"].max())),
        ),
        tokens_steps=_family(fits, optimal) if len(settings) == 1 else None,
        diagnostics=json_types(diagnostics | (evidence or {})),
        inputs=list(inputs),
        source=source,
        **body,
    )


def _pooled_rms(fits: TokensStepsFits) -> float:
    return float(np.sqrt(np.nanmean(fits.log_residuals() ** 2)))


def _table(optimal: OptimalBatches) -> Table:
    """Knots by rising tokens; a target whose tokens do not exceed the last one's is passed over."""
    rows = optimal.table.filter(pl.col("used")).sort("target_loss", descending=True).to_dicts()
    if len(rows) < 2:
        raise FitError.of("targets with a best batch", len(rows), "a table needs 2")
    knots: list[dict[str, Any]] = []
    for row in rows:
        if not knots or row["tokens"] > knots[-1]["tokens"]:
            knots.append(row)
    return Table(
        d=[row["tokens"] for row in knots],
        value=[row["batch_tokens"] for row in knots],
        low=[row["low"] for row in knots],
        high=[row["high"] for row in knots],
    )


def _family(fits: TokensStepsFits, optimal: OptimalBatches) -> TokensSteps | None:
    """The converged fits as the law file's family, where there are two targets or more."""
    keep = [g for g in range(len(fits.groups)) if fits.result.solved[g] and optimal.used[g]]
    if len(keep) < 2:
        return None
    return TokensSteps.model_validate(
        {
            "form": fits.law,
            "target_loss": [fits.groups[g].target_loss for g in keep],
            "parameters": {
                name: [float(fits.result[name][g]) for g in keep]
                for name in TOKENS_STEPS_PARAMETERS[fits.law]
            },
        }
    )


def _number(value: Any) -> float:
    return float(value)
