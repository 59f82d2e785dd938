"""From (S, E) points to a law file of the best batch with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from megascale.errors import FitError
from megascale.formats.law_file import LawFile
from megascale.laws.audit import Audit, audit_table
from megascale.laws.batch.audit import audit_batch_law
from megascale.laws.batch.law_file import batch_law_file
from megascale.laws.batch.optimum import OptimalBatches, optimal_batches
from megascale.laws.batch.rivals import rivals_of
from megascale.laws.batch.select import Selection, select
from megascale.laws.batch.tokens_steps import (
    LAW_PARAMETERS,
    LAWS,
    SETTING,
    TokensStepsFits,
    enough_points,
    fit_tokens_steps,
    sort_points,
)
from megascale.laws.law_files import Naming

BATCH_LAWS = tuple(law for law in LAWS if law != "classic")
AUTO = "auto"
SURE_BATCHES = {"wsd": 12, "two_power": 6, "noise_floor": 6}
"""Batch sizes below which a law's best batch is warned of."""
CLEAR_AICC = 10.0
CLEAR_HELD_OUT = 1.5
"""A rival is clearly better by that much AICc, or by errors smaller by that factor."""


@dataclass(frozen=True)
class BatchLaw:
    """A law of the best batch with everything it rests on; `warnings` are those of `doubts`."""

    file: LawFile
    fits: TokensStepsFits
    optimal: OptimalBatches
    selection: Selection
    audits: list[Audit]
    warnings: list[str]


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
        raise _too_few_batches(points, law)
    selection = select(points, able)
    if law == AUTO:
        law = next(verdict.law for verdict in selection.verdicts if verdict.law in BATCH_LAWS)
    fits = fit_tokens_steps(enough_points(points, law), law)
    optimal = optimal_batches(
        fits,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
        rivals=rivals_of(law, selection),
    )
    audits = audit_batch_law(fits, optimal)
    warnings = doubts(selection, law, most_batches(fits.points))
    file = batch_law_file(
        fits,
        optimal,
        name=naming.name,
        form=form,
        n_kind=naming.n_kind,
        evidence=_comparison(selection, law)
        | {"audit": audit_table(audits).to_dicts(), "warnings": warnings}
        | (evidence or {}),
        inputs=naming.inputs,
        source=naming.source,
    )
    return BatchLaw(file, fits, optimal, selection, audits, warnings)


def _too_few_batches(points: pl.DataFrame, law: str) -> FitError:
    """What the laws need at a target loss, and what the points have."""
    most = most_batches(points)
    needs = {known: LAW_PARAMETERS[known] for known in BATCH_LAWS}
    least = needs[law] if law != AUTO else min(needs.values())
    said = ", ".join(f"{known} {count}" for known, count in needs.items())
    rule = f"no target loss is passed by {least} batch sizes, and the laws need: {said}"
    nearest = [f"runs of {least - most} more batch sizes, or longer ones"]
    able = [known for known, count in needs.items() if count <= most]
    if able:
        nearest.insert(0, f"--law {' or '.join(able)}")
    return FitError.of("batch sizes at a target loss", f"{most} at most", rule, nearest)


def most_batches(points: pl.DataFrame) -> int:
    """Distinct batch sizes at the target loss that most of them pass."""
    points = sort_points(points)
    sizes = points.group_by(*SETTING, "target_loss").agg(pl.col("batch_tokens").n_unique())
    return max(sizes["batch_tokens"].to_list(), default=0)


def doubts(selection: Selection, law: str, batches: int) -> list[str]:
    """What speaks against a law of the best batch, in words.

    Args:
        selection: of all laws on the same points.
        law: the one that was taken.
        batches: distinct batch sizes at the target loss that most of them pass.
    """
    verdicts = {verdict.law: verdict for verdict in selection.verdicts}
    own = verdicts[law]
    out = []
    if batches < SURE_BATCHES[law]:
        out.append(
            f"{law} has {LAW_PARAMETERS[law]} parameters, and at most {batches} batch sizes pass "
            f"one target loss; with fewer than {SURE_BATCHES[law]} its best batch can be far off, "
            "outside its own bands"
        )
    best = selection.verdicts[0]
    if best.law != law and own.pooled_aicc - best.pooled_aicc > CLEAR_AICC:
        what = "" if best.law in BATCH_LAWS else ", which has no best batch,"
        shown = f"{own.pooled_aicc:.0f}"
        if not np.isfinite(own.pooled_aicc):
            shown = "infinity, since there are hardly more points than parameters"
        out.append(
            f"{best.law}{what} describes the same points better: pooled AICc "
            f"{best.pooled_aicc:.0f} against {shown}"
        )
    rivals = [verdict for verdict in selection.verdicts if verdict.law in BATCH_LAWS]
    ahead = min(rivals, key=lambda verdict: np.nan_to_num(verdict.held_out, nan=np.inf))
    if ahead.law != law and own.held_out > CLEAR_HELD_OUT * ahead.held_out:
        out.append(
            f"{ahead.law} predicts batches it has not seen better: off by "
            f"{100 * ahead.held_out:.2g} % of the tokens against {100 * own.held_out:.2g} %"
        )
    return out


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
