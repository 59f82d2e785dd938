"""Extrapolation audits of the law of the best batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from megascale.errors import FitError
from megascale.laws.audit import Audit, audited, holdouts
from megascale.laws.batch.batch_power import fit_batch_power
from megascale.laws.batch.optimum import OptimalBatches
from megascale.laws.batch.tokens_steps import TokensStepsFits


def audit_batch_law(fits: TokensStepsFits, optimal: OptimalBatches) -> list[Audit]:
    """Hold out best batches and predict them by the power law of the others.

    The price of a wrong batch is read off the held-out target's own E(S).
    """
    table = optimal.table
    audits = []
    for question, held in holdouts(table, optimal.used, "target_loss").items():
        kept = optimal.used & ~held
        reduced = replace(optimal, table=table.with_columns(pl.Series("used", kept)))
        try:
            law = fit_batch_power(reduced).law
        except FitError as error:
            audits.append(Audit(question, int(kept.sum()), int(held.sum()), note=str(error)))
            continue
        rows = np.flatnonzero(held)
        tokens = table["tokens"].to_numpy()[rows]
        observed = table["batch_tokens"].to_numpy()[rows]
        n = table["n_params"].to_numpy()[rows] if law.with_n else None
        predicted = law.at(n, tokens)
        needed = np.array([fits.tokens_at([b])[g, 0] for g, b in zip(rows, predicted, strict=True)])
        cost = needed / tokens - 1
        audits.append(
            audited(question, table, kept, rows, law, n, tokens, observed, cost, "share of tokens")
        )
    return audits
