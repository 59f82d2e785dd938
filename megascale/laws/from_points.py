"""From (S, E) points, or best batches and rates, to a law file with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from megascale.errors import FitError
from megascale.laws.audit import Audit, audit_batch_law, audit_rate_law, audit_table
from megascale.laws.batch_law import NKind, batch_law_file, plain
from megascale.laws.batch_size import OptimalBatches, optimal_batches
from megascale.laws.lawfile import Input, LawFile, Range
from megascale.laws.learning_rate import SearchFactor
from megascale.laws.power import PowerLaw
from megascale.laws.select import Selection, select
from megascale.laws.tokens_steps import LAWS, TokensStepsFits, enough_points, fit_tokens_steps

BATCH_LAWS = tuple(law for law in LAWS if law != "classic")
AUTO = "auto"


@dataclass(frozen=True)
class Naming:
    """What a law file says about itself besides numbers.

    Attributes:
        name: of the law.
        n_kind: which parameters the points' N counts.
        inputs: files the points come from.
        source: the study they come from.
    """

    name: str
    n_kind: NKind = "non_embedding"
    inputs: Sequence[Input] = ()
    source: str = ""


@dataclass(frozen=True)
class BatchLaw:
    """A law of the best batch with everything it rests on."""

    file: LawFile
    fits: TokensStepsFits
    optimal: OptimalBatches
    selection: Selection
    audits: list[Audit]


def batch_law_from_points(
    points: pl.DataFrame,
    law: str,
    naming: Naming,
    *,
    form: Literal["power", "loglog_table"] = "power",
    replicates: int = 200,
    confidence: float = 0.9,
    seed: int = 0,
    evidence: dict[str, Any] | None = None,
) -> BatchLaw:
    """Fit, compare, audit and write down the law of the best batch.

    Rivals are compared on the targets that all of them can be fitted to; a rival that could take
    fewer than half of them is left out.

    Args:
        points: as `tokens_steps.sort_points` takes them.
        law: one of `BATCH_LAWS`, or "auto" for the one of lowest pooled AICc among them.
        naming: of the file.
        form: of the file, see `batch_law.batch_law_file`.
        replicates, confidence, seed: of the bootstrap.
        evidence: added to the file's diagnostics.

    Raises:
        FitError: an unknown law, or too few batches or targets.
    """
    if law not in (AUTO, *BATCH_LAWS):
        raise FitError.of("law", law, "gives no best batch", [AUTO, *BATCH_LAWS])
    able = [known for known in LAWS if len(enough_points(points, known))]
    if (law not in able and law != AUTO) or not set(able) & set(BATCH_LAWS):
        raise FitError.of(
            "points", len(points), "no target loss is reached by as many batches as parameters"
        )
    selection = select(points, able)
    if law == AUTO:
        law = next(verdict.law for verdict in selection.verdicts if verdict.law in BATCH_LAWS)
    fits = fit_tokens_steps(enough_points(points, law), law)
    optimal = optimal_batches(fits, replicates=replicates, confidence=confidence, seed=seed)
    audits = audit_batch_law(fits, optimal)
    file = batch_law_file(
        fits,
        optimal,
        name=naming.name,
        form=form,
        n_kind=naming.n_kind,
        evidence=_comparison(selection, law)
        | {"audit": audit_table(audits).to_dicts()}
        | (evidence or {}),
        inputs=naming.inputs,
        source=naming.source,
    )
    return BatchLaw(file, fits, optimal, selection, audits)


def _comparison(selection: Selection, law: str) -> dict[str, Any]:
    own = next(verdict for verdict in selection.verdicts if verdict.law == law)
    return {
        "held_out_error": own.held_out,
        "aicc": {verdict.law: verdict.pooled_aicc for verdict in selection.verdicts},
        "rivals": selection.table().to_dicts(),
        "classic_refuted": [
            {"n_params": n, "target_loss": loss} for n, loss in selection.classic_refuted
        ],
    }


@dataclass(frozen=True)
class RateLaw:
    """A law of the peak learning rate with everything it rests on."""

    file: LawFile
    found: SearchFactor
    audits: list[Audit]


def rate_law_from_optima(
    found: SearchFactor,
    naming: Naming,
    *,
    confidence: float = 0.9,
    evidence: dict[str, Any] | None = None,
) -> RateLaw:
    """Audit a learning-rate law and write it down; D is the budget of runs tuned to it."""
    audits = audit_rate_law(found.optima)
    file = power_law_file(
        found.law,
        "peak_lr",
        naming,
        d_kind="horizon",
        confidence=confidence,
        evidence={
            "law": "search_factor",
            "audit": audit_table(audits).to_dicts(),
            "optima": found.optima.to_dicts(),
        }
        | (evidence or {}),
    )
    return RateLaw(file, found, audits)


def power_law_file(
    law: PowerLaw,
    output: Literal["batch_tokens", "peak_lr"],
    naming: Naming,
    *,
    d_kind: Literal["consumed", "horizon"],
    confidence: float = 0.9,
    evidence: dict[str, Any] | None = None,
) -> LawFile:
    """A power law of N and D as a law file, with its covariance."""
    diagnostics = {
        "rms": law.rms,
        "r_squared": law.r_squared,
        "points": law.points,
        "confidence": confidence,
        "covariance": {
            "parameters": ["log_coef", "a", "b"],
            "matrix": law.covariance.tolist(),
        },
    }
    return LawFile(
        schema="megascale.law/1",
        name=naming.name,
        version="1",
        form="power",
        output=output,
        parameters=law.parameters("tokens" if output == "batch_tokens" else "", confidence),
        n_kind=naming.n_kind,
        d_kind=d_kind,
        range=Range(n=law.n_range, d=law.d_range),
        diagnostics=plain(diagnostics | (evidence or {})),
        inputs=list(naming.inputs),
        source=naming.source,
    )
